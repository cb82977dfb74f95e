"""Two bridges in virtual time behind a port client: the real firmware in the simulated machine, and its twin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from machine_transport import MachineWorld

from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.images.manifest import IMAGES
from firmware_tools.bridge.machine.build import APT, missing
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import ConstantLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Calibration

IMAGE = IMAGES / "edgejoule-bridge-atmega328p.hex"
NEEDS_MACHINE = pytest.mark.skipif(missing() is not None, reason=f"{missing()}: {APT}")
NOISE_V = 5e-6


def sensor(load: str = "constant:0", **fields) -> SensorSpec:
    return SensorSpec(load, **{"noise_v": NOISE_V} | fields)


@contextmanager
def machine_client(*sensors: SensorSpec, seed: int = 0, **fields) -> Iterator[tuple[FirmwareMachine, BridgeClient]]:
    with FirmwareMachine.start(MachineSpec(IMAGE, sensors or (sensor(),), seed=seed, **fields)) as machine:
        world = MachineWorld(machine, seed=seed)
        with BridgeClient("machine", opener=world.opener, now=world.monotonic) as client:
            yield machine, client


class TwinLine:
    """The twin's line; each read takes 2 ms of virtual time. ``spoil`` changes what the bridge sends."""

    def __init__(self, device: Device, now_s: float, spoil: Callable[[bytes], bytes] = lambda data: data) -> None:
        self.device, self.now_s, self.spoil = device, now_s, spoil
        self._out = b""

    def read(self) -> bytes:
        self.now_s += 0.002
        data, self._out = self._out + self.device.advance(self.now_s), b""
        return self.spoil(data)

    def write(self, data: bytes) -> None:
        self._out += self.device.receive(data, self.now_s)

    def close(self) -> None:
        pass


def twin(power_w: float = 2.5, *, errors: SensorErrors | None = None, seed: int = 0, **calibration: int) -> TwinLine:
    part = SimulatedIna219(
        ConstantLoad(power_w), supply_v=5.0, shunt_ohm=0.02, errors=errors or SensorErrors(noise_v=NOISE_V),
        profile=PROFILES["balanced"], rng=np.random.default_rng(seed), start_s=100.0,
    )  # fmt: skip
    record = Calibration(**{"id": 7, "shunt_uohm": 20_000, "day": 20_000} | calibration)
    return TwinLine(Device([Channel(part, record)], profile=PROFILES["balanced"], now_s=100.0), 100.0)


def twin_client(line: TwinLine) -> BridgeClient:
    return BridgeClient("twin", opener=lambda path: line, now=lambda: line.now_s)
