"""Class counts, class sums and the Gram matrix of integer embeddings, as exact whole numbers.

A linear head on frozen features has a closed form in these alone (Fed3R: Fanì, Camoriano, Caputo, Ciccone, ICML 2024,
arXiv 2406.01116; AFL: He et al., CVPR 2025). Embeddings are int8 or uint8, so that with a public offset z = q - offset

    counts[k] = examples of class k,   sums[k] = sum of z over class k,   gram = sum of z z^T over all

are integers. Integers add without rounding: whoever comes first, whatever tree adds them up, the bits are the same, and
subtracting a device leaves what there would be without it.

Bounds: |z| <= 255, so an entry of ``gram`` is at most 255**2 n and one of ``sums`` 255 n. int64 holds them for up to
:data:`MAX_EXAMPLES` examples; a sum past that is refused before it is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import LabelError, ShapeError, UpdateError

Whole = npt.NDArray[np.int64]

LARGEST = 255
MAX_EXAMPLES = 1 << 47
assert LARGEST**2 * MAX_EXAMPLES < 1 << 63
# float32 holds every whole number up to here: a product of matrices whose entries stay below it is exact, in whatever
# order it is added up.
_EXACT = 1 << 24


@dataclass(frozen=True, eq=False)
class Moments:
    """The sums over a set of examples. Arrays are never changed after they were made.

    Attributes:
        counts: int64 [C], 0 or more.
        sums: int64 [C, D].
        gram: int64 [D * (D + 1) / 2], the upper triangle row by row: (0, 0), (0, 1) ... (1, 1) ...
    """

    counts: Whole
    sums: Whole
    gram: Whole

    @property
    def classes(self) -> int:
        return int(self.sums.shape[0])

    @property
    def width(self) -> int:
        return int(self.sums.shape[1])

    @property
    def examples(self) -> int:
        return int(self.counts.sum())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return all(np.array_equal(a, b) for a, b in zip(self._arrays(), other._arrays(), strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Moments) -> Moments:
        """The sums over both sets.

        Raises:
            ShapeError: of another width or number of classes.
            UpdateError: more than MAX_EXAMPLES together.
        """
        self._check_like(other)
        _check_count(self.examples + other.examples)
        return Moments(self.counts + other.counts, self.sums + other.sums, self.gram + other.gram)

    def __sub__(self, other: Moments) -> Moments:
        """The sums over what is left when ``other`` goes: bit for bit what they were without it.

        Raises:
            ShapeError: of another width or number of classes.
            UpdateError: ``other`` cannot be a part of this.
        """
        self._check_like(other)
        left = Moments(self.counts - other.counts, self.sums - other.sums, self.gram - other.gram)
        try:
            left.check()
        except UpdateError as error:
            raise UpdateError(
                f"what is subtracted was never added: what is left has {error.what}",
                fix="subtract only statistics that are part of the sum",
            ) from error
        return left

    def times(self, weight: int) -> Moments:
        """The sums over ``weight`` copies of each example: weights in fixed point keep sums exact.

        Raises:
            UpdateError: a negative weight, or more than MAX_EXAMPLES examples.
        """
        if weight < 0:
            raise UpdateError(f"a weight of {weight} is negative")
        _check_count(self.examples * weight)
        return Moments(self.counts * weight, self.sums * weight, self.gram * weight)

    def check(self) -> None:
        """What holds of every sum over examples.

        Raises:
            UpdateError: these are the sums of no set of examples.
        """
        if (self.counts < 0).any():
            raise UpdateError("a negative count")
        # As floats first: a sum of counts near 2**63 would wrap.
        if float(self.counts.astype(np.float64).sum()) > MAX_EXAMPLES:
            raise UpdateError(f"more than {MAX_EXAMPLES} examples")
        # abs would leave -2**63 as it is.
        bound = LARGEST * self.counts[:, None]
        if (self.sums > bound).any() or (self.sums < -bound).any():
            raise UpdateError("a class sum beyond what its count allows")
        squares = self.diagonal()
        if (squares < 0).any() or (squares > LARGEST**2 * self.examples).any():
            raise UpdateError("a sum of squares beyond what the count allows")
        rows, columns = triangle(self.width)
        # |G_ij| <= (G_ii + G_jj) / 2, since (z_i -+ z_j)**2 >= 0.
        limit = squares[rows] + squares[columns]
        if (self.gram > limit // 2).any() or (self.gram < -(limit // 2)).any():
            raise UpdateError("a product beyond its sums of squares")
        # sum_k s_k**2 / n_k <= G_ii (Cauchy and Schwarz); floats round in the 53rd bit.
        sums = self.sums.astype(np.float64)
        needed = (sums * sums / np.maximum(self.counts, 1)[:, None]).sum(axis=0)
        if (needed > squares * (1 + 1e-9)).any():
            raise UpdateError("class sums that are too large for the sums of squares")

    def diagonal(self) -> Whole:
        """[D] sums of squares."""
        rows = np.arange(self.width, dtype=np.int64)
        taken: Whole = self.gram[rows * self.width - rows * (rows - 1) // 2]
        return taken

    def square(self) -> npt.NDArray[np.float64]:
        """The Gram matrix as float64 [D, D]: exact while entries are below 2**53."""
        rows, columns = triangle(self.width)
        full = np.empty((self.width, self.width))
        full[rows, columns] = self.gram
        full[columns, rows] = self.gram
        return full

    def _arrays(self) -> tuple[Whole, Whole, Whole]:
        return self.counts, self.sums, self.gram

    def _check_like(self, other: Moments) -> None:
        if self.sums.shape != other.sums.shape:
            raise ShapeError(
                f"statistics of {other.classes} classes and width {other.width} do not go with those of "
                f"{self.classes} classes and width {self.width}"
            )


def triangle(width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Row and column of each entry of an upper triangle.

    >>> [one.tolist() for one in triangle(2)]
    [[0, 0, 1], [0, 1, 1]]
    """
    return np.triu_indices(width)


