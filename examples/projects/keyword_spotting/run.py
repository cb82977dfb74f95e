"""Keyword spotting: the MLPerf Tiny model, cut before its last layer, fine-tuned by eight boards on its real samples.

python3 examples/projects/keyword_spotting/run.py -o spotted/
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import journey  # noqa: E402
import stand_in  # noqa: E402

NAMES = ["down", "go", "left", "no", "off", "on", "right", "stop", "up", "yes", "silence", "unknown"]


def main() -> None:
    """Convert, simulate, tell."""
    options = journey.options(__doc__)
    with journey.room(options.output) as folder:
        samples = journey.reference("models_mlperf_tiny", "kws01_1000.npz")
        model = journey.reference("models_mlperf_tiny", "kws_ref_model.tflite")
        if samples is None or model is None:
            data, model = stand_in.digits(folder), stand_in.digits_model(folder)
        else:
            with np.load(samples, allow_pickle=False) as stored:
                x, y = stored["x"], stored["y"]
            # MFCC of the model's own integers, -128..127; what a board stores are 0..255, one channel.
            x = (x.astype(np.int16) + 128).astype(np.uint8)[..., None]
            held_out = np.random.default_rng(0).random(len(y)) < 0.3
            data = journey.keep(folder / "words.npz", x, y, held_out, names=NAMES)
        journey.command("firmware-tools", "convert", model, "--eval", data, "-o", folder / "bundle")
        few = ("--set", "run.rounds=2") if options.small else ()
        found = journey.fleet(
            folder, HERE / "plan.toml", data, *few,
            devices=4 if options.small else 8, boards="pi-zero-2,pi4", partition="dirichlet:0.5",
        )  # fmt: skip
        journey.conclude(found)


if __name__ == "__main__":
    main()
