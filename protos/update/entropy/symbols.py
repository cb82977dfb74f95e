"""Whole numbers as symbols of a small alphabet, plus the bits that an entropy coder would not shorten.

A number q is cut into ``q >> apart`` and its ``apart`` low bits, which are nearly even. What is left is a symbol of its
own up to the model's reach; past it, the side and the octave of the distance are the symbol, and the low bits of the
distance travel as they are (an Exp-Golomb code), so that one huge number costs bits and not a huge table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.entropy.contexts import Indices
from protos.update.entropy.frequencies import MAX_OCTAVES, Model
from protos.update.packing import pack, packed_bytes, unpack

# Numbers up to this fit the tails: 2**MAX_OCTAVES, with room for the split and the dither.
MAX_WHOLE = 1 << (MAX_OCTAVES - 2)


def tokens(high: Indices, model: Model, row: Indices | int) -> tuple[Indices, bytes]:
    """Places [n] in the frequencies of a model, and the packed low bits of the tails, octave by octave."""
    symbols = high + (model.reach + row * np.int64(model.frequencies.shape[1]))
    if not model.octaves:
        return symbols, b""
    far = np.flatnonzero(np.abs(high) > model.reach)
    distance = np.abs(high[far]) - model.reach
    octave = np.log2(distance).astype(np.int64)
    symbols[far] += model.reach + 1 + octave + model.octaves * (high[far] > 0) - high[far]
    bits = [_bits(distance[octave == e], e) for e in range(1, model.octaves)]
    return symbols, np.packbits(np.concatenate([np.zeros(0, np.uint8), *bits]), bitorder="little").tobytes()


def numbers(symbols: Indices, tails: bytes, model: Model) -> Indices:
    """From symbols, without their rows, and low bits of the tails: the inverse of :func:`tokens`.

    Raises:
        UpdateError: the low bits are not just as many as the symbols ask for.
    """
    high = symbols - model.reach
    far = np.flatnonzero(symbols > 2 * model.reach)
    octave = (symbols[far] - 2 * model.reach - 1) % max(1, model.octaves)
    above = symbols[far] - 2 * model.reach - 1 >= model.octaves
    needed = int(octave.sum())
    if len(tails) != (needed + 7) // 8:
        raise UpdateError(f"{needed} low bits of tails need {(needed + 7) // 8} bytes, got {len(tails)}")
    bits = np.unpackbits(np.frombuffer(tails, np.uint8), bitorder="little")
    if bits[needed:].any():
        raise UpdateError("bits are set past the last tail")
    distance = np.int64(1) << octave
    begin = 0
    for e in range(1, model.octaves):
        here = np.flatnonzero(octave == e)
        low = bits[begin : begin + here.size * e].reshape(here.size, e).astype(np.int64)
        distance[here] += low @ (np.int64(1) << np.arange(e))
        begin += here.size * e
    high[far] = np.where(above, 1, -1) * (distance + model.reach)
    return high


def _bits(distance: Indices, octave: int) -> npt.NDArray[np.uint8]:
    return ((distance[:, None] >> np.arange(octave)) & 1).astype(np.uint8).ravel()


def _runs(apart: Indices, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(low bits, first coordinate, one past the last) of each stretch whose numbers have as many."""
    begin = stop = 0
    bits = 0
    for own, size in zip(apart.tolist(), sizes, strict=True):
        if own != bits:
            if bits and stop > begin:
                yield bits, begin, stop
            begin, bits = stop, own
        stop += size
    if bits and stop > begin:
        yield bits, begin, stop


def low_bits(whole: Indices, apart: Indices, sizes: Sequence[int]) -> bytes:
    """The low bits of numbers, packed stretch by stretch.

    Args:
        whole: all numbers [n], tensor by tensor.
        apart: [tensors] how many low bits travel apart.
        sizes: of the tensors.
    """
    return b"".join(
        pack((whole[begin:stop] & ((1 << bits) - 1)).astype(np.uint8), bits)
        for bits, begin, stop in _runs(apart, sizes)
    )


def join_low(high: Indices, data: bytes, apart: Indices, sizes: Sequence[int]) -> Indices:
    """Whole numbers from ``q >> apart`` and :func:`low_bits`.

    Raises:
        UpdateError: bytes missing, too many, or bits set past the end of a stretch.
    """
    used = 0
    for bits, begin, stop in _runs(apart, sizes):
        length = packed_bytes(stop - begin, bits)
        high[begin:stop] = (high[begin:stop] << bits) | unpack(data[used : used + length], bits, stop - begin)
        used += length
    if used != len(data):
        raise UpdateError("low bits that belong to nothing")
    return high
