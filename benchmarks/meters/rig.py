"""The real firmware in lock-step, and the host's own code at the other end of its line.

Bytes of the simulated machine go through the parser, the clock fit and the track that a device runs; phases are summed
as its meter sums them. No thread and no real time: the same seed gives the same joules to the last bit. USB is a seeded
model: a command takes 0.1 to 1.1 ms, an answer comes with the next frame of 1 ms.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType

import numpy as np

from edge_runtime.power.bridge.session import BridgeRequest, BridgeSession
from edge_runtime.power.bridge.track import RegisterTrack
from edge_runtime.power.events import Batch, RawEvent
from firmware_tools.bridge.images.manifest import IMAGES, image_of
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from firmware_tools.bridge.simulator.sensor import SensorErrors
from protos.bridge.commands import Command, calibration_command, command
from protos.bridge.framing import encode_frame
from protos.energy.attribution import judge, tally
from protos.energy.ina219 import PROFILES, SHUNT_STEP_V, Calibration
from protos.energy.trace import Mark, Phase, PhaseEnergy

__all__ = ["IMAGE", "SHUNT_OHM", "SUPPLY_V", "Rig", "Taken"]

IMAGE = IMAGES / image_of("atmega328p").file
SHUNT_OHM, SUPPLY_V = 0.02, 5.0
STEP_S, FRAME_S = 0.01, 1e-3
SETTLE_S = 1.3
"""After a measurement: the next sums of the bridge, which come each second, and a little."""
REFERENCE_W = 5.0
REFERENCE_S = 2.0


BLOCK_EVENTS = 100


@dataclass(slots=True)
class Taken:
    """Raw events as they come; ``sums`` counts the shunt register over time while it is not None."""

    events: list[RawEvent] = field(default_factory=list)
    sums: list[float] | None = None

    @property
    def samples(self) -> int:
        return sum(len(event.samples.shunt) for event in self.events if isinstance(event, Batch))

    def blocks(self) -> list[list[RawEvent]]:
        """The events in lists such as a recorder writes at a time."""
        return [self.events[at : at + BLOCK_EVENTS] for at in range(0, len(self.events), BLOCK_EVENTS)]

    def add(self, event: RawEvent) -> None:
        self.events.append(event)
        if self.sums is not None and isinstance(event, Batch):
            dt_s = event.samples.dt_us * 1e-6
            self.sums[0] += float(dt_s @ event.samples.shunt)
            self.sums[1] += float(dt_s.sum())


class Rig:
    """One bridge with one sensor, calibrated, in a profile. Use as a context.

    Args:
        profile: name of a sensor setting.
        seed: draws the sensor's errors, its noise, the clock and the USB line.
        oscillator: relative error of the sensor's clock; drawn within 3 % if None.
        keep: keep every raw event in ``taken.events`` (a recording needs them).
        prepare: called with the machine after calibration, to let things go wrong.
    """

    def __init__(
        self,
        profile: str,
        *,
        seed: int,
        oscillator: float | None = None,
        keep: bool = False,
        prepare: Callable[[FirmwareMachine], None] | None = None,
    ) -> None:
        rng = np.random.default_rng([seed, 219])
        errors = SensorErrors.drawn(rng)
        sensor = SensorSpec(
            "constant:0", shunt_ohm=SHUNT_OHM, supply_v=SUPPLY_V, offset_v=errors.offset_v, gain=errors.gain,
            oscillator=errors.oscillator if oscillator is None else oscillator, noise_v=errors.noise_v,
        )  # fmt: skip
        crystal_ppm = float(rng.uniform(-150, 150))
        self.machine = FirmwareMachine.start(MachineSpec(IMAGE, (sensor,), seed=seed, crystal_ppm=crystal_ppm))
        self.profile, self._random, self._sent_s, self._came_s = profile, random.Random(seed), 0.0, 0.0
        self._digest = hashlib.sha256()
        self.taken, self._keep = Taken(), keep
        self.track = RegisterTrack(capacity=1 << 18)
        self.session = BridgeSession(0, self._take, BridgeRequest(PROFILES[profile]))
        try:
            self._calibrate()
        except BaseException:
            self.machine.kill()
            raise
        if prepare is not None:
            prepare(self.machine)

    @property
    def now_s(self) -> float:
        return self.machine.now_s

    @property
    def usual_sample_s(self) -> float:
        """Mean time from one sample to the next in what is stored."""
        trace = self.track.trace()
        return float(np.diff(trace.stop_s).mean())

    @property
    def digest(self) -> str:
        """Of every byte and its time that the host received: the same seed gives the same."""
        return self._digest.hexdigest()[:16]

    def run(self, seconds: float) -> None:
        """Let time pass; what comes is taken in, what is due is sent."""
        end_s = self.now_s + seconds
        while self.now_s < end_s - 1e-12:
            if commands := self.session.due(self.now_s):
                self._send(commands)
            for at_s, data in self.machine.step_to(min(end_s, self.now_s + STEP_S)):
                late_s = at_s + self._random.uniform(5e-5, 2e-4)
                self._came_s = max(self._came_s, math.ceil(late_s / FRAME_S) * FRAME_S)
                self._digest.update(f"{at_s:.9f}".encode() + data)
                self.session.receive(data, self._came_s)
            self.track.work()

    def measure(self, load: str, edges_s: Sequence[float]) -> list[tuple[PhaseEnergy, float]]:
        """Joules between instants, each phase by itself, with the true ones.

        Args:
            load: what the load is from now on.
            edges_s: instants after now, rising.
        """
        begun_s = self.now_s
        self.track.forget_before(begun_s)
        self.machine.set_load(load)
        edges = [begun_s + edge for edge in edges_s]
        self.run(edges[-1] - begun_s + 0.05)
        self._send(encode_frame(command(Command.FLUSH, 0)))
        self.run(SETTLE_S)
        trace, errors, measured = self.track.trace(), self.track.errors(), []
        for first, last in pairwise(edges):
            # A phase of work between idle ones, so that a cut sample is read as a device reads it.
            marks = [Mark(first - 0.1, Phase.IDLE), Mark(first, Phase.TRAIN), Mark(last, Phase.IDLE)]
            (sums,) = (part for part in tally(trace, marks, last + 0.1, errors=errors) if part.phase is Phase.TRAIN)
            measured.append((judge(sums, method="measured"), self.machine.true_energy_j(first, last)))
        return measured

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.machine.close()

    def _calibrate(self) -> None:
        """Zero with the load disconnected, then gain at a known current: the procedure of ``bridge calibrate``."""
        self.run(1.0)
        zero_v = self._mean_shunt_v("constant:0")
        reference_v = self._mean_shunt_v(f"constant:{REFERENCE_W}")
        # A reference without error: what it leaves in practice is a line of the interval, not of this benchmark.
        gain = REFERENCE_W / SUPPLY_V * SHUNT_OHM / (reference_v - zero_v) - 1
        record = Calibration(1 + self.machine.spec.seed, round(SHUNT_OHM * 1e6), round(zero_v * 1e9), round(gain * 1e6))
        self._send(encode_frame(calibration_command(0, record)))
        self.run(0.5)
        if self.track.calibration != record:
            raise RuntimeError(f"the bridge did not keep its calibration: {self.track.calibration}")

    def _mean_shunt_v(self, load: str) -> float:
        self.machine.set_load(load)
        self.run(0.1)
        self.taken.sums = [0.0, 0.0]
        self.run(REFERENCE_S)
        (total, seconds), self.taken.sums = self.taken.sums, None
        return total / seconds * SHUNT_STEP_V

    def _send(self, data: bytes) -> None:
        self._sent_s = max(self._sent_s, self.now_s + self._random.uniform(1e-4, 1.1e-3))
        self.machine.send(data, at_s=self._sent_s)

    def _take(self, event: RawEvent) -> None:
        self.track.take(event)
        if self._keep or self.taken.sums is not None:
            self.taken.add(event)
