"""Each fault, against the committed firmware: what it does to the stream, and that the bridge comes back."""

from __future__ import annotations

import numpy as np
import pytest
from machine_host import samples

from firmware_tools.bridge.machine.driver import FAULTS, SensorSpec
from protos.bridge.commands import Command
from protos.bridge.hello import Hello
from protos.errors import UsageError

WORKING, ABSENT = 0, 1


def streams(host, sensor: int = 0, seconds: float = 0.5) -> bool:
    return bool(samples(host.run(seconds), sensor))


@pytest.mark.parametrize(
    ("fault", "count", "counter"),
    [("address-nack", 3, "nacks"), ("data-nack", 2, "nacks"), ("arbitration", 2, "arbitrations")],
)
def test_a_bus_error_costs_a_gap_and_is_counted(bridge, fault, count, counter):
    host = bridge()
    before = host.stats()
    host.machine.fault(fault, on=count)
    host.run(0.5)
    after = host.stats()
    assert host.machine.status()[counter] == count
    assert 0 < after.i2c_errors - before.i2c_errors <= count
    assert streams(host)
    assert host.stats().state == WORKING


def test_an_absent_sensor_is_reported_and_the_other_goes_on(bridge):
    host = bridge(SensorSpec("constant:2.5"), SensorSpec("constant:1", 0x41))
    host.machine.fault("absent", sensor=1)
    host.run(1.0)
    assert not streams(host, 1)
    assert streams(host, 0)
    assert host.stats(1).state == ABSENT
    host.machine.fault("absent", sensor=1, on=False)
    host.run(2.0)
    assert streams(host, 1)
    assert host.stats(1).state == WORKING


def test_without_a_sensor_it_boots_and_finds_one_that_comes(bridge):
    host = bridge(SensorSpec(absent=True))
    assert [(s.address, s.state) for s in host.hello().sensors] == [(0x40, ABSENT)]
    host.machine.fault("absent", on=False)
    host.run(2.0)
    assert streams(host)


def test_a_stuck_bus_is_freed_by_nine_clocks(bridge):
    host = bridge()
    before = host.machine.status()["scl_pulses"]
    host.machine.fault("sda-stuck")
    host.run(0.5)
    status = host.machine.status()
    assert status["stuck_starts"] >= 1
    assert status["scl_pulses"] - before >= 9
    assert streams(host)
    assert host.stats().i2c_errors >= 1


def test_a_bus_that_stays_stuck_stops_samples_only(bridge):
    host = bridge()
    host.machine.fault("sda-stuck", on=10**6)
    host.run(0.5)
    assert not streams(host)
    assert isinstance(host.hello(), Hello)
    host.machine.fault("sda-stuck", on=False)
    host.run(1.0)
    assert streams(host)


def test_a_sensor_that_lost_its_supply_is_configured_again(bridge):
    host = bridge()
    config = host.hello().sensors[0].config
    host.machine.fault("sensor-brown-out")
    assert host.machine.peek(0) == 0x399F
    host.run(2.5)
    assert host.stats().restores == 1
    assert host.machine.peek(0) & 0x3807 == config & 0x3807, "range and mode are back"


def test_flipped_bits_on_the_bus_reach_the_host_unseen(bridge):
    """I2C has no check: only what is implausible can be told."""
    host = bridge(SensorSpec("constant:2.5"))
    host.machine.fault("i2c-flip", on=0.02)
    batches = samples(host.run(3.0))
    assert host.machine.status()["i2c_flips"] > 10
    assert any((b.shunt != 1000).any() for b in batches)
    assert host.parser.drops.frames == 0


@pytest.mark.parametrize("fault", ["to-host-flip", "to-host-drop"])
def test_damage_on_the_line_is_caught_and_its_energy_is_in_the_sums(bridge, fault):
    host = bridge(SensorSpec("constant:2.5"))
    first = host.stats()
    host.machine.fault(fault, on=0.004)
    heard = samples(host.run(5.0))
    host.machine.fault(fault, on=0.0)
    drops = host.parser.drops
    assert drops.crc + drops.framing > 0
    last = host.stats()
    assert (last.seq - first.seq) % 2**16 > len(heard)
    span_s = (last.time - first.time) * 1e-6
    assert (last.energy - first.energy) * 1e-6 * 10e-6 * 4e-3 / 0.02 == pytest.approx(2.5 * span_s, rel=0.003)
    assert span_s == pytest.approx((last.end - first.end) * 1e-6, rel=0.01)


@pytest.mark.parametrize("fault", ["to-mcu-flip", "to-mcu-drop"])
def test_damaged_commands_are_not_obeyed(bridge, fault):
    host = bridge()
    host.machine.fault(fault, on=0.5)
    for _ in range(20):
        host.ask(Command.SET_PROFILE, 3, within_s=0.02)
    host.machine.fault(fault, on=0.0)
    host.machine.send(b"\x00")
    hello = host.hello()
    assert hello.profile == 2
    assert host.stats().rx_errors > 0


def test_a_reset_in_a_frame_costs_that_frame_only(bridge):
    host = bridge()
    for number in range(20):
        host.run(0.0831 + number * 0.00037)
        host.machine.reset("external")
        assert any(isinstance(m, Hello) for m in host.run(0.1))
    assert host.parser.drops.frames <= 20


def test_unknown_faults_are_refused_with_the_known_ones(bridge):
    host = bridge()
    with pytest.raises(UsageError, match="sda-stuck"):
        host.machine.fault("gremlins")
    with pytest.raises(UsageError):
        host.machine.fault("absent", sensor=1)
    for name in FAULTS:
        host.machine.fault(name, on=0)
    assert np.isfinite(host.machine.now_s)
