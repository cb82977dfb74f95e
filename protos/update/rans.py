"""Interleaved rANS: an entropy coder that numpy can run.

Duda, "Asymmetric numeral systems", arXiv:1311.2540; interleaving after Giesen, arXiv:1402.3392. Symbols are laid out
in rows of ``lanes``; each lane has a state in [2**16, 2**32) and gives or takes at most one 16-bit word a symbol, so
that a row is a handful of array operations. The encoder walks the rows backwards, the decoder forwards; the words of a
row stand in the order of its lanes, the rows in the order of decoding.

Stream: ``lanes`` states (uint32), then the words (uint16), little-endian. Every state starts from 2**16, and the
decoder must end there with no word left, so a damaged stream is found with high probability.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError

Tokens = npt.NDArray[np.integer]
_LOW = 1 << 16
SYMBOLS_PER_LANE = 4096
MAX_SHORTER = 4
_BLOCK = 512  # rows whose frequencies are looked up together: bounds the memory


def layout(count: int, shorter: int = 0) -> tuple[int, int]:
    """Rows and lanes for ``count`` symbols. ``shorter`` halves the rows that many times: faster, 3 bytes a lane more.

    >>> layout(10), layout(8192)
    ((10, 1), (4096, 2))
    """
    lanes = max(1, count // (SYMBOLS_PER_LANE >> shorter))
    return -(-count // lanes), lanes


def encode(tokens: Tokens, frequencies: npt.NDArray[np.int64], precision: int, shorter: int = 0) -> bytes:
    """Code tokens.

    Args:
        tokens: [n] indices into ``frequencies``, as one flat array over all contexts.
        frequencies: [contexts, symbols]; each context sums to 2**precision; that of every token is 1 or more.
        precision: up to 15.
        shorter: see :func:`layout`.
    """
    rows, lanes = layout(tokens.size, shorter)
    likeliest = int(np.argmax(frequencies[0]))
    padded = np.full(rows * lanes, likeliest, tokens.dtype)
    padded[: tokens.size] = tokens
    table = padded.reshape(rows, lanes)
    total = 1 << precision
    frequency = frequencies.ravel().astype(np.uint32)
    start = (np.cumsum(frequencies, axis=1) - frequencies).ravel().astype(np.uint32)
    # A state above this gives a word first. The frequency of a certain symbol is 2**precision: no state is above.
    limit = ((frequencies.ravel() << (32 - precision)) - 1).clip(0, 2**32 - 1).astype(np.uint32)
    rest = np.uint32(total) - frequency

    state = np.full(lanes, _LOW, np.uint32)
    quotient, shift = np.empty(lanes, np.uint32), np.uint32(16)
    given = np.empty((rows, lanes), np.uint16)
    gives = np.empty((rows, lanes), np.bool_)
    for stop in range(rows, 0, -_BLOCK):
        begin = max(0, stop - _BLOCK)
        block = table[begin:stop][::-1]
        columns = zip(
            limit[block],
            frequency[block],
            rest[block],
            start[block],
            given[begin:stop][::-1],
            gives[begin:stop][::-1],
            strict=True,
        )
        for most, f, other, first, word, gave in columns:
            np.greater(state, most, out=gave)
            word[:] = state
            np.right_shift(state, shift, out=state, where=gave)
            np.floor_divide(state, f, out=quotient)
            np.multiply(quotient, other, out=quotient)
            np.add(state, quotient, out=state)
            np.add(state, first, out=state)
    return state.astype("<u4").tobytes() + given[gives].astype("<u2").tobytes()


def decode(
    data: bytes,
    frequencies: npt.NDArray[np.int64],
    precision: int,
    count: int,
    context: npt.NDArray[np.integer] | None = None,
    shorter: int = 0,
) -> npt.NDArray[np.int64]:
    """The inverse of :func:`encode`: symbols [count], without their contexts.

    Args:
        context: [count] row of ``frequencies`` for each token; None: row 0.

    Raises:
        UpdateError: the stream is cut, too long, or not what an encoder made.
    """
    rows, lanes = layout(count, shorter)
    if len(data) < 4 * lanes or len(data) % 2 or len(data) > 4 * lanes + 2 * rows * lanes:
        raise UpdateError(f"{len(data)} bytes are no stream of {count} symbols")
    state = np.frombuffer(data, "<u4", lanes).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.int64)
    if (state < _LOW).any():
        raise UpdateError("a state is too small")
    total = 1 << precision
    contexts = frequencies.shape[0]
    starts = np.cumsum(frequencies, axis=1) - frequencies
    of_slot = np.stack([np.repeat(np.arange(row.size), row) for row in frequencies])
    frequency = np.take_along_axis(frequencies, of_slot, axis=1).ravel()
    offset = (np.arange(total) - np.take_along_axis(starts, of_slot, axis=1)).ravel()
    base = np.zeros((rows, lanes), np.int64)
    if context is not None and contexts > 1:
        base.ravel()[:count] = context
        base *= total

    slots = np.empty((rows, lanes), np.int64)
    scale, bias = np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    low = np.empty(lanes, np.bool_)
    taken = 0
    for row, slot in zip(base, slots, strict=True):
        np.bitwise_and(state, total - 1, out=slot)
        if contexts > 1:
            slot += row
        np.right_shift(state, precision, out=state)
        np.take(frequency, slot, out=scale, mode="clip")
        np.take(offset, slot, out=bias, mode="clip")
        np.multiply(state, scale, out=state)
        np.add(state, bias, out=state)
        np.less(state, _LOW, out=low)
        short = np.flatnonzero(low)
        if short.size:
            fresh = words[taken : taken + short.size]
            if fresh.size < short.size:
                raise UpdateError("the stream ends too early")
            taken += short.size
            state[short] = (state[short] << 16) | fresh
    if taken != words.size or (state != _LOW).any():
        raise UpdateError("the stream does not end where it must")
    symbols: npt.NDArray[np.int64] = of_slot.ravel()[slots.ravel()[:count]]
    return symbols
