"""The device's whole metering on the simulated machine: real firmware, line, session, meter; virtual time."""

from __future__ import annotations

from dataclasses import dataclass

from machine_transport import MachineTransport, MachineWorld

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from firmware_tools.bridge.images.manifest import IMAGES
from firmware_tools.bridge.machine.driver import FirmwareMachine
from protos.bridge.commands import calibration_command
from protos.bridge.framing import encode_frame
from protos.energy.ina219 import Calibration
from protos.energy.trace import Phase, PhaseEnergy

__all__ = ["IDEAL", "IMAGE", "Bench", "Noisy", "Reading"]

IMAGE = IMAGES / "edgejoule-bridge-atmega328p.hex"
IDEAL = Calibration(5, 20_000)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the meter says at one moment: watts, joules of work so far, age of the newest sample."""

    power_w: float | None
    spent_j: float | None
    age_s: float


class Noisy:
    """A transport at which a program may put bytes that the bridge never sent."""

    def __init__(self, inner: MachineTransport) -> None:
        self._inner, self.extra = inner, b""
        self.write, self.close = inner.write, inner.close

    def read(self) -> bytes:
        extra, self.extra = self.extra, b""
        return self._inner.read() + extra


class Bench:
    """A machine that has booted, with an open sensor and a meter that has started.

    Args:
        record: calibration to write first, of every sensor; None leaves them without.
    """

    def __init__(
        self, machine: FirmwareMachine, *, profile: str, record: Calibration | None = IDEAL, usb_seed: int = 0
    ) -> None:
        self.machine = machine
        machine.step(0.3)
        for number in range(len(machine.spec.sensors) if record else 0):
            machine.send(encode_frame(calibration_command(number, record)))
            machine.step(0.3)
        self.world = MachineWorld(machine, seed=usb_seed)
        # Without a record somebody has to say the shunt; the default of the firmware is named, so that zeros stand out.
        options = {"profile": profile} if record else {"profile": profile, "shunt": "0.1"}
        self.sensor = bridge_sensor("machine", options, self.world, opener=self._open)
        self.sensor.open()
        self.meter = SensorMeter(self.sensor, self.world)
        self._marks: list[tuple[float, Phase]] = []
        self.start()

    def start(self) -> None:
        """Begin a period anew."""
        self.meter.start()
        self._marks = [(self.world.monotonic(), Phase.IDLE)]

    def spend(self, phase: Phase, seconds: float) -> Reading:
        """Be in a phase for so long; what the meter says at its end."""
        self.meter.mark(phase)
        self._marks.append((self.world.monotonic(), phase))
        self.world.advance(seconds)
        return self.reading()

    def reading(self) -> Reading:
        now_s = self.world.monotonic()
        return Reading(self.meter.power_w, self.meter.spent_j(), now_s - self.sensor.covered_to_s)

    def settle(self) -> dict[Phase, PhaseEnergy]:
        """End the period; its figures, idle left out."""
        self.meter.mark(Phase.IDLE)
        self._marks.append((self.world.monotonic(), Phase.IDLE))
        return {
            phase_energy.phase: phase_energy
            for phase_energy in self.meter.settle()
            if phase_energy.phase is not Phase.IDLE
        }

    def true_j(self, phase: Phase) -> float:
        """Joules that the load really drew in a phase of the period that was settled."""
        ends_s = [at_s for at_s, _ in self._marks[1:]]
        return sum(
            self.world.true_energy_j(at_s, end_s)
            for (at_s, name), end_s in zip(self._marks, ends_s, strict=False)
            if name is phase
        )

    def close(self) -> None:
        self.meter.close()

    def _open(self, path: str) -> Noisy:
        self.port = Noisy(self.world.opener(path))
        return self.port
