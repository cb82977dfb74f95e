"""Gestures from motion: a small CNN trained on a few people, fine-tuned on boards that others wear, each with its own.

    python3 examples/projects/gesture/run.py -o gestures/

The motion is synthesised (motion.py says how). Boards keep tables of acceleration; a front end in the bundle cuts them
into windows of a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import journey  # noqa: E402
import motion  # noqa: E402

FRONT_END = f"windows length={motion.LENGTH} hop={motion.LENGTH} columns={','.join(motion.COLUMNS)} label=activity"


def pretrained(folder: Path, windows: int) -> Path:
    """A CNN over time that has seen four people."""
    x, y, _ = motion.examples(range(4), windows, seed=1)
    np.savez(folder / "seen.npz", x=x, y=y)
    journey.script(HERE / "model.py", folder)
    return folder / "gesture.keras"


def main() -> None:
    """Pre-train, convert by the table of a logger, simulate, tell."""
    options = journey.options(__doc__)
    people, windows = (4, 20) if options.small else (10, 40)
    with journey.room(options.output) as folder:
        print("no recordings of people are at hand: the motion is synthesised", flush=True)
        model = pretrained(folder, windows)
        table = motion.table(folder / "logger.csv", range(4), windows, seed=1)
        journey.command(
            "firmware-tools", "convert", model, "--front-end", FRONT_END, "--calibrate", table, "--eval", table,
            "-o", folder / "bundle",
        )  # fmt: skip
        # Those who wear boards are others than those whom the model has seen.
        x, y, whose = motion.examples(range(10, 10 + people), windows, seed=1)
        held_out = np.random.default_rng(0).random(len(y)) < 0.25
        data = journey.keep(folder / "worn.npz", x, y, held_out, whose, list(motion.GESTURES))
        found = journey.fleet(
            folder, HERE / "plan.toml", data, *(("--set", "run.rounds=3") if options.small else ()),
            devices=people, boards="pi-zero-2", partition="natural",
        )  # fmt: skip
        journey.conclude(found)


if __name__ == "__main__":
    main()
