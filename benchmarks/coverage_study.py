"""Does the 95 % interval of a joule hold the truth in 95 % of cases? A seeded study of the metering arithmetic.

Each case draws a load, a sensor with its errors, a calibration with what it leaves, an oscillator, a clock, a USB
line, a profile, and phases; samples go through the registers, the clock fit and the attribution that a device runs.
The load knows the truth exactly. What is drawn is what the budget assumes (`protos/energy/ina219.py`): this tests the
arithmetic, not the assumptions.

    .venv/bin/python benchmarks/coverage_study.py
    .venv/bin/python benchmarks/coverage_study.py --cases 2000 --seed 3 --json coverage.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.meters.study_loads import FIRST_S, LAST_S, LOADS, Rng, SteppedLoad
from edge_runtime.power.bridge.alignment import Alignment, ClockFit
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.bridge.exchange import Exchange
from protos.energy.attribution import judge, tally
from protos.energy.ina219 import (
    PROFILES,
    REFERENCE_RELATIVE,
    SINCE_CALIBRATION,
    ZERO_LIMIT_V,
    Calibration,
    sample_flags,
    watts,
)
from protos.energy.trace import Mark, Phase, PhaseEnergy, PowerTrace
from protos.energy.uncertainty import ErrorModel

SHUNT_OHM = 0.02
BORN_S = 50.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One phase: its figure, the truth, and where it comes from."""

    case: int
    load: str
    profile: str
    calibrated: bool
    figure: PhaseEnergy
    truth_j: float

    @property
    def error_j(self) -> float:
        return (self.figure.energy_j or 0.0) - self.truth_j

    @property
    def inside(self) -> bool:
        return self.figure.uncertainty_j is not None and abs(self.error_j) <= self.figure.uncertainty_j


def chain(rng: Rng, *, calibrated: bool) -> tuple[SensorErrors, Calibration]:
    """A sensor and its calibration record, as wrong as :meth:`protos.energy.ina219.Calibration.errors` says at most."""
    errors = SensorErrors.of_any_part(rng)
    if not calibrated:
        return errors, Calibration(0, round(SHUNT_OHM * 1e6))
    # The zero reading ends on half a step; the reference is wrong; shunt and amplifier have moved since.
    drift = rng.uniform(-SINCE_CALIBRATION, SINCE_CALIBRATION, 2).sum()
    reference = rng.uniform(-REFERENCE_RELATIVE, REFERENCE_RELATIVE)
    seen = replace(
        errors,
        offset_v=errors.offset_v + rng.uniform(-ZERO_LIMIT_V, ZERO_LIMIT_V),
        gain=(1 + errors.gain) / (1 + reference + drift) - 1,
    )
    return errors, seen.calibrated(7, SHUNT_OHM, day=0)


def clock_fit(rng: Rng, rate: float, *, until_s: float) -> ClockFit:
    """A fit as a device has it after a minute of exchanges over USB: frames of 1 ms, or a latency timer of 16 ms."""
    timer_s = 16e-3 if rng.random() < 0.3 else 1e-3
    alignment = Alignment()
    for sent_s in np.arange(until_s - 60.0, until_s, 1.0):
        received_s = sent_s + rng.uniform(1e-4, 1.1e-3)
        back_s = received_s + 4e-5 + rng.uniform(1e-4, timer_s)
        ticks = [int((at_s - BORN_S) * rate) for at_s in (received_s, received_s + 4e-5)]
        alignment.add(Exchange(float(sent_s), ticks[0], ticks[1], back_s))
    fit = alignment.fit
    assert fit is not None
    return fit


def sampled(
    rng: Rng, load: SteppedLoad, errors: SensorErrors, calibration: Calibration, profile: str, *, dither: bool
) -> tuple[PowerTrace, ErrorModel]:
    """Samples of the study's time as the host has them, and what it says of their errors."""
    supply_v = float(rng.uniform(4.9, 5.2))
    sensor = SimulatedIna219(
        load, supply_v=supply_v, shunt_ohm=SHUNT_OHM, errors=errors, profile=PROFILES[profile], rng=rng,
        start_s=FIRST_S - 0.1 + rng.uniform(0, 0.02), dither=dither,
    )  # fmt: skip
    batch = sensor.take(sensor.ready(LAST_S + 0.1))
    rate = 1e6 * (1 + rng.uniform(-2e-3, 2e-3))
    fit = clock_fit(rng, rate, until_s=LAST_S)
    ticks = ((np.concatenate([[batch.begin_s], batch.end_s]) - BORN_S) * rate).astype(np.int64)
    host_s = fit.host_s(ticks)
    trace = PowerTrace.of(
        host_s[:-1],
        host_s[1:],
        watts(batch.shunt, batch.bus, calibration),
        sample_flags(batch.shunt, batch.bus, PROFILES[profile].config),
    )
    model = calibration.errors(PROFILES[profile].config, float(batch.bus[-1] >> 3) * 4e-3, dithered=dither)
    return trace, replace(model, sync_s=fit.limit_s, clock_relative=fit.rate_error)


