"""What metering costs the host, over a pseudo-terminal in real time, beside a reader that asks for each sample.

The **per-sample reader** does what the common INA219 libraries do: for each sample it writes the register's number and
reads two bytes, for the shunt and for the bus, then computes volts, amperes, watts and joules in Python, and sleeps. A
file stands for the I2C device, so only the system calls and the arithmetic count: a real bus adds the driver's work and
some 0.3 ms of waiting for each sample.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.meters.rig import IMAGE, SHUNT_OHM, SUPPLY_V
from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.events import Block, Event
from edge_runtime.power.meters.sensor_meter import SensorMeter
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.energy.trace import Phase

__all__ = ["Streamed", "per_sample_share", "streamed"]

LOAD_W = 4.0
RATE_HZ = 1000.0
WARM_UP_S = 2.0
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Streamed:
    """A minute of a bridge on a terminal: what was lost, what it cost, what it said."""

    seconds: float
    rate_hz: float
    lost_frames: int
    mean_w: float
    true_w: float
    core_share: float

    @property
    def share_at_1khz(self) -> float:
        """Share of one core at 1000 samples a second."""
        return self.core_share * RATE_HZ / self.rate_hz


def streamed(seconds: float, seed: int) -> Streamed:
    """Meter a machine in another process: port, thread, parser, clock fit, sums; the CPU time of this process."""
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "bridge.tty"
        sensor_spec = SensorSpec(f"constant:{LOAD_W}", shunt_ohm=SHUNT_OHM, supply_v=SUPPLY_V, noise_v=5e-6)
        with FirmwareMachine.serve_pty(MachineSpec(IMAGE, (sensor_spec,), seed=seed), link):
            options = {"profile": "transient", "shunt": str(SHUNT_OHM)}
            sensor = bridge_sensor(str(link), options, clock)
            sensor.open()
            meter = SensorMeter(sensor, clock)
            try:
                time.sleep(WARM_UP_S)
                meter.start()
                meter.mark(Phase.TRAIN)
                heard = 0

                def count(event: Event) -> None:
                    nonlocal heard
                    heard += len(event.trace) if isinstance(event, Block) else 0

                leave = sensor.subscribe(count)
                before, cpu_s, begin_s = sensor.losses, time.process_time(), clock.monotonic()
                while clock.monotonic() - begin_s < seconds:
                    time.sleep(POLL_S)
                    meter.spent_j()
                cpu_s, passed_s = time.process_time() - cpu_s, clock.monotonic() - begin_s
                leave()
                meter.mark(Phase.IDLE)
                train = next(part for part in meter.settle() if part.phase is Phase.TRAIN)
                after = sensor.losses
            finally:
                meter.close()
    lost = (after.lost_batches - before.lost_batches) + (after.damaged_frames - before.damaged_frames)
    joules = train.energy_j if train.energy_j is not None else float("nan")
    return Streamed(passed_s, heard / passed_s, lost, joules / train.covered_s, LOAD_W, cpu_s / passed_s)


def per_sample_share(seconds: float) -> float:
    """Share of one core that the per-sample reader needs at 1000 samples a second."""
    with tempfile.TemporaryFile() as device:
        device.write((800).to_bytes(2, "big") + (1250 << 3 | 2).to_bytes(2, "big"))
        device.flush()
        file, joules, count = device.fileno(), 0.0, 0
        cpu_s = time.process_time()
        begin_s = before_s = time.monotonic()
        while before_s - begin_s < seconds:
            words = []
            for register in (0, 2):
                os.lseek(file, register, os.SEEK_SET)
                words.append(int.from_bytes(os.read(file, 2), "big"))
            shunt, bus = words
            shunt_v = (shunt - 0x10000 if shunt & 0x8000 else shunt) * 10e-6
            now_s = time.monotonic()
            joules += shunt_v / SHUNT_OHM * (bus >> 3) * 4e-3 * (now_s - before_s)
            before_s, count = now_s, count + 1
            time.sleep(max(0.0, begin_s + count / RATE_HZ - time.monotonic()))
        cpu_s = time.process_time() - cpu_s
    assert joules > 0
    return cpu_s / count * RATE_HZ