def nothing(classes: int, width: int) -> Moments:
    """The sums over no example."""
    return Moments(
        np.zeros(classes, np.int64), np.zeros((classes, width), np.int64), np.zeros(width * (width + 1) // 2, np.int64)
    )


def moments_of(embeddings: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int, offset: int) -> Moments:
    """The sums over embeddings as a backbone gives them.

    Blocks are multiplied as float32, which is exact as long as no sum passes 2**24: 258 examples of values up to 255,
    or 1,024 of values up to 128. The blocks are added as int64.

    Args:
        embeddings: int8 or uint8 [N, D]; may be memory-mapped.
        labels: [N] of 0..classes-1.
        offset: subtracted from each value; the backbone's zero point.

    Raises:
        ShapeError, LabelError: they do not fit.
    """
    if embeddings.ndim != 2 or embeddings.dtype not in (np.int8, np.uint8) or len(labels) != len(embeddings):
        raise ShapeError(f"{embeddings.dtype}{list(embeddings.shape)} and {len(labels)} labels are no embeddings")
    if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise LabelError(f"labels {int(labels.min())}..{int(labels.max())} in data for {classes} classes")
    info = np.iinfo(embeddings.dtype)
    largest = max(abs(int(info.min) - offset), abs(int(info.max) - offset))
    if largest > LARGEST:
        raise ShapeError(f"an offset of {offset} takes {embeddings.dtype} values past {LARGEST}")
    width = embeddings.shape[1]
    counts = np.bincount(labels.astype(np.intp), minlength=classes).astype(np.int64)
    sums, full = np.zeros((classes, width), np.int64), np.zeros((width, width), np.int64)
    block = _EXACT // largest**2
    for begin in range(0, len(labels), block):
        z = embeddings[begin : begin + block].astype(np.float32)
        z -= np.float32(offset)
        one_hot = np.zeros((len(z), classes), np.float32)
        one_hot[np.arange(len(z)), labels[begin : begin + block]] = 1.0
        full += (z.T @ z).astype(np.int64)
        sums += (one_hot.T @ z).astype(np.int64)
    return Moments(counts, sums, full[triangle(width)])


def total(parts: list[Moments], classes: int, width: int) -> Moments:
    """The sums over all parts together."""
    return reduce(Moments.__add__, parts, nothing(classes, width))


def _check_count(examples: int) -> None:
    if examples > MAX_EXAMPLES:
        raise UpdateError(f"{examples} examples are more than the {MAX_EXAMPLES} whose sums 64 bits hold")
