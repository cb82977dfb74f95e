"""How quick simulated fleets are: wall time, device rounds a second and memory, one row a size.

    .venv/bin/python benchmarks/simulate.py --json OUT

    .venv/bin/python benchmarks/inputs/wide_bundle.py FOLDER --examples 20000
    .venv/bin/python benchmarks/simulate.py --wide FOLDER --size exact,100,5 --size ray,100,5

Each row runs in a process of its own, so that its memory is its own. The plan is one epoch at rate 0.1, everything else
as plans have it; data are dealt out alike, and the head has 10,250 numbers. FOLDER is what `wide_bundle.py` made;
without it one is made first in a temporary folder, half a minute that is not in the figures. Where Ray is installed, it
runs the smaller size beside one process: `head` is the same where all bits are.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from inputs.wide_bundle import make

from protos.atomic import write_whole

SIZES = (("exact", 8, 6), ("exact", 100, 50), ("vectorised", 100, 50), ("vectorised", 10_000, 20))
WHOLE = [f"{engine},{devices},{rounds}" for engine, devices, rounds in SIZES]
BESIDE_RAY = ["exact,100,5", "ray,100,5"]
EXAMPLES = 20_000


def row(engine: str, devices: int, rounds: int, wide: Path) -> dict[str, Any]:
    """One simulation, in this process."""
    # Here: the process that starts the others needs none of it.
    import resource
    import time

    from coordinator.api import simulate
    from protos.update import trees

    began_s = time.process_time()
    made = simulate(
        {"run": {"name": "speed", "rounds": rounds, "seed": 1}, "train": {"rate": 0.1, "epochs": 1}},
        devices=devices, data=str(wide / "device.npz"), bundle=wide / "bundle", partition="iid", engine=engine,
    )  # fmt: skip
    return {
        "engine": engine,
        "devices": devices,
        "rounds": rounds,
        "params": sum(value.size for value in made.head.values()),
        "wall_s": round(made.wall_s, 2),
        "cpu_s": round(time.process_time() - began_s, 2),
        "device_rounds_per_s": round(made.device_rounds / made.wall_s, 1),
        "rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "state": made.outcome.run["state"],
        "accepted": int(made.arrays["accepted"].sum()),
        # The same for the same bits.
        "head": trees.version(made.head)[:16],
        "final_accuracy": made.outcome.run["final_accuracy"],
        "virtual_s": round(made.virtual_s, 1),
    }


def measure(sizes: list[list[str]], wide: Path, to: Path | None) -> None:
    """A process a size; rows are written to ``to`` as they come.

    Raises:
        SystemExit: A process failed.
    """
    rows: list[dict[str, Any]] = []
    for size in sizes:
        command = [sys.executable, __file__, "--row", "--wide", str(wide), "--size", ",".join(size)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"simulate: {','.join(size)} ended with {done.returncode}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
        if to is not None:
            with write_whole(to) as file:
                file.write(json.dumps({"rows": rows}, indent=2).encode())


def main() -> None:
    """Measure all sizes, writing rows as they come."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wide", type=Path, metavar="FOLDER", help="what wide_bundle.py made (default: made now)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--size", action="append", metavar="ENGINE,DEVICES,ROUNDS", help=f"default: {' '.join(WHOLE)}")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    beside_ray = BESIDE_RAY if importlib.util.find_spec("ray") else []
    sizes = [text.split(",") for text in arguments.size or [*WHOLE, *beside_ray]]
    if arguments.row:
        ((engine, devices, rounds),) = sizes
        print(json.dumps(row(engine, int(devices), int(rounds), arguments.wide)))
        return
    with tempfile.TemporaryDirectory() as made:
        wide = arguments.wide
        if wide is None:
            wide = Path(made) / "wide"
            make(wide, EXAMPLES)
        measure(sizes, wide, arguments.json)


if __name__ == "__main__":
    main()
