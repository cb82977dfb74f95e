"""How long Keras models take as integer ones, each beside the first, which it was made from.

    .venv/bin/python benchmarks/paper_methods/latency.py whole.h5 small.keras --repeat 3 --json OUT

Models take turns of a third of a millisecond on one thread, with the engine that devices run; a share is the median
over turns of what a model takes of the first one's time in the same turn, so that what else the machine does is in
both. Beside it stands the load of the machine. Ranges are those of noise, which
kernels take as long for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np


def measured(models: list[Path], *, repeat: int = 1) -> list[dict[str, Any]]:
    """Of each model milliseconds and shares of the first one's, a value for each repeat, and the load before each."""
    from firmware_tools.convert.sources.keras_loading import load_keras
    from firmware_tools.prune.integer_cost import integer_model, timed_in_turn

    contents = []
    for path in models:
        model = load_keras(path)
        shape = [int(size) for size in model.inputs[0].shape[1:]]
        noise = np.random.default_rng(0).uniform(0, 255, (100, *shape)).astype(np.float32)
        contents.append(integer_model(model, noise, where=path.name))
    found: list[dict[str, Any]] = [{"model": path.name, "ms": [], "share": [], "load": []} for path in models]
    for _ in range(repeat):
        load, times = os.getloadavg()[0], timed_in_turn(contents)
        if times is None:
            raise SystemExit("latency: the engine that devices run refuses one of the models")
        for one, timed in zip(found, times, strict=True):
            one["ms"].append(timed.ms)
            one["share"].append(timed.share)
            one["load"].append(load)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help=".keras or .h5; the first is compared to")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="how many times (default 3)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    found = measured(options.models, repeat=options.repeat)
    for one in found:
        ms, share, load = (
            ", ".join(f"{value:.{digits}f}" for value in one[key])
            for key, digits in (("ms", 4), ("share", 3), ("load", 1))
        )
        print(f"{one['model']}: {ms} ms; share {share}; at a load of {load}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
