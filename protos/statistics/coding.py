"""Statistics as they travel: without loss, and in few bits.

Counts, totals and sums of squares travel as they are. What is left is predicted from what the reader has by then, and
only the difference is coded:

    sums[k, j]  from  counts[k] * totals[j] / n                     (the last class follows from the totals)
    gram[i, j]  from  sum over k of sums[k, i] * sums[k, j] / counts[k]

The size of a difference is known beforehand up to a common factor, from how much the features vary (bits of
``counts[k] * V_j`` and of ``W_i * W_j``, V and W the total and the within-class scatter). By it each difference is cut
into a symbol of much the same distribution everywhere, which an entropy coder shortens, and low bits, which are noise
and travel as they are. All of it is whole numbers, rounded down, so that every machine predicts the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.statistics.moments import LARGEST, Moments, Whole, triangle
from protos.update.entropy import rans, symbols
from protos.update.entropy.frequencies import MAX_OCTAVES, MAX_REACH, Model, read
from protos.update.entropy.histograms import Tally, fit
from protos.update.reading import at_most

# Of one device: a product of two class sums, and of a count and a total, then stay below 2**62.
MAX_TRAVELLING = 1 << 23
assert (LARGEST * MAX_TRAVELLING) ** 2 < 1 << 62
MAX_CLASSES, MAX_WIDTH = 65536, 8192
_FINENESS = range(0, 9)  # bits of a difference that are coded, of the most that it can have


@dataclass(frozen=True)
class CodedWhole:
    """Differences as symbols and low bits.

    Attributes:
        fine: of the bits that a difference may have, how many are coded; the rest are low bits.
        table: see :mod:`protos.update.entropy.frequencies`; empty where there is no difference.
        codes: see :mod:`protos.update.entropy.rans`.
        low: low bits, packed, from the entries with fewest low bits to those with most.
        tails: low bits of far symbols.
    """

    fine: int = 0
    table: bytes = b""
    codes: bytes = b""
    low: bytes = b""
    tails: bytes = b""


@dataclass(frozen=True)
class CodedMoments:
    """:class:`protos.statistics.moments.Moments` as they travel.

    Attributes:
        offset: subtracted from the embeddings before they were summed.
        counts: [C]
        totals: [D] sums over all classes; empty without an example.
        squares: [D] the diagonal of the Gram matrix; empty without an example.
        sums: of all classes but the last, row by row.
        products: of the Gram matrix above its diagonal, row by row.
    """

    offset: int
    counts: tuple[int, ...]
    totals: tuple[int, ...] = ()
    squares: tuple[int, ...] = ()
    sums: CodedWhole = CodedWhole()
    products: CodedWhole = CodedWhole()


def encode(moments: Moments, offset: int) -> CodedMoments:
    """Statistics of one device, coded.

    Raises:
        UpdateError: of more examples than one device may have.
    """
    counts = tuple(moments.counts.tolist())
    if moments.examples > MAX_TRAVELLING:
        raise UpdateError(f"statistics of {moments.examples} examples; a device sends at most {MAX_TRAVELLING}")
    if not moments.examples:
        return CodedMoments(offset, counts)
    totals, squares = moments.sums.sum(axis=0), moments.diagonal()
    guess, bits = _guessed_sums(moments.counts, totals, squares)
    sums = _encode(moments.sums[:-1] - guess, bits)
    guess, bits = _guessed_products(moments.counts, moments.sums, squares)
    rows, columns = triangle(moments.width)
    products = _encode(moments.gram[rows != columns] - guess, bits)
    return CodedMoments(offset, counts, tuple(totals.tolist()), tuple(squares.tolist()), sums, products)


def decode(coded: CodedMoments, *, classes: int, width: int, offset: int) -> Moments:
    """The statistics themselves; they are sums that examples can have.

    Raises:
        UpdateError: not as declared, or sums of no examples.
    """
    if coded.offset != offset:
        raise UpdateError(f"the embeddings were moved by {coded.offset}, not by {offset}")
    if len(coded.counts) != classes:
        raise UpdateError(f"counts of {len(coded.counts)} classes, not {classes}")
    for count in coded.counts:
        at_most(count, MAX_TRAVELLING, "a count")
    n = at_most(sum(coded.counts), MAX_TRAVELLING, "the number of examples")
    counts = np.array(coded.counts, np.int64)
    if not n:
        if coded != CodedMoments(offset, coded.counts):
            raise UpdateError("sums of no example")
        return Moments(counts, np.zeros((classes, width), np.int64), np.zeros(width * (width + 1) // 2, np.int64))
    if len(coded.totals) != width or len(coded.squares) != width:
        raise UpdateError(f"{len(coded.totals)} totals and {len(coded.squares)} squares for a width of {width}")
    for total in coded.totals:
        at_most(total, LARGEST * n, "a total", at_least=-LARGEST * n)
    for square in coded.squares:
        at_most(square, LARGEST**2 * n, "a sum of squares")
    totals, squares = np.array(coded.totals, np.int64), np.array(coded.squares, np.int64)
    guess, bits = _guessed_sums(counts, totals, squares)
    sums = np.empty((classes, width), np.int64)
    sums[:-1] = guess + _decode(coded.sums, bits)
    sums[-1] = totals - sums[:-1].sum(axis=0)
    if (np.abs(sums) > LARGEST * counts[:, None]).any():
        raise UpdateError("a class sum beyond what its count allows")
    guess, bits = _guessed_products(counts, sums, squares)
    rows, columns = triangle(width)
    gram = np.empty(rows.size, np.int64)
    gram[rows == columns] = squares
    gram[rows != columns] = guess + _decode(coded.products, bits)
    moments = Moments(counts, sums, gram)
    moments.check()
    return moments


def size_bytes(coded: CodedMoments) -> int:
    """About what it weighs on the wire."""
    plain = sum(
        max(1, -(-(2 * abs(value)).bit_length() // 7)) for value in (*coded.counts, *coded.totals, *coded.squares)
    )
    return plain + sum(
        len(one.table) + len(one.codes) + len(one.low) + len(one.tails) for one in (coded.sums, coded.products)
    )


def most_bytes(classes: int, width: int) -> int:
    """The most that honest statistics of one device weigh, on the safe side."""
    return 10 * (classes + 2 * width) + 8 * (classes * width + width * (width + 1) // 2) + 4096


def _bits(values: Whole) -> Whole:
    """How many binary digits each value has; 0 for 0 and below. Exact, which log2 of a float is not."""
    clipped = np.maximum(values, 0)
    found = np.zeros(values.shape, np.int64)
    for shift in (32, 16, 8, 4, 2, 1):
        above = clipped >> shift > 0
        found[above] += shift
        clipped = np.where(above, clipped >> shift, clipped)
    return found + (clipped > 0)


def _guessed_sums(counts: Whole, totals: Whole, squares: Whole) -> tuple[Whole, Whole]:
    n = int(counts.sum())
    scatter = squares - totals * totals // n
    guess = counts[:-1, None] * totals[None, :] // n
    return guess, (_bits(counts[:-1])[:, None] + _bits(scatter)[None, :] + 1) // 2


def _guessed_products(counts: Whole, sums: Whole, squares: Whole) -> tuple[Whole, Whole]:
    width = sums.shape[1]
    guess = np.zeros((width, width), np.int64)
    for count, own in zip(counts.tolist(), sums, strict=True):
        if count:
            guess += own[:, None] * own[None, :] // count
    bits = _bits(squares - guess.diagonal())
    rows, columns = triangle(width)
    above = rows != columns
    rows, columns = rows[above], columns[above]
    taken: Whole = guess[rows, columns]
    return taken, (bits[rows] + bits[columns] + 1) // 2


def _encode(differences: Whole, bits: Whole) -> CodedWhole:
    values, bits = differences.ravel(), bits.ravel()
    if not values.any():
        return CodedWhole()
    best: tuple[float, int, Model] | None = None
    for fine in _FINENESS:
        low = np.maximum(bits - fine, 0)
        high = values >> low
        if int(np.abs(high).max()) >= 1 << (MAX_OCTAVES - 2):
            continue
        model, cost = fit(_tally(high), (0,))
        cost += float(low.sum())
        if best is None or cost < best[0]:
            best = cost, fine, model
    if best is None:
        raise UpdateError("differences too large to code: these are the sums of no examples")
    _, fine, model = best
    low = np.maximum(bits - fine, 0)
    high = values >> low
    placed, tails = symbols.tokens(high, model, 0)
    codes = rans.encode(placed, model.frequencies, model.precision)
    return CodedWhole(fine, model.data, codes, _packed(values - (high << low), low), tails)


def _decode(coded: CodedWhole, bits: Whole) -> Whole:
    flat = bits.ravel()
    if not coded.table:
        if coded != CodedWhole():
            raise UpdateError("no differences, with something behind them")
        return np.zeros(bits.shape, np.int64)
    fine = at_most(coded.fine, _FINENESS[-1], "the fineness of a difference")
    low = np.maximum(flat - fine, 0)
    model, _ = read(coded.table, [1], dithered=False)
    found = rans.decode(coded.codes, model.frequencies, model.precision, flat.size)
    high = symbols.numbers(found, coded.tails, model)
    return ((high << low) + _unpacked(coded.low, low)).reshape(bits.shape)


def _tally(high: Whole) -> Tally:
    near = high[np.abs(high) <= MAX_REACH]
    far = high[np.abs(high) > MAX_REACH]
    tails = np.zeros((1, 2, MAX_OCTAVES), np.int64)
    octave = _bits(np.abs(far) - MAX_REACH) - 1
    np.add.at(tails, (np.zeros(far.size, np.int64), (far > 0).astype(np.int64), octave), 1)
    central = np.bincount(near + MAX_REACH, minlength=2 * MAX_REACH + 1).astype(np.int64)[None, :]
    return Tally(central, tails, (1,), 0, 1, False)


def _packed(values: Whole, bits: Whole) -> bytes:
    parts = [
        ((values[bits == own][:, None] >> np.arange(own)) & 1).astype(np.uint8).ravel()
        for own in range(1, int(bits.max(initial=0)) + 1)
    ]
    return np.packbits(np.concatenate([np.zeros(0, np.uint8), *parts]), bitorder="little").tobytes()


def _unpacked(data: bytes, bits: Whole) -> Whole:
    needed = int(bits.sum())
    if len(data) != (needed + 7) // 8:
        raise UpdateError(f"{needed} low bits need {(needed + 7) // 8} bytes, got {len(data)}")
    given: npt.NDArray[np.uint8] = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if given[needed:].any():
        raise UpdateError("bits are set past the last difference")
    values = np.zeros(bits.size, np.int64)
    begin = 0
    for own in range(1, int(bits.max(initial=0)) + 1):
        here = np.flatnonzero(bits == own)
        part = given[begin : begin + here.size * own].reshape(here.size, own).astype(np.int64)
        values[here] = part @ (np.int64(1) << np.arange(own, dtype=np.int64))
        begin += here.size * own
    return values
