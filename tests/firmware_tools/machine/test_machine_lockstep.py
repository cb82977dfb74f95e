"""The committed firmware in lock-step: what it says is true, the same seed gives the same bytes."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from machine_host import Host, samples

from firmware_tools.bridge.machine.driver import SensorSpec
from protos.bridge.commands import HANG_KEY, Command, calibration_command, command, sync_command
from protos.bridge.framing import encode_frame
from protos.bridge.hello import Hello, ResetCause
from protos.bridge.messages import Ack, Marker, Status, SyncReply
from protos.energy.ina219 import Calibration, watts
from protos.errors import EdgejouleError, UsageError

SHUNT = Calibration(7, 20_000)


def test_it_boots_and_says_hello(bridge):
    host = bridge(SensorSpec("constant:2.5"), SensorSpec("constant:1", 0x44))
    hello = host.heard[0][1]
    assert isinstance(hello, Hello)
    assert [sensor.address for sensor in hello.sensors] == [0x40, 0x44]
    assert hello.reset == ResetCause.POWER_ON
    assert hello.boots == 1
    assert host.machine.status()["rx_overruns"] == 0


@pytest.mark.parametrize("profile", [1, 2, 3])
def test_a_constant_load_reads_as_itself(bridge, profile):
    host = bridge(SensorSpec("constant:2.5"))
    host.ask(Command.SET_PROFILE, profile)
    batches = samples(host.run(1.0))
    shunt, bus = (np.concatenate([getattr(b, name) for b in batches]) for name in ("shunt", "bus"))
    # 10 bits of bus voltage have steps of 16 mV, so 5 V reads as 4.992 or 5.008 V.
    assert watts(shunt, bus, SHUNT) == pytest.approx(np.full(len(shunt), 2.5), rel=0.002)


def test_energy_between_two_stats_is_the_loads(bridge):
    host = bridge(SensorSpec("square:0.4,1.9,0.037"))
    host.machine.send(encode_frame(calibration_command(0, SHUNT)))
    host.run(0.1)
    first = host.stats()
    host.run(4.0)
    last = host.stats()
    measured_j = (last.energy - first.energy) * 1e-6 * 10e-6 * 4e-3 / 0.02
    # STATS carries the tick at which its last sample ended; the tick is the machine's time, less the boot.
    begin_s = host.machine.now_s - 1e-6 * host.hello().tick
    true_j = host.machine.true_energy_j(*(begin_s + 1e-6 * tick for tick in (first.end, last.end)))
    assert measured_j == pytest.approx(true_j, rel=0.01)


def _digest(start, slices: int, **fields) -> tuple[str, int]:
    sensors = SensorSpec("square:0.4,1.9,0.001", noise_v=5e-6), SensorSpec("constant:1", 0x41)
    machine = start(*sensors, crystal_ppm=80.0, **fields)
    machine.send(encode_frame(command(Command.SET_PROFILE, 3)), at_s=0.33)
    machine.send(encode_frame(sync_command(9)), at_s=0.6001234)
    machine.marker(1, at_s=0.5)
    machine.fault("i2c-flip", on=0.001)
    machine.fault("to-host-drop", on=0.0005)
    chooser, data = random.Random(slices), b""
    while machine.now_s < 1.5:
        span_s = chooser.random() * 0.02 if slices else 1.5
        data += b"".join(chunk for _, chunk in machine.step_to(min(1.5, machine.now_s + span_s)))
    return hashlib.sha256(data).hexdigest(), len(data)


def test_one_seed_gives_the_same_bytes_in_whatever_steps_time_is_taken(start):
    first = _digest(start, 0, seed=5)
    assert first[1] > 3000
    assert _digest(start, 0, seed=5) == first
    assert _digest(start, 1, seed=5) == first
    assert _digest(start, 2, seed=5) == first
    assert _digest(start, 0, seed=6) != first


@pytest.mark.parametrize("crystal_ppm", [-2000.0, 0.0, 80.0])
def test_the_bridges_clock_is_as_wrong_as_its_crystal(bridge, crystal_ppm):
    host = bridge(crystal_ppm=crystal_ppm)
    received = []
    for nonce, at_s in enumerate((0.3, 5.3)):
        host.machine.send(encode_frame(sync_command(nonce)), at_s=at_s)
        host.run(at_s + 0.05 - host.machine.now_s)
        received.append(next(m.received for _, m in host.heard if isinstance(m, SyncReply) and m.nonce == nonce))
    ticks_per_s = (received[1] - received[0]) / 5.0
    # The stamp may be late by an interrupt that was being served: some 20 us in 5 s.
    assert ticks_per_s == pytest.approx(1e6 * (1 + crystal_ppm * 1e-6), abs=8)


def test_bytes_come_at_the_lines_rate(bridge):
    host = bridge()
    begin_s = host.machine.now_s
    chunks = []
    host.machine.send(encode_frame(command(Command.GET_HELLO)))
    for _ in range(100):
        chunks += host.machine.step(1e-3)
    at_s, data = max(chunks, key=lambda chunk: len(chunk[1]))
    # 500 kBaud, ten bits: 20 us a byte, there and back.
    assert at_s - begin_s >= 20e-6 * (len(data) + len(encode_frame(command(Command.GET_HELLO))))


def test_marker_edges_are_stamped_to_the_microsecond(bridge):
    host = bridge()
    origin_s = host.machine.now_s - 1e-6 * host.hello().tick
    begin_s = host.machine.now_s
    edges = [(1, begin_s + 0.01), (0, begin_s + 0.0101), (1, begin_s + 0.2345678), (0, begin_s + 0.3)]
    for level, at_s in edges:
        host.machine.marker(level, at_s=at_s)
    got = [m for m in host.run(0.5) if isinstance(m, Marker)]
    assert [m.level for m in got] == [level for level, _ in edges]
    gaps_us = np.diff([m.tick for m in got])
    assert gaps_us == pytest.approx(np.diff([at_s for _, at_s in edges]) * 1e6, abs=1.5)
    assert got[0].tick * 1e-6 == pytest.approx(edges[0][1] - origin_s, abs=2e-3)


def test_reset_causes_reach_the_firmware(bridge):
    host = bridge()
    for cause, expected in (("external", ResetCause.EXTERNAL), ("brown-out", ResetCause.BROWN_OUT)):
        host.machine.reset(cause)
        hello = next(m for m in host.run(0.3) if isinstance(m, Hello))
        assert hello.reset == expected
    assert hello.boots == 3, "SRAM survives both"
    host.machine.reset("power-on")
    hello = next(m for m in host.run(0.3) if isinstance(m, Hello))
    assert (hello.reset, hello.boots) == (ResetCause.POWER_ON, 1)
    with pytest.raises(UsageError):
        host.machine.reset("anger")


def test_a_hung_firmware_is_restarted_by_its_watchdog(bridge):
    host = bridge()
    begin_s = host.machine.now_s
    host.ask(Command.REBOOT, HANG_KEY, within_s=1.0)
    at_s, hello = next((at, m) for at, m in host.heard if at > begin_s and isinstance(m, Hello))
    assert hello.reset & ResetCause.WATCHDOG
    assert at_s - begin_s > 0.2, "its time is 250 ms"


def test_the_eeprom_is_kept_in_a_file(bridge, tmp_path):
    eeprom = tmp_path / "eeprom.bin"
    host = bridge(eeprom=eeprom)
    host.machine.send(encode_frame(calibration_command(0, Calibration(77, 20_500, -300, 1200, 20_400))))
    assert Ack(Command.SET_CALIBRATION, Status.DONE, host.hello().boot) in [m for _, m in host.heard]
    host.run(0.5)
    host.machine.close()
    assert eeprom.stat().st_size == 1024
    again = bridge(eeprom=eeprom).hello().sensors[0].calibration
    assert again == Calibration(77, 20_500, -300, 1200, 20_400)


@pytest.mark.parametrize(("usb", "grid_s", "least_wait_s"), [("frames", 1e-3, 0.0), ("ftdi", 1e-3, 5e-3)])
def test_usb_brings_bytes_in_frames(start, usb, grid_s, least_wait_s):
    plain = start(seed=3)
    framed = start(seed=3, usb=usb)
    exact, late = plain.step(1.0), framed.step(1.0)
    assert [data for _, data in late] != [data for _, data in exact]
    joined = b"".join(data for _, data in late)
    assert b"".join(data for _, data in exact).startswith(joined)
    instants = np.array([at_s for at_s, _ in late])
    assert instants / grid_s == pytest.approx(np.rint(instants / grid_s))
    exact_s = np.repeat([at_s for at_s, _ in exact], [len(data) for _, data in exact])[: len(joined)]
    late_s = np.repeat(instants, [len(data) for _, data in late])
    assert (late_s >= exact_s - 1.3e-3).all()
    assert float(np.mean(late_s - exact_s)) >= least_wait_s - 1e-3


def test_host_bytes_faster_than_the_firmware_reads_are_lost_and_counted(start):
    """Interrupts off: three bytes are held, the fourth is lost."""
    machine = start(hex=None)
    machine.send(b"\x00" * 8)
    machine.step(0.01)
    assert machine.status()["rx_bytes"] == 8
    host = Host(start())
    host.run(0.2)
    host.machine.send(b"\x55" * 4000)
    host.run(0.2)
    assert host.machine.status()["rx_overruns"] == 0
    assert isinstance(host.hello(), Hello)


def test_a_machine_that_is_gone_says_so(start):
    machine = start()
    machine.close()
    machine.close()
    with pytest.raises(EdgejouleError, match="closed"):
        machine.step(0.1)


def test_a_file_that_is_no_image_is_refused_in_one_line(start, tmp_path):
    for content in ("", "hello\n", ":10000000FF\n", ":0100000001FF\n"):
        path = tmp_path / "bad.hex"
        path.write_text(content)
        with pytest.raises(EdgejouleError, match="no Intel hex file") as caught:
            start(hex=path)
        assert "\n" not in str(caught.value)
    path.write_text(":0180000001" + "7E\n")
    with pytest.raises(EdgejouleError, match="larger than the flash"):
        start(hex=path)
    with pytest.raises(EdgejouleError, match="cannot be read"):
        start(hex=tmp_path / "nothing.hex")
