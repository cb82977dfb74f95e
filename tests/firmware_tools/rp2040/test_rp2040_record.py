"""What the RP2040 keeps in its flash: over power cuts, also in the middle of a write."""

from __future__ import annotations

from protos.bridge.commands import Command, calibration_command, command, uid_command
from protos.bridge.hello import Hello
from protos.energy.ina219 import Calibration

KEPT = Calibration(id=77, shunt_uohm=99_123, offset_nv=-1500, gain_ppm=321, day=20_000)


def greeting(pico, seconds=0.5):
    return next(message for message in pico.run(seconds) if isinstance(message, Hello))


def until_busy(pico):
    """The write begins 20 ms after the last change; its first page takes 0.7 ms."""
    for _ in range(500):
        if pico.facts()["busy"]:
            return
        pico.run(0.0002)
    raise AssertionError("nothing was written")


def test_calibration_uid_and_range_outlast_a_power_cut(pico):
    pico.run(0.3)
    pico.ask(calibration_command(0, KEPT), 0.3)
    pico.ask(uid_command(b"bench-07"), 0.3)
    pico.ask(command(Command.SET_RANGE, 0, 3), 0.3)
    pico.tell("power")
    hello = greeting(pico)
    assert hello.sensors[0].calibration == KEPT
    assert hello.uid == b"bench-07"
    assert hello.sensors[0].config >> 11 & 3 == 3
    assert pico.facts()["refused"] == 0  # no command while the flash was busy


def test_each_power_up_has_its_own_number_and_few_erasures(pico):
    boots = [greeting(pico).boot]
    for _ in range(23):
        pico.tell("power")
        boots.append(greeting(pico).boot)
    assert len(set(boots)) == 24
    facts = pico.facts()
    assert facts["erased"] == 3
    assert facts["programmed"] == 2 * 24


def test_it_measures_while_the_flash_is_erased(pico):
    pico.run(0.3)
    for number in range(9):  # at least one of them begins a sector
        pico.ask(uid_command(b"bench-%02d" % number), 0.3)
    stats = pico.stats()
    assert pico.facts()["erased"] >= 2
    assert stats.tx_dropped == stats.i2c_errors == stats.rx_errors == 0
    assert stats.time > 0.9 * stats.end - 300_000


def test_a_cut_in_the_middle_of_a_write_leaves_the_record_before(pico):
    pico.run(0.3)
    pico.ask(calibration_command(0, KEPT), 0.3)
    for number in range(6):  # the fourth finds its sector full and is cut while it erases the other
        pico.ask(uid_command(b"spoil-%02d" % number), 0.001)
        until_busy(pico)
        pico.tell("cut")
        pico.parser = type(pico.parser)()
        hello = greeting(pico)
        assert hello.sensors[0].calibration == KEPT
        assert not hello.uid.startswith(b"spoil")
    assert pico.facts()["erased"] >= 2
    pico.ask(uid_command(b"whole-01"), 0.3)
    pico.tell("power")
    hello = greeting(pico)
    assert (hello.uid, hello.sensors[0].calibration) == (b"whole-01", KEPT)
