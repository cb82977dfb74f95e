"""Quantities as whole numbers, so that exact sums hold the closed form of a regression as they hold that of classes.

A quantity y is taken standardised by the bundle, and in fixed point: with mean m and scale s of its conversion

    t = rint((y - m) / s * 2**POINT),    |t| < 256**3 / 2 - 256**2,

about 510 standard deviations either way in steps of 1 / 16384. Written with three digits to the base 256 it is three
numbers of the range that embeddings have, d_0 + 256 d_1 + 256**2 d_2 = t + shift; they are summed as three columns
more, and nothing else of :mod:`protos.statistics.moments` or of its coding knows of them. A ridge regression needs

    sum t = sum over j of 256**j sum d_j - n shift,    sum z t = sum over j of 256**j sum z d_j - shift sum z,

and sum t t' likewise, are whole numbers too: exact, in whatever order devices come, and without a device that goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import LabelError, ShapeError
from protos.statistics.moments import Moments

Reals = npt.NDArray[np.float64]

DIGITS, POINT = 3, 14
_BASE = 256
_WEIGHTS: tuple[int, ...] = tuple(_BASE**place for place in range(DIGITS))
# Of a number whose digits are all 1: a shift of the range of digits moves what they stand for by so much.
_ONES = sum(_WEIGHTS)
_LARGEST = _BASE**DIGITS // 2 - _BASE ** (DIGITS - 1)


def _lowest(dtype: np.dtype[Any], offset: int) -> int:
    """The least digit: values of the embeddings' type less their offset."""
    return int(np.iinfo(dtype).min) - offset


def _shift(dtype: np.dtype[Any], offset: int) -> int:
    """What is added to t, so that its range lies in the middle of what digits can say."""
    return (_lowest(dtype, offset) + _BASE // 2) * _ONES


def digits_of(
    labels: npt.NDArray[Any], mean: npt.NDArray[Any], scale: npt.NDArray[Any], dtype: np.dtype[Any], offset: int
) -> npt.NDArray[Any]:
    """The digits of some examples, in the type of their embeddings: [N, 3 K], those of a quantity in a row, low first.

    Args:
        labels: real [N, K], in their own units.
        mean, scale: [K]; a quantity is ``standardised * scale + mean``.
        dtype: int8 or uint8.
        offset: what is subtracted before summing.

    Raises:
        LabelError: a value so far from those of the conversion that fixed point does not hold it.
        ShapeError: not K quantities.

    >>> one = digits_of(np.array([[2.5]]), np.array([2.0]), np.array([0.5]), np.dtype(np.int8), 0)
    >>> one.tolist(), sum(256**at * value for at, value in enumerate(one[0].tolist())) - (1 << POINT)
    ([[0, 64, 0]], 0)
    """
    if labels.ndim != 2 or labels.shape[1] != len(mean):
        raise ShapeError(f"labels {list(labels.shape)} are not {len(mean)} quantities each")
    standardised = (labels.astype(np.float64) - mean.astype(np.float64)) / scale.astype(np.float64)
    fixed = np.rint(standardised * float(1 << POINT))
    far = ~(np.abs(fixed) <= _LARGEST)
    if far.any():
        row, column = (int(one) for one in np.argwhere(far)[0])
        raise LabelError(
            f"quantity {column} of example {row} is {labels[row, column]:g}, more than {_LARGEST >> POINT} standard "
            f"deviations from the mean of the conversion's examples ({mean[column]:g})",
            fix="is it in the unit that the model was converted with? Else leave it out, or convert with such values",
        )
    rest = fixed.astype(np.int64) + _shift(dtype, offset)
    lowest, made = _lowest(dtype, offset), []
    for _ in range(DIGITS):
        digit = lowest + (rest - lowest) % _BASE
        made.append(digit + offset)
        rest = (rest - digit) // _BASE
    return np.stack(made, axis=2).reshape(len(labels), DIGITS * len(mean)).astype(dtype)


@dataclass(frozen=True)
class QuantityMoments:
    """Means and second moments about them, of embeddings z and of standardised quantities t.

    Attributes:
        examples: n.
        middle: [D] mean of z; target: [K] mean of t.
        covariance: [D, D]; crossed: [D, K] of z with t; spread: [K, K] of t; each over n.
    """

    examples: int
    middle: Reals
    target: Reals
    covariance: Reals
    crossed: Reals
    spread: Reals

    def about(self, middle: Reals, target: Reals) -> QuantityMoments:
        """The same, about other points than their own means: S + (m - m') (m - m')^T."""
        z, t = self.middle - middle, self.target - target
        return QuantityMoments(
            self.examples, middle, target,
            self.covariance + np.outer(z, z), self.crossed + np.outer(z, t), self.spread + np.outer(t, t),
        )  # fmt: skip


def quantity_moments(moments: Moments, quantities: int, dtype: np.dtype[Any], offset: int) -> QuantityMoments:
    """What a regression needs of sums over embeddings and digits, which must be of one example or more.

    Products are taken about the mean as whole numbers, n sum(a b) - sum(a) sum(b), and divided by n**2 once: what
    quantities have in common loses no digit of theirs.

    Args:
        moments: of one class and D + 3 K numbers.
        dtype, offset: as of :func:`digits_of`.
    """
    width, n, shift = moments.width - DIGITS * quantities, moments.examples, _shift(dtype, offset)
    sums = [int(one) for one in moments.sums[0]]

    def combined(values: list[int], lost: int) -> list[int]:
        """From K x 3 sums with digits to K sums with t."""
        return [
            sum(weight * values[DIGITS * at + place] for place, weight in enumerate(_WEIGHTS)) - shift * lost
            for at in range(quantities)
        ]

    full = _whole_square(moments)
    target_sums = combined(sums[width:], n)
    crossed = [combined([int(one) for one in full[row, width:]], sums[row]) for row in range(width)]
    own = [
        combined([int(one) for one in full[width + row, width:]], sums[width + row]) for row in range(3 * quantities)
    ]
    spread = [
        combined([own[row][at] for row in range(DIGITS * quantities)], target_sums[at]) for at in range(quantities)
    ]
    unit, square = float(1 << POINT), float(n) ** 2
    middle = np.array([total / n for total in sums[:width]])
    about = [
        [float(n * value - sums[row] * whole) / square / unit for value, whole in zip(line, target_sums, strict=True)]
        for row, line in enumerate(crossed)
    ]
    apart = [
        [float(n * spread[a][b] - target_sums[a] * target_sums[b]) / square / unit**2 for b in range(quantities)]
        for a in range(quantities)
    ]
    return QuantityMoments(
        examples=n,
        middle=middle,
        target=np.array([target_total / n for target_total in target_sums]) / unit,
        covariance=full[:width, :width].astype(np.float64) / n - np.outer(middle, middle),
        crossed=np.array(about).reshape(width, quantities),
        spread=np.array(apart),
    )


def _whole_square(moments: Moments) -> npt.NDArray[np.int64]:
    """The Gram matrix, int64 [W, W]."""
    rows, columns = np.triu_indices(moments.width)
    full = np.empty((moments.width, moments.width), np.int64)
    full[rows, columns] = moments.gram
    full[columns, rows] = moments.gram
    return full
