"""The RP2040 image as a bridge: who it says it is, what it measures, what it obeys."""

from __future__ import annotations

import numpy as np
import pytest
from rp2040_rig import BUS, SHUNT, WATTS, joules

from firmware_tools.bridge.images.manifest import image_of
from protos.bridge.commands import BOOTLOADER_KEY, HANG_KEY, REBOOT_KEY, Command, command, sync_command
from protos.bridge.hello import Feature, Hello, ResetCause
from protos.bridge.messages import Ack, Marker, Samples, Stats, Status, SyncReply

ABSENT, FAILING = 1, 2


def of(kind, messages):
    return [message for message in messages if isinstance(message, kind)]


def test_hello_says_which_image_runs_on_which_board(pico):
    hello = of(Hello, pico.run(0.1))[0]
    image = image_of("rp2040")
    assert hello.board == 2
    assert hello.build.hex() == image.build_id
    assert hello.git.hex() == image.sources[:8]
    assert hello.uid == bytes(range(0xE0, 0xE8))  # of the flash
    assert hello.reset == ResetCause.POWER_ON
    wanted = Feature.MARKER | Feature.PERSISTENT | Feature.BOOTLOADER | Feature.CONFIG
    assert Feature(hello.features) & wanted == wanted
    assert [sensor.address for sensor in hello.sensors] == [0x40]
    assert hello.sensors[0].state == 0
    facts = pico.facts()
    assert (facts["clkSys"], facts["baud"]) == (48_000_000, 500_000)
    assert facts["warnings"] == []  # nothing was asked of a register that the simulator does not know


@pytest.mark.parametrize("profile", [1, 2, 3])
def test_the_joules_of_a_constant_load(pico, profile):
    pico.run(0.1)
    pico.ask(command(Command.SET_PROFILE, profile))
    before = pico.stats()
    messages = pico.run(3.0)
    after = pico.stats()
    measured_s = (after.time - before.time) * 1e-6
    assert joules(after) - joules(before) == pytest.approx(WATTS * measured_s, rel=1e-12)
    assert 0.9 < measured_s / ((after.end - before.end) * 1e-6) <= 1
    assert after.i2c_errors == after.restores == after.tx_dropped == 0
    batches = of(Samples, messages)
    assert {batch.profile for batch in batches} == {profile}
    assert np.all(np.concatenate([batch.shunt for batch in batches]) == SHUNT)
    assert np.all(np.concatenate([batch.bus for batch in batches]) >> 3 == BUS)
    assert np.all(np.diff([batch.seq for batch in batches]) == 1)


def test_the_sums_are_those_of_the_batches(pico):
    messages = pico.run(2.5)
    messages += pico.ask(command(Command.FLUSH, 0))
    stats = of(Stats, messages)[-1]
    batches = [batch for batch in of(Samples, messages) if batch.seq < stats.seq]
    assert sum(int(batch.dt_us.sum()) for batch in batches) == stats.time
    assert sum(len(batch.dt_us) for batch in batches) == stats.samples


def test_a_changing_load_is_seen(pico):
    pico.run(0.5)
    pico.tell("sensor", -100, 1000)
    messages = pico.run(0.5)
    assert of(Samples, messages)[-1].shunt[-1] == -100
    assert of(Samples, messages)[-1].bus[-1] >> 3 == 1000


def test_sync_stamps_the_first_byte_of_the_command(pico):
    pico.run(0.1)
    for nonce in range(20):
        began_us = pico.now_us
        reply = of(SyncReply, pico.ask(sync_command(nonce), 0.0137))[0]
        assert reply.nonce == nonce
        assert abs(reply.received - began_us) <= 5
        assert 0 < reply.sent - reply.received < 5000


@pytest.mark.parametrize(("profile", "status"), [(1, Status.DONE), (3, Status.DONE), (9, Status.BAD_VALUE)])
def test_set_profile(pico, profile, status):
    pico.run(0.1)
    messages = pico.ask(command(Command.SET_PROFILE, profile))
    assert of(Ack, messages)[0].status == status
    assert pico.hello().profile == (profile if status == Status.DONE else 2)


def test_a_sensor_that_goes_is_absent_and_is_found_again(pico):
    pico.run(0.5)
    pico.tell("sensor", "absent")
    assert of(Stats, pico.run(1.5))[-1].state == ABSENT
    assert of(Samples, pico.run(0.5)) == []
    pico.tell("sensor", "present")
    messages = pico.run(1.5)
    assert of(Stats, messages)[-1].state == 0
    assert len(of(Samples, messages)) > 3


def test_without_a_sensor_it_starts_and_says_so(pico):
    pico.tell("sensor", "absent")
    hello = of(Hello, pico.run(0.5))[0]
    assert [(sensor.address, sensor.state) for sensor in hello.sensors] == [(0x40, ABSENT)]


def test_a_stuck_bus_gets_nine_clocks_and_works_again(pico):
    pico.run(0.5)
    pico.tell("sensor", "stuck")
    messages = pico.run(1.5)
    assert pico.facts()["sclPulses"] == 9
    assert of(Stats, messages)[-1].i2c_errors == 1
    assert of(Stats, messages)[-1].last_error == 0xFD
    assert of(Stats, messages)[-1].state == 0


def test_marker_edges_are_stamped(pico):
    pico.run(0.2)
    expected = []
    for level in (1, 0, 1):
        expected.append((level, pico.now_us))
        pico.tell("marker", level)
        pico.run(0.0123)
    pico.run(0.1)
    edges = of(Marker, pico.heard)
    assert [(edge.level, edge.seq) for edge in edges] == [(1, 0), (0, 1), (1, 2)]
    assert all(abs(edge.tick - at_us) <= 5 for edge, (_, at_us) in zip(edges, expected, strict=True))


def test_an_edge_that_comes_back_at_once_is_missing_by_its_number(pico):
    pico.run(0.2)
    for level in (1, 0):
        pico.tell("marker", level)
    pico.run(0.01)
    pico.tell("marker", 1)
    pico.run(0.1)
    assert [(edge.level, edge.seq) for edge in of(Marker, pico.heard)] == [(1, 0), (1, 2)]


@pytest.mark.parametrize("key", [REBOOT_KEY, HANG_KEY])
def test_a_reset_that_leaves_the_supply_on_counts_boots(pico, key):
    first = of(Hello, pico.run(0.5))[0]
    again = of(Hello, pico.ask(command(Command.REBOOT, key), 1.0))[0]
    assert pico.facts()["boots"] == 2
    assert again.reset == ResetCause.WATCHDOG
    assert (again.boots, again.boot) == (2, (first.boot + 1) & 0xFFFF)


def test_it_can_be_sent_to_its_bootloader(pico):
    pico.run(0.5)
    assert pico.ask(command(Command.REBOOT, BOOTLOADER_KEY)) == []
    assert pico.facts()["bootloader"] == 1
    assert pico.facts()["boots"] == 1
