"""What the C core keeps over a power cut, and a cut in the middle of keeping it."""

from __future__ import annotations

import pytest

from protos.bridge.commands import Command, calibration_command, command, uid_command
from protos.bridge.hello import Hello
from protos.energy.ina219 import Calibration

OLD, NEW = Calibration(1, 10_000, -1, 2, 3), Calibration(2, 20_000, 4, -5, 6)


def hello_of(core) -> Hello:
    (hello,) = [m for m in core.ask(command(Command.GET_HELLO)) if isinstance(m, Hello)]
    return hello


def writes_of_one_record(core) -> int:
    before = core.c.native_eeprom_writes()
    core.ask(calibration_command(0, OLD), 0.5)
    return core.c.native_eeprom_writes() - before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.8, 0.98, 0.999])
def test_a_cut_while_writing_leaves_the_record_before(core, share):
    core.run(0.3)
    writes = writes_of_one_record(core)
    core.c.native_cut_power_after(int(writes * share))
    core.ask(calibration_command(0, NEW), 0.5)
    assert hello_of(core).sensors[0].calibration == NEW
    core.power_cycle()
    assert hello_of(core).sensors[0].calibration == OLD


def test_the_newest_record_counts_however_often_it_was_written(core):
    core.run(0.3)
    for number in range(7):
        core.ask(calibration_command(0, Calibration(number, 1000 + number)), 0.4)
        core.power_cycle()
        assert hello_of(core).sensors[0].calibration == Calibration(number, 1000 + number)


def test_a_change_while_the_one_before_is_written_is_kept_whole(core):
    core.run(0.3)
    core.ask(uid_command(b"AAAAAAAA"), 0.0005)
    core.ask(uid_command(b"BBBBBBBB"), 0.0005)
    core.ask(calibration_command(0, NEW), 0.5)
    core.power_cycle()
    hello = hello_of(core)
    assert (hello.uid, hello.sensors[0].calibration) == (b"BBBBBBBB", NEW)


def test_each_power_up_has_a_boot_number_of_its_own(core):
    core.run(0.3)
    boots = {hello_of(core).boot}
    for _ in range(40):
        core.power_cycle()
        boots.add(hello_of(core).boot)
    assert len(boots) == 41


def test_writing_goes_on_beside_the_samples(core):
    core.run(0.5)
    core.ask(calibration_command(0, NEW), 0.5)
    messages = core.run(0.5)
    assert hello_of(core).sensors[0].state == 0
    assert sum(len(m.dt_us) for m in messages if getattr(m, "dt_us", None) is not None) > 150