def phases(rng: Rng, load: SteppedLoad) -> tuple[list[Mark], float]:
    """One to five phases of 0.2 s to 8 s; in half of the cases they begin where the load steps."""
    edges = np.sort(rng.uniform(FIRST_S, LAST_S, rng.integers(2, 7)))
    if rng.random() < 0.5:
        edges = load.times_s[np.clip(np.searchsorted(load.times_s, edges), 1, len(load.times_s) - 2)]
    edges = np.clip(edges, FIRST_S, LAST_S)
    kept = [float(edges[0])]
    for edge in edges[1:]:
        if edge - kept[-1] >= 0.2:
            kept.append(float(edge))
    if len(kept) < 2:
        kept = [FIRST_S, LAST_S]
    names = list(Phase)
    return [Mark(t_s, names[i % len(names)]) for i, t_s in enumerate(kept[:-1])], kept[-1]


def with_gaps(rng: Rng, trace: PowerTrace) -> PowerTrace:
    """The trace without a few batches of 16."""
    keep = np.ones(len(trace), np.bool_)
    for first in rng.integers(0, len(trace), rng.integers(1, 4)):
        keep[first : first + 16] = False
    return PowerTrace(*(column[keep] for column in (trace.start_s, trace.stop_s, trace.power_w, trace.flags)))


def study(cases: int = 500, seed: int = 0, *, dither: bool = True) -> list[Outcome]:
    """Every phase of every case that has a figure."""
    outcomes = []
    for case in range(cases):
        rng = np.random.default_rng([seed, case])
        name, profile = list(LOADS)[case % len(LOADS)], list(PROFILES)[case // len(LOADS) % 3]
        calibrated = bool(rng.random() < 0.5)
        load = LOADS[name](rng)
        errors, calibration = chain(rng, calibrated=calibrated)
        trace, model = sampled(rng, load, errors, calibration, profile, dither=dither)
        if rng.random() < 0.1:
            trace = with_gaps(rng, trace)
        marks, stop_s = phases(rng, load)
        edges = [*(mark.t_s for mark in marks), stop_s]
        truth = np.diff(load.energy_j(edges))
        for sums in tally(trace, marks, stop_s, errors=model):
            figure = judge(sums)
            true_j = sum(float(j) for j, mark in zip(truth, marks, strict=True) if mark.phase is sums.phase)
            if figure.energy_j is not None:
                outcomes.append(Outcome(case, name, profile, calibrated, figure, true_j))
    return outcomes


def one_each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The first phase of each case: the others share its sensor, and so its errors."""
    return list({outcome.case: outcome for outcome in reversed(list(outcomes))}.values())


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Shares of truths inside, by what was drawn; and how large errors are against the half width."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for outcome in outcomes:
        groups["all phases"].append(outcome.inside)
        for word in (outcome.load, outcome.profile, "calibrated" if outcome.calibrated else "uncalibrated"):
            groups[word].append(outcome.inside)
    first = one_each(outcomes)
    ratio = [outcome.error_j / (outcome.figure.uncertainty_j or 1.0) for outcome in first]
    beyond = [abs(outcome.error_j) > (outcome.figure.worst_case_j or 0.0) for outcome in outcomes]
    return {
        "cases": len(first),
        "inside": sum(outcome.inside for outcome in first) / len(first),
        "rms_error_in_half_widths": float(np.sqrt(np.mean(np.square(ratio)))),
        "beyond_worst_case": sum(beyond) / len(beyond),
        "median_half_width_relative": float(
            np.median([(o.figure.uncertainty_j or 0.0) / max(o.truth_j, 1e-9) for o in first])
        ),
        "groups": {name: {"phases": len(hits), "inside": sum(hits) / len(hits)} for name, hits in groups.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-dither", action="store_true", help="a bridge that converts without pause")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    found = summary(study(options.cases, options.seed, dither=not options.no_dither))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    groups = found.pop("groups")
    for name, value in found.items():
        print(f"{name:28} {value:.4g}")
    for name, group in groups.items():
        print(f"  {name:26} {group['inside']:.3f} of {group['phases']}")


if __name__ == "__main__":
    main()
