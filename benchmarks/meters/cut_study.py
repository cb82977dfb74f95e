"""How to divide a power sample that a mark cuts: four rules, over seeded phases of 200 ms.

Prints the root-mean-square and the largest error of a phase's joules, in per cent of it. Clock and sensor are perfect
but for dither, noise and register steps, so that nothing but the division is seen.

    .venv/bin/python benchmarks/meters/cut_study.py
    .venv/bin/python benchmarks/meters/cut_study.py --phases 2000 --json cuts.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.meters.study_loads import SteppedLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Calibration, watts
from protos.energy.trace import PowerTrace
from protos.energy.trace_splitting import between, cut_samples, stepped

Floats = npt.NDArray[np.float64]
SHUNT_OHM, SUPPLY_V = 0.02, 5.0
PHASE_S = 0.2


def constant(trace: PowerTrace, edges: Floats) -> PowerTrace:
    """Constant power in every sample."""
    return trace


def _at_the_mark(trace: PowerTrace, edges: Floats, *, scaled: bool) -> PowerTrace:
    """Neighbours' powers on either side of the mark, made to keep the sample's energy: scaled, or shifted."""
    at = cut_samples(trace, edges)
    power, start, stop = list(trace.power_w), list(trace.start_s), list(trace.stop_s)
    for index, edge in sorted(zip(at.tolist(), edges.tolist(), strict=True), reverse=True):
        if not 0 < index < len(trace) - 1:
            continue
        before, after, own = power[index - 1], power[index + 1], power[index]
        share = (edge - start[index]) / (stop[index] - start[index])
        mean = share * before + (1 - share) * after
        if scaled:
            before, after = before * own / mean, after * own / mean
        else:
            before, after = before + own - mean, after + own - mean
        start.insert(index + 1, edge)
        stop.insert(index, edge)
        power[index : index + 1] = [before, after]
    return PowerTrace.of(start, stop, power)


RULES: dict[str, Callable[[PowerTrace, Floats], PowerTrace]] = {
    "constant power": constant,
    "step at the mark, scaled": lambda trace, edges: _at_the_mark(trace, edges, scaled=True),
    "step at the mark, shifted": lambda trace, edges: _at_the_mark(trace, edges, scaled=False),
    "step where the energy says": stepped,
}


def _phase_load(rng: np.random.Generator, case: str) -> tuple[SteppedLoad, float]:
    """A load and the instant at which a phase of 200 ms is marked."""
    begin = 10.0 + rng.uniform(0, 0.02)
    idle_w, full_w = rng.uniform(2, 4), rng.uniform(5, 8)
    if case == "marks not at steps":
        lengths = rng.exponential(0.02, 600)
        times = 9.0 + np.concatenate([[0.0], np.cumsum(lengths)])
        return SteppedLoad(times, np.where(np.arange(600) % 2, full_w, idle_w)), begin
    late_s = rng.uniform(0, 3e-3, 2) if case == "load follows the mark by 0-3 ms" else np.zeros(2)
    times = np.array([9.0, begin + late_s[0], begin + PHASE_S + late_s[1], 12.0])
    marked = begin + (rng.uniform(-3e-4, 3e-4) if case == "clock wrong by up to 0.3 ms" else 0.0)
    return SteppedLoad(times, np.array([idle_w, full_w, idle_w])), marked


CASES = ("step at the mark", "clock wrong by up to 0.3 ms", "load follows the mark by 0-3 ms", "marks not at steps")


def study(phases: int = 600, seed: int = 0) -> list[dict[str, Any]]:
    """One row per case, profile and rule."""
    rows = []
    for case in CASES:
        for name, profile in PROFILES.items():
            errors: dict[str, list[float]] = {rule: [] for rule in RULES}
            for number in range(phases):
                rng = np.random.default_rng([seed, CASES.index(case), number])
                load, marked = _phase_load(rng, case)
                sensor = SimulatedIna219(
                    load, supply_v=SUPPLY_V, shunt_ohm=SHUNT_OHM, profile=profile, rng=rng, start_s=9.5, dither=True,
                    errors=SensorErrors(oscillator=float(rng.uniform(-0.1, 0.1)), noise_v=5e-6),
                )  # fmt: skip
                batch = sensor.take(sensor.ready(10.5))
                # The sensor's own bus steps would hide the division: the supply is known here.
                bus = np.full(len(batch.shunt), round(SUPPLY_V / 4e-3) << 3, np.uint16)
                ends = np.concatenate([[batch.begin_s], batch.end_s])
                power = watts(batch.shunt, bus, Calibration(1, round(SHUNT_OHM * 1e6)))
                trace = PowerTrace.of(ends[:-1], ends[1:], power)
                # What belongs to the phase: where the load was at the instants that were meant.
                meant = load.times_s[1] if case == "clock wrong by up to 0.3 ms" else marked
                truth_j = float(np.diff(load.energy_j([meant, meant + PHASE_S]))[0])
                edges = np.array([marked, marked + PHASE_S])
                for rule, divide in RULES.items():
                    divided = divide(trace, edges)
                    joules = float(between(divided, divided.power_w, edges)[0])
                    errors[rule].append(joules / truth_j - 1)
            for rule, found in errors.items():
                rms = float(np.sqrt(np.mean(np.square(found))))
                largest = float(np.abs(found).max())
                rows.append({"case": case, "profile": name, "rule": rule, "rms": rms, "largest": largest})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    rows = study(options.phases, options.seed)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for row in rows:
        errors = f"{100 * row['rms']:7.3f} % {100 * row['largest']:7.3f} %"
        print(f"{row['case']:32} {row['profile']:10} {row['rule']:28} {errors}")


if __name__ == "__main__":
    main()
