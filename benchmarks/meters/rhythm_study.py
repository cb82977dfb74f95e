"""Loads in step with the samples: how wrong joules get, with conversions dithered and without.

A square load of 3 and 6 W, five seconds, by its period in parts of the mean time between samples. The sensor is
perfect but for its register steps. Prints root-mean-square errors over seeds, and the half width of the 95 % interval.

    .venv/bin/python benchmarks/meters/rhythm_study.py
    .venv/bin/python benchmarks/meters/rhythm_study.py --seeds 50 --json rhythm.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.bridge.simulator.loads import SquareLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Calibration, watts
from protos.energy.interval import combine
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.energy.windows import sum_window

SHUNT_OHM, SUPPLY_V, SPAN_S = 0.02, 5.0, 5.0
PARTS = (0.111, 0.217, 0.5, 0.95, 1.0, 1.05, 1.5, 2.0, 3.3, 11.0, 47.0)


def one(profile: str, part: float, *, dither: bool, seed: int) -> tuple[float, float]:
    """Relative error of five seconds, and the relative half width of its interval."""
    rng = np.random.default_rng([seed, 1])
    config = PROFILES[profile].config

    def sensor(load: SquareLoad) -> SimulatedIna219:
        return SimulatedIna219(
            load, supply_v=SUPPLY_V, shunt_ohm=SHUNT_OHM, errors=SensorErrors(), profile=PROFILES[profile],
            rng=np.random.default_rng([seed, 2]), start_s=float(rng.uniform(1, 2)), dither=dither,
        )  # fmt: skip

    ends_s = sensor(SquareLoad(3.0, 6.0, 1.0)).take(200).end_s
    load = SquareLoad(3.0, 6.0, part * float(np.diff(ends_s).mean()))
    probe = sensor(load)
    batch = probe.take(probe.ready(SPAN_S + 3))
    edges_s = np.concatenate([[batch.begin_s], batch.end_s])
    bus = np.full(len(batch.shunt), round(SUPPLY_V / 4e-3) << 3, np.uint16)
    trace = PowerTrace.of(edges_s[:-1], edges_s[1:], watts(batch.shunt, bus, Calibration(1, round(SHUNT_OHM * 1e6))))
    model = ErrorModel(
        supply_v=SUPPLY_V, current_step_a=config.shunt_step_v / SHUNT_OHM, shunt_s=config.shunt_s, dithered=dither
    )
    sums = sum_window(trace, 2.5, 2.5 + SPAN_S, model)
    true_j = float(np.diff(load.energy_j([2.5, 2.5 + SPAN_S]))[0])
    return sums.energy_j / true_j - 1, combine(sums.terms).expanded_j / true_j


def study(seeds: int = 25) -> list[dict[str, Any]]:
    """One row per profile, period, and dithered or not."""
    rows = []
    for profile in PROFILES:
        for dither in (False, True):
            for part in PARTS:
                found = np.array([one(profile, part, dither=dither, seed=seed) for seed in range(seeds)])
                rms = np.sqrt(np.mean(found**2, axis=0))
                rows.append(
                    {"profile": profile, "dithered": dither, "period_in_samples": part,
                     "rms_error": float(rms[0]), "half_width": float(rms[1])}
                )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=25)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    rows = study(options.seeds)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    for row in rows:
        how = "dithered" if row["dithered"] else "not dithered"
        error = f"error {100 * row['rms_error']:7.3f} %   95 % half width {100 * row['half_width']:7.3f} %"
        print(f"{row['profile']:10} {how:13} period {row['period_in_samples']:6.3f} samples   {error}")


if __name__ == "__main__":
    main()
