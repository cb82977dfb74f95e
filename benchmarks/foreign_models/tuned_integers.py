"""What fine-tuning as integers gives back: ResNet8 of MLPerf Tiny on CIFAR-10, several draws of calibration examples.

Each draw takes 500 of the 5,000 training images for the ranges; `convert --qat` trains on the 5,000, and the
2,000 test images judge. The parameters are the defaults of the command, fixed
before these draws on draw 100.
Aim: int8 accuracy at least that of float less 0.1 points.

    .venv/bin/python benchmarks/foreign_models/tuned_integers.py --json tuned_integers.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.convert.many import Converter

AIM_POINTS = 0.1


def row(converter: Converter, model: Path, data: Path, folder: Path, draw: int) -> dict[str, Any]:
    """Accuracies in per cent of one draw: float, plain int8, fine-tuned int8."""
    done = converter.call(
        "convert", model, "--eval", data, "--qat", data, "--seed", str(draw), "-o", folder / f"b{draw}", "--json"
    )
    if done.code != 0:
        sys.exit(done.stderr)
    provenance = json.loads(done.stdout)["provenance"]
    tuned, accuracy = provenance["quantisation"]["fine_tuning"], provenance["accuracy"]
    return {
        "draw": draw,
        "float": 100 * accuracy["float"],
        "plain": 100 * tuned["accuracy"],
        "tuned": 100 * accuracy["int8"],
        "kept": tuned["kept"],
        "loss_before": tuned["plain"],
        "loss_after": tuned["loss"],
        "ok": accuracy["int8"] >= accuracy["float"] - AIM_POINTS / 100 - 1e-9,
    }


def main() -> int:
    """Run the draws and print a table; exit code 1 where one falls short of the aim."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("EDGEJOULE_REFERENCE_DATA") or beside))
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    model = options.data / "models_mlperf_tiny" / "pretrainedResnet.h5"
    if not model.is_file():
        parser.error(f"no reference models in {options.data}: name their folder with --data")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgejoule-tuned-") as name, Converter() as converter:
        folder = Path(name)
        with np.load(options.data / "cifar10_subset" / "cifar10_jpeg.npz", allow_pickle=False) as held:
            x = np.concatenate([held["x_train"], held["x_test"]])
            y = np.concatenate([held["y_train"], held["y_test"]])
            np.savez(folder / "cifar.npz", x=x, y=y, is_test=np.arange(len(y)) >= len(held["y_train"]))
        print("| draw | float | int8 | int8, fine-tuned |\n|---|---|---|---|")
        for draw in range(options.draws):
            one = row(converter, model, folder / "cifar.npz", folder, draw)
            rows.append(one)
            print(f"| {draw} | {one['float']:.2f} % | {one['plain']:.2f} % | {one['tuned']:.2f} % |", flush=True)
            if options.json is not None:
                options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    good = sum(one["ok"] for one in rows)
    print(f"{good} of {len(rows)} draws at least at float less {AIM_POINTS} points")
    return 0 if good == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
