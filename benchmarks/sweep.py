"""How long a sweep takes: three policies, three seeds, eight simulated devices, from one file to a table.

.venv/bin/python benchmarks/sweep.py [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET_S = 180.0
SWEEP = """\
[sweep]
name = "policies"
devices = 8
data = "workshop/fleet.npz"
partition = "dirichlet:0.5"
sensor = "estimate"

[run]
bundle = "bundle"
rounds = 4
seed = [0, 1, 2]

[train]
epochs = 5
rate = 0.1

[policy.plain]
"planner.policy" = "none"

[policy.one-bit]
"update.bits" = 1

[policy.planned]
"planner.policy" = "joules"
"budget.per_round_j" = 5.0
"""


def main() -> int:
    """Make a model, sweep, print the table and how long it took; 1 when that is above the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgejoule-sweep-") as name:
        folder = Path(name)
        call(folder, "firmware_tools", "pretrain", "digits", "-o", "workshop")
        calibrate = ("--calibrate", "workshop/workshop.npz")
        call(folder, "firmware_tools", "convert", "workshop/digits.keras", *calibrate, "-o", "bundle")
        (folder / "policies.toml").write_text(SWEEP)
        begun_s, before = time.monotonic(), os.getloadavg()[0]
        out = call(folder, "coordinator", "sweep", "policies.toml", "-o", "out")
        wall_s = time.monotonic() - begun_s
        said = json.loads((folder / "out" / "sweep.json").read_text())
        runs = len(list((folder / "out" / "runs").iterdir()))
        picture = (folder / "out" / "pareto.png").exists()
    print(out)
    print(f"{runs} runs in {wall_s:.0f} s (target {TARGET_S:.0f} s; load {before:.1f} before)")
    rows = {"runs": runs, "wall_s": wall_s, "load_before": before, "picture": picture, "cells": said["cells"]}
    if arguments.json:
        arguments.json.write_text(json.dumps({**rows, "differences": said["differences"]}, indent=2))
    return 0 if wall_s <= TARGET_S else 1


def call(folder: Path, program: str, *words: str) -> str:
    """Run one of our programs in a folder; what it printed."""
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-m", f"{program}.cli", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
