"""A simulated bridge on a real pseudo-terminal, and a bench on virtual time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.power.bridge.session import BridgeSession
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import Load
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Calibration


@pytest.fixture
def plug_in(tmp_path: Path) -> Iterator[Callable[..., SimulatedBridge]]:
    """Start a bridge on a pseudo-terminal; keywords are those of BridgeSpec, and ``load_object``."""
    with contextlib.ExitStack() as stack:

        def start(**options) -> SimulatedBridge:
            load = options.pop("load_object", None)
            spec = replace(BridgeSpec(link=tmp_path / "ttyINA", load="constant:4.0"), **options)
            bridge = SimulatedBridge(spec, load=load)
            stack.enter_context(Bench([bridge]))
            return bridge

        yield start


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition; gives up after a time that only a hang would take."""

    def wait(condition: Callable[[], object], *, give_up_s: float = 60.0) -> None:
        end = time.monotonic() + give_up_s
        while not condition():
            assert time.monotonic() < end, "the condition never came true"
            time.sleep(0.005)

    return wait


class VirtualClock:
    """Time that passes only when somebody waits; ``on_step`` runs the simulated world along."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.cpu_s = 0.0
        self.on_step: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return self.cpu_s

    def advance(self, seconds: float, *, step_s: float = 1e-3) -> None:
        end = self.now_s + seconds
        while self.now_s < end - 1e-12:
            self.now_s = min(end, self.now_s + step_s)
            self.on_step()

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        end = self.now_s + timeout_s
        while not event.is_set() and self.now_s < end:
            self.advance(min(1e-3, end - self.now_s))
        return event.is_set()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


class VirtualLine:
    """A simulated device and a host session, joined by a line with delays, on a virtual clock.

    ``to_device_s`` and ``to_host_s`` draw the delay of each transfer; ``damage`` may change what reaches the host.
    """

    def __init__(self, clock: VirtualClock, device: Device, session: BridgeSession) -> None:
        self.clock, self.device, self.session = clock, device, session
        self.to_device_s: Callable[[], float] = lambda: 2e-4
        self.to_host_s: Callable[[], float] = lambda: 2e-4
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self._up: list[tuple[float, bytes]] = []
        self._down: list[tuple[float, bytes]] = []
        clock.on_step = self.step

    def step(self) -> None:
        now_s = self.clock.now_s
        while self._down and self._down[0][0] <= now_s:
            at_s, data = self._down.pop(0)
            self._send_up(self.device.receive(data, at_s), at_s)
        self._send_up(self.device.advance(now_s), now_s)
        while self._up and self._up[0][0] <= now_s:
            at_s, data = self._up.pop(0)
            self.session.receive(data, at_s)
        commands = self.session.due(now_s)
        if commands:
            last = self._down[-1][0] if self._down else 0.0
            self._down.append((max(last, now_s + self.to_device_s()), commands))

    def _send_up(self, data: bytes, at_s: float) -> None:
        data = self.damage(data)
        if data:
            last = self._up[-1][0] if self._up else 0.0
            self._up.append((max(last, at_s + self.to_host_s()), data))


@pytest.fixture
def make_device(clock: VirtualClock) -> Callable[..., Device]:
    """A device on virtual time with one perfect sensor, unless told otherwise."""

    def make(
        load: Load,
        *,
        profile: str = "balanced",
        drift_ppm: float = 0.0,
        errors: SensorErrors | None = None,
        calibration: Calibration | None = None,
    ) -> Device:
        sensor = SimulatedIna219(
            load,
            supply_v=5.0,
            shunt_ohm=0.02,
            errors=errors or SensorErrors(),
            profile=PROFILES[profile],
            rng=np.random.default_rng(3),
            start_s=clock.now_s,
        )
        channel = Channel(sensor, calibration or Calibration(1, 20_000))
        return Device([channel], profile=PROFILES[profile], drift_ppm=drift_ppm, now_s=clock.now_s, uid=b"virtual!")

    return make


@pytest.fixture
def join(clock: VirtualClock) -> Callable[[Device, BridgeSession], VirtualLine]:
    return lambda device, session: VirtualLine(clock, device, session)
