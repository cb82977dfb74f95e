"""The static model of the entropy coder: how often each symbol occurs, in few bytes.

A table starts with ``form, reach, octaves``. Symbols are the integers -reach..reach, then the tails: for each side and
each e under ``octaves`` one symbol for a distance past the reach of 2**e to 2**(e+1) - 1 (its e low bits travel
apart). The form says what follows:

* 0: one byte per symbol and context, ``16 * e + m`` for a weight of (16 + m) * 2**e - 16; 0 is a symbol that does not
  occur. With contexts, one row after the other.
* 1 to 5: a scale (uint16, 1/256 of a symbol) of one of the densities in ``SHAPES``.

Both ends must make the same integers of it. So everything here is integer arithmetic, or one of + * / sqrt on float64,
which IEEE 754 defines to the last bit; there is no library exponential.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.reading import at_most

Counts = npt.NDArray[np.int64]
MAX_REACH, MAX_OCTAVES, CONTEXTS = 63, 24, 4
_REACHES = (1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63)
_FACTORS = (0.93, 1.0, 1.07)
_HEAD = 3


@dataclass(frozen=True)
class Model:
    """``frequencies`` int64 [contexts, 2 * reach + 1 + 2 * octaves], each row with the sum ``1 << precision``."""

    data: bytes
    reach: int
    octaves: int
    precision: int
    frequencies: Counts

    def cost_bits(self, counts: Counts) -> float:
        """Bits of the coded symbols, their tails' low bits and the table itself."""
        total = float(counts.sum())
        chosen = counts > 0
        coded = total * self.precision - float((counts[chosen] * np.log2(self.frequencies[chosen])).sum())
        tails = counts[:, 2 * self.reach + 1 :].sum(axis=0)
        octave = np.tile(np.arange(self.octaves), 2)
        return coded + float((tails * octave).sum()) + 8.0 * len(self.data)


