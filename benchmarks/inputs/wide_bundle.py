"""A bundle whose embedding is 1,024 wide, and data for it: what the benchmark of memory and the aarch64 tests train.

    .venv/bin/python benchmarks/inputs/wide_bundle.py FOLDER --examples 5000

FOLDER gets ``bundle/``, ``device.npz`` (that many examples to train on) and ``held-out.npz``. The backbone is small,
so that even an emulated board embeds thousands of examples in a minute; the head has the size of one behind a
MobileNetV1. Needs the workshop extra.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

WIDTH, CLASSES = 1024, 10
_NOISE = 60
_MAKE_MODEL = """
import sys, keras
keras.utils.set_random_seed(1)
layers = keras.layers
keras.Sequential([
    layers.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Conv2D(8, 3, activation="relu"),
    layers.Flatten(), layers.Dense(int(sys.argv[2]), activation="relu"), layers.Dense(int(sys.argv[3])),
]).save(sys.argv[1])
"""


def write_data(path: Path, count: int, *, seed: int, test: bool = False) -> Path:
    """Pictures uint8 [count, 8, 8, 1] of ten classes, each a pattern of its own under noise, and their labels."""
    patterns = np.random.default_rng(0).integers(0, 256 - _NOISE, (CLASSES, 8, 8, 1))
    random = np.random.default_rng(seed)
    y = random.permutation(np.arange(count) % CLASSES).astype(np.int32)
    x = (patterns[y] + random.integers(0, _NOISE, (count, 8, 8, 1))).astype(np.uint8)
    np.savez(path, x=x, y=y, is_test=np.full(count, test))
    return path


def make(folder: Path, examples: int) -> None:
    """Fill ``folder``, which must not hold a bundle yet.

    Raises:
        SystemExit: TensorFlow is missing, or the conversion fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, calibration = folder / "wide.keras", write_data(folder / "calibration.npz", 200, seed=1)
    write_data(folder / "device.npz", examples, seed=2)
    write_data(folder / "held-out.npz", 500, seed=3, test=True)
    convert = ["-m", "firmware_tools.cli", "convert", model, "--calibrate", calibration, "--name", "wide"]
    for command in (
        ["-c", _MAKE_MODEL, model, WIDTH, CLASSES],
        [*convert, "--min-agreement", "0.8", "-o", folder / "bundle"],
    ):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"wide_bundle: no bundle: {(done.stderr.strip().splitlines() or ['?'])[-1][:300]}")


def main() -> int:
    """The command: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--examples", metavar="N", type=int, default=5000, help="to train on (default: 5000)")
    options = parser.parse_args()
    make(options.folder, options.examples)
    return 0


if __name__ == "__main__":
    sys.exit(main())
