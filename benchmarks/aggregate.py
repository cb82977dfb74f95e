"""How fast decoded updates are folded into one mean, beside what the machine's memory allows.

    .venv/bin/python benchmarks/aggregate.py --json OUT            # a minute
    .venv/bin/python benchmarks/aggregate.py --json OUT --quick    # one small size

A fold adds the change of one device after the other to a float64 accumulator, as a round does while reports come. Each
row: parameters of the head, devices, coordinates folded a second (best of several passes over all devices, each device
with an array of its own, so that no cache holds them); and the same for one multiply-add of numpy on arrays of the same
size and types, which is the least that can be done.
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np

from coordinator.aggregate.rules import RULES

SIZES = ((10_000, 200), (1_000_000, 16), (10_000_000, 4))
QUICK = ((10_000, 20),)
PASSES = 5


def fastest(work: Callable[[], Any], count: int) -> float:
    """Coordinates a second of the best of several passes."""
    best_s = float("inf")
    for _ in range(PASSES):
        begin_s = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - begin_s)
    return count / best_s


def measure(params: int, devices: int) -> dict[str, Any]:
    """One row."""
    random = np.random.default_rng(params)
    # A kernel and a bias, as heads are.
    shapes = {"out_bias": (params // 100,), "out_kernel": (params - params // 100,)}
    updates = [
        {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()} for _ in range(devices)
    ]
    rule = RULES["fednova"]

    def fold() -> None:
        state = rule.start(shapes)
        for at, update in enumerate(updates, start=1):
            state = rule.add(state, update, float(at), 10.0)

    flat = [np.concatenate([update[name] for name in sorted(update)]) for update in updates]
    total = np.zeros(params)

    def multiply_add() -> None:
        for at, update in enumerate(flat, start=1):
            np.add(total, update * np.float64(at), out=total)

    count = params * devices
    return {
        "params": params,
        "devices": devices,
        "param_devices_per_s": round(fastest(fold, count)),
        "numpy_multiply_add_per_s": round(fastest(multiply_add, count)),
    }


def main() -> int:
    """The command: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    rows = [measure(*size) for size in (QUICK if chosen.quick else SIZES)]
    for row in rows:
        print("  ".join(f"{key} {value:,}" for key, value in row.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