def _exponential(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """About exp(-z), by multiplications alone: the same bits on every machine."""
    power = 1.0 / (1.0 + np.minimum(z, 30.0) / 4096.0)
    for _ in range(12):
        power = power * power
    return power


def _density(shape: int, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    root = np.sqrt(z)
    match shape:
        case 1:
            return _exponential(z * z * 0.5)
        case 2:
            return _exponential(z * root)
        case 3:
            return _exponential(z)
        case 4:
            return _exponential(root * 2.0)
        case _:
            tail = 1.0 / (1.0 + z * z)
            squared: npt.NDArray[np.float64] = tail * tail
            return squared


# Form to the mean absolute value of that density at scale 1, where an encoder starts to look for the scale.
SHAPES = {1: 0.798, 2: 0.754, 3: 1.0, 4: 1.5, 5: 0.637}


def _normalise(weights: Counts, precision: int) -> Counts:
    occurs = weights > 0
    spare = (1 << precision) - occurs.sum(axis=1, keepdims=True)
    frequencies = np.where(occurs, 1 + weights * spare // weights.sum(axis=1, keepdims=True), 0)
    rows = np.arange(len(weights))
    frequencies[rows, frequencies.argmax(axis=1)] += (1 << precision) - frequencies.sum(axis=1)
    return frequencies


def _shaped(data: bytes, reach: int, octaves: int, split: int) -> Counts:
    scale = max(1, int.from_bytes(data[_HEAD:], "little")) / 256.0
    # A symbol stands for 2**split numbers, so its middle is up to half a symbol off.
    middle = np.arange(-reach, reach + 1) + (0.5 - 0.5 / (1 << split))
    width = np.float64(2.0) ** np.arange(octaves)
    beyond = reach + width * 1.5 - 0.5
    z = np.concatenate([np.abs(middle), beyond, beyond]) / scale
    density = _density(data[0], z) * np.concatenate([np.ones(2 * reach + 1), width, width])
    weights: Counts = 1 + (density / density.max() * float(1 << 24)).astype(np.int64)[None, :]
    return weights


def read(data: bytes, *, split: int, contexts: int) -> Model:
    """A model from its table.

    Args:
        split: how many low bits of each number travel apart.
        contexts: rows, 1 or :data:`CONTEXTS`.

    Raises:
        UpdateError: no table, or of another length than it must be.
    """
    if len(data) < _HEAD:
        raise UpdateError("the table of frequencies is cut short")
    form = at_most(data[0], len(SHAPES), "the form of a table")
    reach = at_most(data[1], MAX_REACH, "the reach of a table")
    octaves = at_most(data[2], MAX_OCTAVES, "octaves of a table")
    symbols = 2 * reach + 1 + 2 * octaves
    # Tables of several contexts are small, and their lookup must stay in the cache.
    precision = 15 if contexts == 1 else 13
    if len(data) != _HEAD + (2 if form else symbols * contexts):
        raise UpdateError(f"a table of frequencies has {len(data)} bytes")
    if form:
        if contexts != 1:
            raise UpdateError("a density has no contexts")
        return Model(data, reach, octaves, precision, _normalise(_shaped(data, reach, octaves, split), precision))
    stored = np.frombuffer(data, np.uint8, offset=_HEAD).reshape(contexts, symbols).astype(np.int64)
    weights = ((16 + (stored & 15)) << (stored >> 4)) - 16
    if (weights.sum(axis=1) == 0).any():
        raise UpdateError("a table of frequencies without a symbol")
    return Model(data, reach, octaves, precision, _normalise(weights, precision))


def _stored(counts: Counts) -> bytes:
    """Weights as bytes, rounded up so that no symbol that occurs is lost."""
    top = counts.max(axis=1, keepdims=True).clip(1)
    # The largest weight of a byte is 31 << 15; counts are brought near it, and a row that never occurs is made even.
    scaled = np.where(counts.any(axis=1, keepdims=True), counts, 1) / top * float(30 << 15)
    value = np.where(scaled > 0, np.maximum(scaled, 1.0), 0.0) + 16.0
    exponent = np.floor(np.log2(value)).astype(np.int64) - 4
    mantissa = np.rint(value / 2.0**exponent).astype(np.int64) - 16
    return (16 * exponent + mantissa).clip(0, 255).astype(np.uint8).tobytes()


def narrowed(central: Counts, tails: Counts, reach: int, octaves: int) -> Counts:
    """Counts for a shorter reach.

    Args:
        central: int64 [contexts, 2 * MAX_REACH + 1]
        tails: int64 [contexts, 2, MAX_OCTAVES] for distances past MAX_REACH
        reach: what lies past it moves into the tails; only where ``tails`` is all zero, or reach is MAX_REACH.
    """
    middle = central[:, MAX_REACH - reach : MAX_REACH + reach + 1]
    sides = tails.copy()
    if reach < MAX_REACH:
        octave = np.floor(np.log2(np.arange(1, MAX_REACH - reach + 1))).astype(np.int64)
        for row in range(len(central)):
            below = central[row, : MAX_REACH - reach][::-1]
            above = central[row, MAX_REACH + reach + 1 :]
            sides[row, 0] += np.bincount(octave, below, MAX_OCTAVES).astype(np.int64)
            sides[row, 1] += np.bincount(octave, above, MAX_OCTAVES).astype(np.int64)
    return np.concatenate([middle, sides[:, 0, :octaves], sides[:, 1, :octaves]], axis=1)


def ideal_bits(central: Counts, tails: Counts) -> float:
    """What a model that knew the counts would need for them, without its table; shapes as in :func:`narrowed`."""
    rows = np.concatenate([central, tails.reshape(len(tails), -1)], axis=1)
    total = rows.sum(axis=1)
    own, whole = rows[rows > 0], total[total > 0]
    low = float((tails.sum(axis=(0, 1)) * np.arange(MAX_OCTAVES)).sum())
    return float((whole * np.log2(whole)).sum() - (own * np.log2(own)).sum()) + low


def fit(central: Counts, tails: Counts, *, split: int) -> tuple[Model, float]:
    """The cheapest model for these counts, and what all costs with it, in bits; shapes as in :func:`narrowed`."""
    contexts = len(central)
    used = np.flatnonzero(central.any(axis=0))
    widest = int(np.abs(used - MAX_REACH).max(initial=0))
    far = np.flatnonzero(tails.any(axis=(0, 1)))
    reaches = [MAX_REACH] if far.size else [*(r for r in _REACHES if r < widest), widest][-4:]
    total = int(central.sum() + tails.sum())
    deviation = float(central.sum(axis=0) @ np.abs(np.arange(-MAX_REACH, MAX_REACH + 1))) / max(1, total)
    best: tuple[Model, float] | None = None
    for reach in reaches:
        past = int(far[-1]) + 1 if far.size else (widest - reach).bit_length()
        counts = narrowed(central, tails, reach, past)
        head = bytes([0, reach, past])
        options = [head + _stored(counts)]
        if contexts == 1 and reach == reaches[-1]:
            guesses = [(form, factor / mean) for form, mean in SHAPES.items() for factor in _FACTORS]
            scales = [(form, int(min(65535, max(1, 256 * deviation * guess)))) for form, guess in guesses]
            options += [bytes([form, reach, past]) + scale.to_bytes(2, "little") for form, scale in scales]
        for data in options:
            model = read(data, split=split, contexts=contexts)
            cost = model.cost_bits(counts)
            if best is None or cost < best[1]:
                best = model, cost
    assert best is not None
    return best
