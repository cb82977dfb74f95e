"""What stands in where published models and data are absent: scikit-learn's digits, and a small CNN on half of them.

The digits are 1,797 images of 8 x 8 pixels that come with scikit-learn, by hand of 43 people; they are no keywords and
no flowers. What is shown with them is the way, not the result.
"""

from __future__ import annotations

from pathlib import Path

import journey
import numpy as np

HERE = Path(__file__).resolve().parent


def digits(folder: Path) -> Path:
    """The second half of the digits as examples, uint8 [899, 8, 8, 1], values 0..16."""
    from sklearn.datasets import load_digits

    print("scikit-learn's digits stand in: what follows shows the way, not the result", flush=True)
    found = load_digits()
    x, y = found.images[898:].astype(np.uint8)[..., None], found.target[898:]
    held_out = np.random.default_rng(0).random(len(y)) < 0.3
    return journey.keep(folder / "digits.npz", x, y, held_out, names=[str(number) for number in range(10)])


def digits_model(folder: Path) -> Path:
    """A CNN that saw the first half, for two passes: room is left for a fleet."""
    from sklearn.datasets import load_digits

    found = load_digits()
    np.savez(folder / "seen.npz", x=found.images[:898].astype(np.float32)[..., None], y=found.target[:898])
    journey.script(HERE / "stand_in_model.py", folder)
    return folder / "digits.keras"
