"""Interleaved rANS: an entropy coder that numpy can run.

Duda, "Asymmetric numeral systems", arXiv:1311.2540; interleaving after Giesen, arXiv:1402.3392. Symbols are laid out
in rows of ``lanes``; each lane has a state in [2**16, 2**32) and gives or takes at most one 16-bit word a symbol, so
that a row is a handful of array operations. The encoder walks the rows backwards, the decoder forwards; the words of a
row stand in the order of its lanes, the rows in the order of decoding.

Stream: ``lanes`` states (uint32), then the words (uint16), little-endian. Every state starts from 2**16, and the
decoder must end there with no word left, so a damaged stream is found with high probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError

Tokens = npt.NDArray[np.int64]
_LOW = 1 << 16
SYMBOLS_PER_LANE = 4096
_ONE_LANE = 1 << 16  # symbols up to which plain numbers are as quick as arrays
_SYMBOLS = [bytes([symbol]) for symbol in range(256)]
_BLOCK = 512  # rows whose frequencies are looked up together: bounds the memory
# Streams of one lane that are decoded side by side. A step of all of them takes as long as so many by plain numbers:
SIDE_BY_SIDE = 20
_MOST_SLOTS = 3 << 19  # 17 bytes each


def layout(count: int) -> tuple[int, int]:
    """Rows and lanes for ``count`` symbols. A lane costs three bytes, and a row a few microseconds, whatever it is of.

    >>> layout(10), layout(1 << 17)
    ((10, 1), (4096, 32))
    """
    lanes = 1 if count < _ONE_LANE else count // SYMBOLS_PER_LANE
    return -(-count // lanes), lanes


def encode(tokens: Tokens, frequencies: npt.NDArray[np.int64], precision: int) -> bytes:
    """Code tokens.

    Args:
        tokens: [n] indices into ``frequencies``, as one flat array over all contexts.
        frequencies: [contexts, symbols]; each context sums to 2**precision; that of every token is 1 or more.
        precision: up to 15.
    """
    rows, lanes = layout(tokens.size)
    if lanes == 1:
        return _encode_lane(tokens, frequencies, precision)
    table = tokens
    if rows * lanes != tokens.size:
        table = np.full(rows * lanes, int(np.argmax(frequencies[0])), np.int64)
        table[: tokens.size] = tokens
    table = table.reshape(rows, lanes)
    frequency = frequencies.ravel().astype(np.uint32)
    start = (np.cumsum(frequencies, axis=1) - frequencies).ravel().astype(np.uint32)
    # A state above this gives a word first. The frequency of a certain symbol is 2**precision: no state is above.
    limit = ((frequencies.ravel() << (32 - precision)) - 1).clip(0, 2**32 - 1).astype(np.uint32)
    rest = np.uint32(1 << precision) - frequency

    state = np.full(lanes, _LOW, np.uint32)
    quotient, shifted = np.empty(lanes, np.uint32), np.empty(lanes, np.uint32)
    sixteen = np.full(lanes, 16, np.uint32)  # arrays of one number: a scalar would be made one in every row
    given = np.empty((rows, lanes), np.uint16)
    gives = np.empty((rows, lanes), np.bool_)
    greater, right_shift, floor_divide = np.greater, np.right_shift, np.floor_divide
    multiply, add, putmask = np.multiply, np.add, np.putmask
    for stop in range(rows, 0, -_BLOCK):
        begin = max(0, stop - _BLOCK)
        block = table[begin:stop][::-1]
        columns = zip(
            limit.take(block),
            frequency.take(block),
            rest.take(block),
            start.take(block),
            given[begin:stop][::-1],
            gives[begin:stop][::-1],
            strict=True,
        )
        for most, f, other, first, word, gave in columns:
            greater(state, most, gave)
            word[:] = state
            right_shift(state, sixteen, shifted)
            putmask(state, gave, shifted)
            floor_divide(state, f, quotient)
            multiply(quotient, other, quotient)
            add(state, quotient, state)
            add(state, first, state)
    return state.astype("<u4").tobytes() + given[gives].astype("<u2").tobytes()


def decode(
    data: bytes,
    frequencies: npt.NDArray[np.int64],
    precision: int,
    count: int,
    context: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.int64]:
    """The inverse of :func:`encode`: symbols [count], without their contexts.

    Args:
        frequencies: as of :func:`encode`, of 256 symbols at most.
        context: [count] row of ``frequencies`` for each token; None: row 0.

    Raises:
        UpdateError: the stream is cut, too long, or not what an encoder made.
    """
    rows, lanes = layout(count)
    if len(data) < 4 * lanes or len(data) % 2 or len(data) > 4 * lanes + 2 * rows * lanes:
        raise UpdateError(f"{len(data)} bytes are no stream of {count} symbols")
    state = np.frombuffer(data, "<u4", lanes).astype(np.int64)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.int64)
    if (state < _LOW).any():
        raise UpdateError("a state is too small")
    if lanes == 1:
        return _decode_lane(int(state[0]), words.tolist(), frequencies, precision, count, context)
    starts = np.cumsum(frequencies, axis=1) - frequencies
    symbols = frequencies.shape[1]
    # What a slot holds: its symbol, the frequency of that, and how far into its share the slot lies.
    of_slot = np.repeat(np.tile(np.arange(symbols), len(frequencies)), frequencies.ravel())
    frequency = np.repeat(frequencies.ravel(), frequencies.ravel())
    offset = np.tile(np.arange(1 << precision), len(frequencies)) - np.repeat(starts.ravel(), frequencies.ravel())
    # The slots of a context lie behind those of the one before.
    slots = np.zeros((rows, lanes), np.int64)
    if context is not None:
        slots.ravel()[:count] = context
        slots <<= precision

    kept = np.empty(lanes, np.int64)
    scale, bias = np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    low = np.empty(lanes, np.bool_)
    bits, mask = np.full(lanes, precision), np.full(lanes, (1 << precision) - 1)
    least = np.full(lanes, _LOW)
    bitwise_and, right_shift, multiply, add, less = np.bitwise_and, np.right_shift, np.multiply, np.add, np.less
    taken = 0
    for row in slots:
        bitwise_and(state, mask, kept)
        add(row, kept, row)
        right_shift(state, bits, state)
        frequency.take(row, out=scale, mode="clip")
        offset.take(row, out=bias, mode="clip")
        multiply(state, scale, state)
        add(state, bias, state)
        less(state, least, low)
        short = low.nonzero()[0]
        if short.size:
            fresh = words[taken : taken + short.size]
            if fresh.size < short.size:
                raise UpdateError("the stream ends too early")
            taken += short.size
            state[short] = (state[short] << 16) | fresh
    if taken != words.size or (state != _LOW).any():
        raise UpdateError("the stream does not end where it must")
    decoded: npt.NDArray[np.int64] = of_slot.take(slots.ravel()[:count])
    return decoded


@dataclass(frozen=True)
class Stream:
    """What :func:`decode` takes."""

    data: bytes
    frequencies: npt.NDArray[np.int64]
    precision: int
    count: int
    context: npt.NDArray[np.integer] | None = None

    def decoded(self) -> npt.NDArray[np.int64]:
        """See :func:`decode`."""
        return decode(self.data, self.frequencies, self.precision, self.count, self.context)


def decode_side_by_side(streams: Sequence[Stream]) -> list[npt.NDArray[np.uint8] | None]:
    """Symbols of many streams of one lane, where so many have the same count that a step of all of them at once is
    quicker than one by one; None for all others, and for a stream that :meth:`Stream.decoded` refuses. Holds 10 bytes a
    symbol meanwhile."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for at, stream in enumerate(streams):
        whole = 4 <= len(stream.data) <= 4 + 2 * stream.count and len(stream.data) % 2 == 0
        if stream.count and whole and layout(stream.count)[1] == 1:
            alike[stream.precision, stream.count].append(at)
    found: list[npt.NDArray[np.uint8] | None] = [None] * len(streams)
    for (precision, _), places in alike.items():
        # Those with the same rows beside each other, as many as have room for their rows.
        places.sort(key=lambda at: (streams[at].frequencies.shape[1], streams[at].frequencies.tobytes()))
        rows: dict[bytes, npt.NDArray[np.int64]] = {}
        some: list[int] = []
        for place in [*places, None]:
            own = {} if place is None else {row.tobytes(): row for row in streams[place].frequencies}
            if place is None or len(rows | own) << precision > _MOST_SLOTS:
                if len(some) >= SIDE_BY_SIDE:
                    decoded = _decode_lanes([streams[one] for one in some], rows)
                    for one, symbols in zip(some, decoded, strict=True):
                        found[one] = symbols
                rows, some = {}, []
            if place is not None:
                rows |= own
                some.append(place)
    return found


