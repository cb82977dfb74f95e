"""Rows of `benchmarks/metering.py`: a load, a profile, joules and the truth, and what was to be reached."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.meters.rig import Rig
from benchmarks.recordings import trace_w
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.recording.header import Header
from edge_runtime.power.recording.writer import BlockFile
from edge_runtime.power.sensor import Capabilities
from protos.energy.ina219 import PROFILES
from protos.energy.trace import PhaseEnergy
from protos.energy.uncertainty import ErrorModel
from protos.errors import EdgejouleError

__all__ = ["Row", "constant", "damaged_line", "hiding", "in_step", "phases", "replayed", "squares", "tasks"]

CONSTANT_W = (0.5, 1.0, 2.0, 5.0, 10.0)
OSCILLATORS = (0.0, 0.02, -0.02, 0.05, -0.05, 0.10, -0.10)
LOCKING = {"transient": (-0.0196, -0.0099, -0.0719, -0.0809), "energy": (-0.0046, 0.0244, 0.0507, -0.06)}
"""Oscillators at which a sample, with 10 to 12 bits of voltage, is a simple fraction of 1 ms: 2/3, 4/5, 3/4, 5/8 for
``transient``; 9, 9.5 and 8.5 for ``energy``."""
SQUARE = "square:0,2,0.001"
PHASE_S, PHASE_EACH_S = 0.2, 0.4137
TRACE = "pynq_z2_kws"
HIDING_S = (0.404e-3, 0.806e-3)
"""Periods near that of a sample of ``transient`` with 11 bits of voltage, and half of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Args:
        limit: largest relative error allowed; None where the interval must hold the truth.
        must_flag: the figure must carry this flag, and no uncertainty.
        informative: without a target; shows a limit of the method.
        digest: of what the host received.
    """

    profile: str
    load: str
    true_j: float
    measured_j: float | None
    uncertainty_j: float | None
    coverage: float
    flags: tuple[str, ...]
    limit: float | None = None
    must_flag: str | None = None
    informative: bool = False
    digest: str = ""

    @property
    def relative_error(self) -> float | None:
        return None if self.measured_j is None else self.measured_j / self.true_j - 1

    @property
    def verdict(self) -> str:
        """``ok``, ``missed``, or ``noted`` for a row without a target."""
        if self.informative:
            return "noted"
        if self.must_flag is not None:
            return "ok" if self.must_flag in self.flags and self.uncertainty_j is None else "missed"
        if self.relative_error is None or self.measured_j is None:
            return "missed"
        if self.limit is not None:
            return "ok" if abs(self.relative_error) <= self.limit else "missed"
        inside = self.uncertainty_j is not None and abs(self.measured_j - self.true_j) <= self.uncertainty_j
        return "ok" if inside else "missed"

    @property
    def target(self) -> str:
        if self.informative:
            return "none"
        if self.must_flag is not None:
            return f"flag {self.must_flag}"
        return "in interval" if self.limit is None else f"{100 * self.limit:g} %"

    def as_json(self) -> dict[str, Any]:
        return {
            "profile": self.profile, "load": self.load, "true_j": self.true_j, "measured_j": self.measured_j,
            "relative_error": self.relative_error, "coverage": self.coverage, "flags": list(self.flags),
            "uncertainty_j": self.uncertainty_j, "target": self.target, "verdict": self.verdict,
        }  # fmt: skip


def _row(rig: Rig, load: str, found: tuple[PhaseEnergy, float], **more: Any) -> Row:
    figure, true_j = found
    return Row(
        rig.profile, load, true_j, figure.energy_j, figure.uncertainty_j, figure.coverage, figure.flags,
        digest=rig.digest, **more,
    )  # fmt: skip


def constant(profile: str, seed: int, span_s: float) -> list[Row]:
    """Steady loads, one after the other; then one beyond the range of the shunt register."""
    rows = []
    with Rig(profile, seed=seed) as rig:
        for power_w in CONSTANT_W:
            (found,) = rig.measure(f"constant:{power_w}", [0.2, 0.2 + span_s])
            rows.append(_row(rig, f"constant {power_w:g} W", found, limit=0.0025 if power_w >= 1 else None))
        (found,) = rig.measure("constant:25", [0.2, 1.2])
        rows.append(_row(rig, "constant 25 W, clipped", found, must_flag="clipped"))
    return rows


def squares(profile: str, seed: int, span_s: float, oscillator: float) -> list[Row]:
    """A load of 1 ms that is off for half of the time, with a sensor whose clock is off."""
    with Rig(profile, seed=seed, oscillator=oscillator) as rig:
        (found,) = rig.measure(SQUARE, [0.2, 0.2 + span_s])
        return [_row(rig, f"square 0/2 W, 1 ms, oscillator {100 * oscillator:+.2f} %", found, limit=0.005)]


def in_step(profile: str, seed: int, span_s: float) -> list[Row]:
    """A square load whose period is the mean time between samples: a limit of sampling, beside its interval."""
    with Rig(profile, seed=seed, oscillator=0.0) as rig:
        rig.measure("constant:3", [0.2, 3.2])
        width_s = rig.usual_sample_s
        (found,) = rig.measure(f"square:3,6,{width_s}", [0.2, 0.2 + span_s])
        return [_row(rig, f"square 3/6 W in step with samples, {1e3 * width_s:.2f} ms", found, informative=True)]


def hiding(profile: str, seed: int, span_s: float, period_s: float) -> list[Row]:
    """A load that is off for half of a time near that of a sample: the worst that sampling can meet."""
    with Rig(profile, seed=seed, oscillator=0.0) as rig:
        (found,) = rig.measure(f"square:0,2,{period_s}", [0.2, 0.2 + span_s])
        return [_row(rig, f"square 0/2 W in step with samples, {1e3 * period_s:.3f} ms", found, informative=True)]


def phases(profile: str, seed: int, count: int) -> list[Row]:
    """Phases of 200 ms between idle and full load, marked where they begin and end; the worst of them."""
    with Rig(profile, seed=seed) as rig:
        load = f"burst:2.5,6,0.1,{PHASE_S},{PHASE_EACH_S}"
        begins = [0.1 + number * PHASE_EACH_S for number in range(1, count + 1)]
        edges = [edge for begin in begins for edge in (begin, begin + PHASE_S)]
        found = rig.measure(load, edges)[::2]
        worst = max(found, key=lambda pair: abs((pair[0].energy_j or 0.0) / pair[1] - 1))
        limit = {"transient": 0.005, "energy": 0.015}.get(profile, 0.015)
        return [_row(rig, f"phase of 200 ms, idle to full, worst of {count}", worst, limit=limit)]


def damaged_line(profile: str, seed: int, span_s: float) -> list[Row]:
    """One byte of a thousand to the host has a bit changed: lost frames come back from the accumulators."""
    with Rig(profile, seed=seed, prepare=lambda machine: machine.fault("to-host-flip", on=1e-3)) as rig:
        (found,) = rig.measure("square:2,6,0.2", [0.2, 0.2 + span_s])
        lost = rig.track.lost_batches
        return [_row(rig, f"square 2/6 W, 1e-3 byte errors, {lost} batches lost", found, limit=0.002)]


def replayed(profile: str, seed: int, span_s: float) -> tuple[list[Row], float | None]:
    """A recorded trace as the load, and the bytes that each sample of its recording takes; nothing without the data."""
    try:
        watts = trace_w(TRACE)
    except EdgejouleError:
        return [], None
    with tempfile.TemporaryDirectory() as folder, Rig(profile, seed=seed, keep=True) as rig:
        knots = Path(folder) / "load.csv"
        lines = [f"{number / 1000},{power}" for number, power in enumerate([*watts.tolist(), 0.0])]
        knots.write_text("\n".join(["seconds,watts", *lines]) + "\n")
        rig.taken.events.clear()
        (found,) = rig.measure(f"trace:{knots}", [0.2, 0.2 + span_s])
        header = Header(
            MeterIdentity("measured", "ina219:bench#0", "00000001", "calibrated"),
            Capabilities(PROFILES[profile].rate_hz, "device"), ErrorModel(), 1000.0, "2026-01-01T00:00:00.000+00:00",
            "bench", "", "bench",
        )  # fmt: skip
        file = BlockFile(Path(folder) / "trace.ejr", header)
        for block in rig.taken.blocks():
            file.append(block)
        file.close()
        row = _row(rig, f"recorded trace {TRACE}", found, limit=0.0025)
        return [row], file.written_bytes / rig.taken.samples


def tasks(quick: bool, seed: int) -> list[tuple[Any, ...]]:
    """Every row's function and arguments, the long ones first."""
    span_s = 10.0
    found: list[tuple[Any, ...]] = []
    for profile in ("transient", "energy"):
        for number, oscillator in enumerate((*OSCILLATORS, *LOCKING[profile])):
            found.append((squares, profile, seed + number, span_s, oscillator))
    for profile in PROFILES:
        found.append((constant, profile, seed, 1.5 if quick else 5.0))
        found.append((phases, profile, seed, 10 if quick else 100))
        found.append((in_step, profile, seed, 5.0))
    found += [(hiding, "transient", seed, 5.0, period_s) for period_s in HIDING_S]
    found.append((damaged_line, "transient", seed, 10.0 if quick else 60.0))
    return found
