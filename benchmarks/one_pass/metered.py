"""A fleet of `fleet.py` whose boards meter what they do, on a clock of their own.

The round function marks its phases on a meter, as on a board. Time on this clock is work: a step, the writing of a
head and the coding of a change take the seconds of `coordinator/budgets/cold_start.py` at the board's watts, a byte the
joules of its link (`benchmarks/budgets/fleet.py`); waiting takes none. What comes out is attributed to phases by
`protos/energy/attribution.py`, and travels in reports, as measured joules do. So figures do not depend on how busy this
computer is, and a device's own limit in joules is kept by the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.budgets.fleet import _LINKS as LINKS
from benchmarks.one_pass.fleet import Device, Fleet, Task
from coordinator.budgets.cold_start import prices_of, work_w_of
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.period import Period
from protos.energy.attribution import attribute
from protos.energy.trace import Phase, PhaseEnergy, PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.model.head import Head
from protos.orders import DeviceReport
from protos.plan.plan import RunPlan

# Seconds of a byte on the link: how long, not how dear.
_BYTE_S = 5e-7


class WorkMeter:
    """Clock and meter of one simulated board.

    Args:
        board: a row of the table of boards.
        link: a row of the table of links.
        macs: multiply-accumulates of the backbone.
        coordinates, batch_size: of the head.
    """

    def __init__(self, board: str, link: str, *, macs: int | None, coordinates: int, batch_size: int) -> None:
        self.prices = prices_of(board, macs=macs, coordinates=coordinates, batch_size=batch_size)
        self.link, self.work_w = link, work_w_of(board)
        self.identity = MeterIdentity("estimated", f"simulated:{board}", "none", "model")
        self._now_s = 0.0
        self._errors = ErrorModel(supply_v=5.0, gain_relative=0.0)
        self.start()

    def monotonic(self) -> float:
        """Seconds of work so far."""
        return self._now_s

    def process_time(self) -> float:
        """The same: what it does, it does on one core."""
        return self._now_s

    def start(self) -> None:
        """Begin, idle."""
        self._period = Period(self._now_s)
        self._stretches: list[tuple[float, float, float]] = []
        self._spent_j = 0.0
        self._wrote = False

    def works(self, joules: float, seconds: float | None = None) -> None:
        """So many joules now, at the watts of work or within these seconds."""
        took_s = joules / self.work_w if seconds is None else seconds
        if took_s <= 0:
            return
        self._stretches.append((self._now_s, self._now_s + took_s, joules / took_s))
        self._now_s += took_s
        if self._period.last.phase.is_work:
            self._spent_j += joules

    def mark(self, phase: Phase) -> None:
        """Begin a phase, with what it costs whatever is done in it."""
        self._period.mark(self._now_s, phase)
        # A head that is made from differences is begun before the examples are embedded: written once all the same.
        if phase is Phase.TRAIN and not self._wrote:
            self._wrote = True
            self.works(self.prices.train_fixed_j)
        elif phase is Phase.ENCODE:
            self.works(self.prices.encode_j)

    def received(self, size_bytes: int) -> None:
        """An order came, while it waited."""
        self.works(LINKS[self.link][1] * size_bytes, _BYTE_S * size_bytes)

    def sent(self, size_bytes: int) -> tuple[PhaseEnergy, ...]:
        """A report of so many bytes went; joules since the last settlement."""
        up_j, _, wake_j = LINKS[self.link]
        self.mark(Phase.SEND)
        self.works(wake_j + up_j * size_bytes, 0.03 + _BYTE_S * size_bytes)
        self.mark(Phase.IDLE)
        return self.settle()

    def spent_j(self) -> float:
        """Joules of all phases but idle since the last settlement."""
        return self._spent_j

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        """Joules by phase, up to the last mark."""
        marks, stop_s = self._period.close()
        rows, self._stretches, self._spent_j, self._wrote = self._stretches, [], 0.0, False
        ended = [row for row in rows if row[0] < stop_s]
        self._stretches = rows[len(ended) :]
        trace = PowerTrace.of(*(zip(*ended, strict=True) if ended else ([], [], [])))
        return tuple(
            attribute(trace, marks, stop_s, errors=self._errors, method="estimated", sensor=self.identity.sensor)
        )

    def close(self) -> None:
        """Nothing is open."""


class _PacedHead:
    """The head, whose steps take a board's time."""

    def __init__(self, head: Head, meter: WorkMeter) -> None:
        self._head, self._meter = head, meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def draw_from(self, random: np.random.Generator) -> None:
        """As the head's own; named here, since a protocol looks for it in the class."""
        self._head.draw_from(random)

    def train_step(self, *values: Any, **inputs: Any) -> float:
        """One step, and its joules."""
        self._meter.works(self._meter.prices.step_j)
        return self._head.train_step(*values, **inputs)


class MeteredFleet(Fleet):
    """Devices with meters, each over one link.

    Attributes:
        metered: joules of all devices so far, by phase; embedding is apart, as everywhere in `papers.py`.
        last: of the newest answer of each device, all phases.

    Args:
        links: of devices in turn.
    """

    def __init__(self, task: Task, plan: RunPlan, seed: int, home: Path, links: tuple[str, ...] = ("wifi",)) -> None:
        super().__init__(task, plan, seed, home)
        self.metered = dict.fromkeys(("train", "encode", "send", "idle"), 0.0)
        self.last: dict[str, tuple[PhaseEnergy, ...]] = {}
        self._meters: dict[str, WorkMeter] = {}
        for at, device in enumerate(self.devices):
            meter = WorkMeter(
                device.board, links[at % len(links)], macs=task.bundle.manifest.backbone.macs,
                coordinates=self.coordinates, batch_size=task.bundle.manifest.head.batch_size,
            )  # fmt: skip
            device.bench.meter, device.bench.clock = meter, meter
            device.bench.head = _PacedHead(device.bench.head, meter)  # type: ignore[assignment]
            self._meters[device.name] = meter

    def ask(self, device: Device, number: int, **asked: Any) -> DeviceReport:
        """As :meth:`Fleet.ask`; the joules of both ways with it."""
        meter, up, down = self._meters[device.name], self.bytes_up, self.bytes_down
        report = super().ask(device, number, **asked)
        meter.received(self.bytes_down - down)
        whole = (*report.energy, *meter.sent(self.bytes_up - up))
        for phase_energy in whole:
            if phase_energy.energy_j is not None and phase_energy.phase is not Phase.EMBED:
                self.metered[phase_energy.phase.value] += phase_energy.energy_j
        self.last[device.name] = whole
        return report

    @property
    def joules_metered(self) -> float:
        """Of all phases."""
        return sum(self.metered.values())


def shares(metered: Mapping[str, float]) -> str:
    """Joules by phase, in words."""
    return ", ".join(f"{name} {joules:.2f} J" for name, joules in metered.items())