def _decode_lanes(
    streams: Sequence[Stream], rows: dict[bytes, npt.NDArray[np.int64]]
) -> list[npt.NDArray[np.uint8] | None]:
    """As :func:`decode` does with the lanes of one stream, with those of many: each has words of its own.

    Args:
        streams: of one lane, one count and one precision each.
        rows: of all their frequencies, those that are equal once.
    """
    precision, count, lanes = streams[0].precision, streams[0].count, len(streams)
    at_row = {key: at << precision for at, key in enumerate(rows)}
    # Whole words, as the states are: numbers of another size would be converted in every row.
    frequency = np.concatenate([np.repeat(row, row) for row in rows.values()])
    every = np.arange(1 << precision)
    starts = [np.cumsum(row) - row for row in rows.values()]
    offset = np.concatenate([every - np.repeat(*pair) for pair in zip(starts, rows.values(), strict=True)])
    of_slot = np.concatenate([np.repeat(np.arange(row.size, dtype=np.uint8), row) for row in rows.values()])
    slots = np.empty((count, lanes), np.int64)
    for lane, stream in enumerate(streams):
        begins = np.array([at_row[row.tobytes()] for row in stream.frequencies], np.int64)
        slots[:, lane] = begins[0] if stream.context is None else begins.take(stream.context)
    state = np.array([int.from_bytes(stream.data[:4], "little") for stream in streams], np.int64)
    good = state >= _LOW
    # One word more: a lane that goes on past its own takes what is there, and is seen by where it ends.
    words = np.frombuffer(b"".join(stream.data[4:] for stream in streams) + bytes(2), "<u2").astype(np.int64)
    ends = np.cumsum([(len(stream.data) - 4) // 2 for stream in streams])
    place = np.concatenate([[0], ends[:-1]])

    kept, scale, bias = np.empty(lanes, np.int64), np.empty(lanes, np.int64), np.empty(lanes, np.int64)
    low = np.empty(lanes, np.bool_)
    bits, mask = np.full(lanes, precision), np.full(lanes, (1 << precision) - 1)
    least = np.full(lanes, _LOW)
    bitwise_and, right_shift, multiply, add, less = np.bitwise_and, np.right_shift, np.multiply, np.add, np.less
    for row in slots:
        bitwise_and(state, mask, kept)
        add(row, kept, row)
        right_shift(state, bits, state)
        frequency.take(row, out=scale, mode="clip")
        offset.take(row, out=bias, mode="clip")
        multiply(state, scale, state)
        add(state, bias, state)
        less(state, least, low)
        short = low.nonzero()[0]
        if short.size:
            at = place.take(short)
            state[short] = (state.take(short) << 16) | words.take(at, mode="clip")
            at += 1
            place[short] = at
    good &= (place == ends) & (state == _LOW)
    symbols = np.ascontiguousarray(of_slot.take(slots).T)
    return [one if fine else None for one, fine in zip(symbols, good.tolist(), strict=True)]


def _encode_lane(tokens: Tokens, frequencies: npt.NDArray[np.int64], precision: int) -> bytes:
    """The stream of a single lane, number by number."""
    shares = frequencies.ravel().tolist()
    starts = (np.cumsum(frequencies, axis=1) - frequencies).ravel().tolist()
    state, words = _LOW, []
    room = 32 - precision
    for token in tokens[::-1].tolist():
        share = shares[token]
        if state >= share << room:
            words.append(state & 0xFFFF)
            state >>= 16
        state = ((state // share) << precision) + state % share + starts[token]
    return state.to_bytes(4, "little") + np.array(words[::-1], "<u2").tobytes()


def _decode_lane(
    state: int,
    words: list[int],
    frequencies: npt.NDArray[np.int64],
    precision: int,
    count: int,
    context: npt.NDArray[np.integer] | None,
) -> npt.NDArray[np.int64]:
    """Number by number. Of the symbol in whose share ``slot = state % size`` lies, with ``size = 2**precision``,
    state' = share * (state // size) + slot - start = state - ((size - share) * (state // size) + start).
    """
    size = 1 << precision
    starts = (np.cumsum(frequencies, axis=1) - frequencies).tolist()
    # By row: the symbol of each slot, and for each symbol its start and what its share leaves of the size.
    tables = [
        (b"".join(map(mul, _SYMBOLS, shares)), start, [size - share for share in shares])
        for shares, start in zip(frequencies.tolist(), starts, strict=True)
    ]
    tables_of = [tables[0]] * count if context is None else map(tables.__getitem__, context.tolist())
    mask, left = size - 1, words[::-1]
    next_word = left.pop

    def symbols(state: int) -> Iterator[int]:
        for symbol_of, start, rest in tables_of:
            yield (symbol := symbol_of[state & mask])
            state -= rest[symbol] * (state >> precision) + start[symbol]
            if state < _LOW:
                state = state << 16 | next_word()
        if left or state != _LOW:
            raise UpdateError("the stream does not end where it must")

    try:
        return np.frombuffer(bytes(symbols(state)), np.uint8).astype(np.int64)
    except IndexError:
        raise UpdateError("the stream ends too early") from None
