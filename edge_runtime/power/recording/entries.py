"""What a data block holds: the events of a sensor in their order, and notes of the program that measured.

Body of a data block::

    samples u32 | begin f64 | end f64       (a summary, so that a file is known without being unpacked; host seconds of
                                             the first and last event that has a time, NaN without one)
    count varint | column of kinds          (1 greeting, 2 batch, 3 sums, 4 exchange, 5 edge, 6 samples in host time,
                                             7 note, 8 worked: the batches so far were made into samples)
    then for each kind that occurs, in this order, the section of :mod:`edge_runtime.power.recording.sections`
    (notes: size varint, deflated JSON list)

Events of a bridge (1 to 5) come back exactly as they were, so that the same samples can be made from them. Samples in
host time are rounded to steps of 1 us and 1 uW: the energy of T seconds changes by 0.5 uW T at most.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edge_runtime.power.events import (
    Batch,
    Block,
    Edge,
    Event,
    Exchanged,
    Greeting,
    RawEvent,
    Realigned,
    Sums,
    Trouble,
)
from edge_runtime.power.recording import sections
from edge_runtime.power.recording.columns import Cursor, DamagedBlock, pack, unpack, varint

__all__ = ["Entry", "Gap", "Heard", "Note", "Summary", "Worked", "decode", "encode", "sample_count", "summary"]

_SUMMARY = struct.Struct("<Idd")
_LONGEST_NOTES = 1 << 20
_MOST_ENTRIES = 1 << 18
_TROUBLE = "trouble"


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the measuring program says at host time ``at_s``, such as ``mark`` with ``phase``; JSON fields."""

    at_s: float
    word: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Worked:
    """Here the batches heard so far were made into samples; without it, sums that a meter makes early could differ."""


@dataclass(frozen=True, slots=True)
class Gap:
    """A reader's word, never written: blocks are missing here."""


Entry = RawEvent | Block | Trouble | Note | Worked | Gap
Heard = Event | Note | Worked


@dataclass(frozen=True, slots=True)
class Summary:
    """How many samples a data block holds, and from when to when; host seconds, NaN when no event has a time."""

    samples: int
    begin_s: float
    end_s: float


_KINDS: tuple[type, ...] = (Greeting, Batch, Sums, Exchanged, Edge, Block)
_NOTE, _WORKED = len(_KINDS) + 1, len(_KINDS) + 2


def sample_count(event: Heard) -> int:
    """Samples that an event brings."""
    if isinstance(event, Batch):
        return len(event.samples.dt_us)
    return len(event.trace) if isinstance(event, Block) else 0


def encode(entries: Sequence[Heard]) -> bytes:
    """The body of a data block; :class:`Realigned` says nothing that would not come again, and is left out."""
    kept = [_as_note(entry) for entry in entries if not isinstance(entry, Realigned)]
    kinds = np.array([_kind(entry) for entry in kept], np.int64)
    times = [at for entry in kept for at in _times(entry) if math.isfinite(at)]
    out = [
        _SUMMARY.pack(sum(map(sample_count, kept)), min(times, default=math.nan), max(times, default=math.nan)),
        varint(len(kept)),
        pack(kinds),
    ]
    for number, of_kind in enumerate(sections.WRITERS, 1):
        members = [entry for entry, kind in zip(kept, kinds, strict=True) if kind == number]
        if members:
            out.append(of_kind(members))
    notes = [entry for entry in kept if isinstance(entry, Note)]
    if notes:
        rows = [[note.at_s, note.word, dict(note.fields)] for note in notes]
        text = zlib.compress(json.dumps(rows, allow_nan=False, separators=(",", ":")).encode(), 6)
        out += [varint(len(text)), text]
    return b"".join(out)


def decode(body: bytes) -> list[Entry]:
    """The entries of a data block, in their order.

    Raises:
        DamagedBlock: it is none.
    """
    cursor = Cursor(body)
    cursor.take(_SUMMARY.size)
    count = cursor.count(_MOST_ENTRIES)
    kinds = unpack(cursor, count).tolist()
    counts = Counter(kinds)
    if any(not 1 <= kind <= _WORKED for kind in counts):
        raise DamagedBlock(f"entries of kinds {sorted(counts)}")
    queues: dict[int, Any] = {}
    for number, of_kind in enumerate(sections.READERS, 1):
        if counts[number]:
            queues[number] = iter(of_kind(cursor, counts[number]))
    if counts[_NOTE]:
        queues[_NOTE] = iter(_read_notes(cursor, counts[_NOTE]))
    return [Worked() if kind == _WORKED else next(queues[kind]) for kind in kinds]


def summary(body: bytes) -> Summary:
    """What a data block says of itself.

    Raises:
        DamagedBlock: it is too short.
    """
    return Summary(*_SUMMARY.unpack(Cursor(body).take(_SUMMARY.size)))


def _as_note(entry: Heard) -> Heard:
    return Note(entry.at_s, _TROUBLE, {"what": entry.word}) if isinstance(entry, Trouble) else entry


def _kind(entry: Heard) -> int:
    if isinstance(entry, Worked):
        return _WORKED
    return _NOTE if isinstance(entry, Note) else _KINDS.index(type(entry)) + 1


def _times(entry: Heard) -> Iterable[float]:
    if isinstance(entry, Exchanged):
        return (entry.exchange.sent_s, entry.exchange.back_s)
    if isinstance(entry, Block):
        return (float(entry.trace.start_s[0]), float(entry.trace.stop_s[-1])) if len(entry.trace) else ()
    return (entry.at_s,) if isinstance(entry, (Greeting, Note)) else ()


def _read_notes(cursor: Cursor, count: int) -> list[Note | Trouble]:
    body = cursor.take(cursor.count(_LONGEST_NOTES))
    try:
        inflater = zlib.decompressobj()
        rows = json.loads(inflater.decompress(body, _LONGEST_NOTES))
        notes = [_note(*row) for row in rows]
    except (zlib.error, ValueError, TypeError, RecursionError) as cause:
        raise DamagedBlock("notes that cannot be read") from cause
    if len(notes) != count:
        raise DamagedBlock(f"{len(notes)} notes where {count} must be")
    return notes


def _note(at_s: Any, word: Any, fields: Any) -> Note | Trouble:
    if not isinstance(at_s, int | float) or not isinstance(word, str) or not isinstance(fields, dict):
        raise DamagedBlock("a note without time, word and fields")
    if word == _TROUBLE:
        return Trouble(float(at_s), str(fields.get("what", "")))
    return Note(float(at_s), word, fields)
