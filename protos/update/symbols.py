"""Whole numbers as symbols of a small alphabet, plus the bits that an entropy coder would not shorten.

A number q is cut into ``q >> split`` and its ``split`` low bits, which are nearly even. What is left is a symbol of its
own up to the model's reach; past it, the side and the octave of the distance are the symbol, and the low bits of the
distance travel as they are (an Exp-Golomb code), so that one huge number costs bits and not a huge table.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.frequencies import CONTEXTS, MAX_OCTAVES, MAX_REACH, Counts, Model

Whole = npt.NDArray[np.int32]
MAX_SPLIT = 8
# Numbers up to this fit the tails: 2**MAX_OCTAVES, with room for the split and the dither.
MAX_WHOLE = 1 << (MAX_OCTAVES - 2)


def context_of(dither: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Which row of a model belongs to a dither: |u| in quarters of a half."""
    return (np.abs(dither) * np.float32(2 * CONTEXTS)).astype(np.uint8)


def count(high: Whole, context: npt.NDArray[np.uint8] | None) -> tuple[Counts, Counts]:
    """How often each number occurs: central [contexts, 2 * MAX_REACH + 1], tails [contexts, 2, MAX_OCTAVES]."""
    contexts = 1 if context is None else CONTEXTS
    width = 2 * MAX_REACH + 3
    near = np.minimum(np.maximum(high, -MAX_REACH - 1), MAX_REACH + 1)
    near += MAX_REACH + 1
    if context is not None:
        near += context.astype(np.int32) * width
    # Below 65,536 values: the copy that bincount makes is then the only large one.
    central = np.bincount(near, minlength=contexts * width).reshape(contexts, width)
    tails = np.zeros((contexts, 2, MAX_OCTAVES), np.int64)
    if central[:, 0].any() or central[:, -1].any():
        far = np.flatnonzero(np.abs(high) > MAX_REACH)
        distance = np.abs(high[far]) - MAX_REACH
        octave = np.log2(distance).astype(np.int64)
        row = np.zeros(far.size, np.int64) if context is None else context[far].astype(np.int64)
        np.add.at(tails, (row, (high[far] > 0).astype(np.int64), octave), 1)
    return central[:, 1:-1].astype(np.int64), tails


def split_off(high: Whole, model: Model) -> tuple[npt.NDArray[np.int32], bytes]:
    """Symbols [n] for the entropy coder and the packed low bits of the tails, octave by octave."""
    symbols = high + np.int32(model.reach)
    if not model.octaves:
        return symbols, b""
    far = np.flatnonzero(np.abs(high) > model.reach)
    distance = np.abs(high[far]).astype(np.int64) - model.reach
    octave = np.log2(distance).astype(np.int64)
    symbols[far] = 2 * model.reach + 1 + octave + model.octaves * (high[far] > 0)
    bits = [_bits(distance[octave == e], e) for e in range(1, model.octaves)]
    return symbols, np.packbits(np.concatenate([np.zeros(0, np.uint8), *bits]), bitorder="little").tobytes()


def put_back(symbols: npt.NDArray[np.int64], tails: bytes, model: Model) -> npt.NDArray[np.int64]:
    """The inverse of :func:`split_off`.

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


def _bits(distance: npt.NDArray[np.int64], octave: int) -> npt.NDArray[np.uint8]:
    return ((distance[:, None] >> np.arange(octave)) & 1).astype(np.uint8).ravel()
