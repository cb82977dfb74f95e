"""The class sums that a bundle carries for heads of single devices: what its makers' labelled examples say of classes.

Sums over embeddings alone: no example can be read from those of many. Devices add their own class means to these
(`protos/model/head_kinds/personal_means.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from firmware_tools.convert.examples import Examples
from protos.errors import DataError, UsageError
from protos.model.backbone import Backbone
from protos.model.bundle import BY_CLASS, GRAM
from protos.model.head_algebra import Array

SUMS_FILE = "class_sums.npz"
# A Gram matrix of this width takes 4.2 MB, and a board that works with it some 70 MB for as long.
WIDEST = 1024
_PIECE = 512


def write_class_sums(
    path: Path, backbone: Backbone, data: Examples, affine: tuple[Array, Array], classes: int, *, where: str
) -> None:
    """Write float32 "gram" [D + 1, D + 1], the sum of x x^T, and "by_class" [K, D + 1], that of x, over all calibration
    examples; x standardised embeddings and a one.

    Raises:
        UsageError: no examples are given, or the embedding is too wide.
        DataError: a class has no example, or an example is of no class of the bundle.
    """
    basis = data.calibration
    if basis is None:
        raise UsageError("--class-sums sums up labelled examples, and none are given", where=where,
                         fix="give --calibrate DATA")  # fmt: skip
    (mean, scale), width = affine, len(affine[0])
    if width > WIDEST:
        raise UsageError(
            f"--class-sums: an embedding of {width} numbers has {4 * (width + 1) ** 2 / 1e6:.0f} MB of sums",
            where=where, fix=f"{WIDEST} numbers at most; leave --class-sums out",
        )  # fmt: skip
    counts = np.bincount(basis.y, minlength=classes)
    if len(counts) > classes or not counts.all():
        lacking = [str(number) for number in range(classes) if not counts[number]]
        what = f"examples of classes up to {len(counts) - 1}" if len(counts) > classes else (
            f"no example of {len(lacking)} of {classes} classes: {', '.join(lacking[:8])}")  # fmt: skip
        raise DataError(f"--class-sums: {what}", where=basis.source, fix="give examples of each class of the bundle")
    gram, by_class = np.zeros((width + 1, width + 1)), np.zeros((classes, width + 1))
    for first in range(0, len(basis), _PIECE):
        rows = slice(first, first + _PIECE)
        embeddings = backbone.dequantise(backbone.embed(basis.x[rows]))
        x = np.hstack([(embeddings.astype(np.float64) - mean) * scale, np.ones((len(embeddings), 1))])
        gram += x.T @ x
        np.add.at(by_class, basis.y[rows], x)
    np.savez(path, allow_pickle=False, **{GRAM: gram.astype(np.float32), BY_CLASS: by_class.astype(np.float32)})
