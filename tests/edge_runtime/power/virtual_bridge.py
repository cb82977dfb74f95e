"""A simulated bridge in virtual time, for a meter that runs as it does on a device: its threads, line and clock.

It stands where a simulated machine stands in :class:`machine_transport.MachineWorld`, whose time passes only while all
threads wait. So no figure depends on how fast this computer is.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from machine_transport import MachineWorld

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import parse_load
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from firmware_tools.bridge.simulator.terminal import WireFaults
from protos.bridge.hello import ResetCause
from protos.energy.boards import board
from protos.energy.ina219 import PROFILES

GIVE_UP_S = 60.0


class BridgeMachine:
    """A bridge with one calibrated sensor; errors, noise and drift are drawn by the seed.

    Attributes:
        now_s: true time.
        faults: of the line from the bridge to the host.
    """

    def __init__(self, *, load: str = "constant:4.0", profile: str = "balanced", seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 219])
        errors, pi4 = SensorErrors.drawn(rng), board("pi4")
        self.now_s = 0.0
        self.load = parse_load(load, pi4, pid=None, pid_file=None)
        sensor = SimulatedIna219(
            self.load, supply_v=pi4.supply_v, shunt_ohm=pi4.shunt_ohm, errors=errors, profile=PROFILES[profile],
            rng=rng, start_s=0.0,
        )  # fmt: skip
        uid = rng.bytes(8)
        record = errors.calibrated(zlib.crc32(uid) | 1, pi4.shunt_ohm, day=20_000)
        self.device = Device(
            [Channel(sensor, record)], profile=PROFILES[profile], uid=uid, drift_ppm=float(rng.uniform(-100, 100)),
            now_s=-0.3,
        )  # fmt: skip
        self.faults = WireFaults(np.random.default_rng([seed, 7]))
        self._heard: list[tuple[float, bytes]] = []
        self._noise = b""

    def send(self, data: bytes, *, at_s: float) -> None:
        """Bytes that reach the bridge at a time."""
        self._heard.append((at_s, data))

    def make_noise(self, data: bytes) -> None:
        """Put bytes on the line that the bridge never sent."""
        self._noise += data

    def step_to(self, now_s: float) -> list[tuple[float, bytes]]:
        """Go on to a time; what the bridge sent on the way."""
        out = b""
        while self._heard and self._heard[0][0] <= now_s:
            at_s, data = self._heard.pop(0)
            out += self.device.receive(data, at_s)
        out += self.device.advance(now_s)
        self.now_s = now_s
        noise, self._noise = self._noise, b""
        sent = self.faults.apply(out) + noise
        return [(now_s, sent)] if sent else []

    def true_energy_j(self, from_s: float, to_s: float, *, sensor: int = 0) -> float:
        """Joules that the load drew between two instants."""
        first, last = self.load.energy_j([from_s, to_s])
        return float(last - first)

    def reboot(self, cause: ResetCause) -> None:
        self.device.reboot(self.now_s, cause)


class Metered:
    """A meter on such a bridge, which has started."""

    def __init__(self, *, capacity: int | None = None, **bridge: object) -> None:
        self.bridge = BridgeMachine(**bridge)  # type: ignore[arg-type]
        self.bridge.step_to(0.3)
        self.world = MachineWorld(self.bridge)  # type: ignore[arg-type]
        more = {} if capacity is None else {"capacity": capacity}
        self.sensor = bridge_sensor("virtual", {}, self.world, opener=self.world.opener, **more)  # type: ignore[arg-type]
        self.sensor.open()
        self.meter = SensorMeter(self.sensor, self.world)
        self.meter.start()

    def now_s(self) -> float:
        return self.world.monotonic()

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.world.advance(seconds)

    def until(self, holds: Callable[[], object]) -> None:
        """Time passes until something holds."""
        end_s = self.now_s() + GIVE_UP_S
        while not holds():
            assert self.now_s() < end_s, "the condition never came true"
            self.world.advance(0.005)

    def truth_j(self, from_s: float, to_s: float) -> float:
        """Joules that the load drew between two instants of the host's clock."""
        return self.world.true_energy_j(from_s, to_s)
