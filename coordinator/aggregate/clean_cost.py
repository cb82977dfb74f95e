"""What a robust rule costs when nobody is malicious: how far its result is from the plain mean of the same changes.

Two fleets are drawn from fixed seeds: one whose devices differ by noise alone, and one whose devices each know some
classes better than others, by shares from Dirichlet(0.5), as in `coordinator/lab/partition.py`. A rule that leaves out
what is unlike the others leaves out, in the second, what only few devices know.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from coordinator.aggregate.robust import Gathered, RobustSettings

_TRIALS, _CLASSES, _WIDTH = 20, 10, 32
_SKEW = 0.5


def clean_cost(settings: RobustSettings, devices: int) -> dict[str, float]:
    """``|rule - mean| / |mean|`` for equal weights, mean of 20 draws: "alike" and "skewed".

    Args:
        devices: whose reports are folded, at least 1; 200 at most are drawn.
    """
    count = max(1, min(devices, 200))
    random = np.random.default_rng(0)
    found = {"alike": 0.0, "skewed": 0.0}
    for _ in range(_TRIALS):
        common = random.standard_normal((_CLASSES, _WIDTH))
        noise = random.standard_normal((count, _CLASSES, _WIDTH))
        shares = random.dirichlet(np.full(_CLASSES, _SKEW), count)
        for name, known in (("alike", np.ones((count, _CLASSES))), ("skewed", _CLASSES * shares)):
            changes = (known[:, :, None] * common + noise).reshape(count, -1).astype(np.float32)
            mean = changes.mean(axis=0, dtype=np.float64)
            gathered = Gathered({"x": (changes.shape[1],)}, replace(settings, weight_cap=None), fednova=False)
            for at, change in enumerate(changes):
                gathered.add(str(at), {"x": change}, 1.0, 1.0, 0.0)
            made = gathered.finish()
            assert made is not None
            found[name] += float(np.linalg.norm(made["x"] - mean) / np.linalg.norm(mean)) / _TRIALS
    return found
