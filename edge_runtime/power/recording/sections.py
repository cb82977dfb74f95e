"""One section for each kind of event: columns of its fields, over all events of that kind in the block.

Columns in their order, ``n`` the number of events and ``m`` that of samples:

========  ==============================================================================================================
greeting  per event: at f64 | epoch u64 | sensor u8 (128 is added where bus_ppm follows) | shunt f64 (NaN: the
          calibration's) | perhaps bus_ppm i32 | size varint | HELLO
batch     n: sensor, boot, seq, flags, profile, dt shift, count, t0 (first as it is, then the distance modulo 2^32 from
          where the batch before it ended); m: dt in us, shunt, bus (its three flag bits moved to the top)
sums      n: seq, tick, tick - end, samples, end - time, charge, voltage, energy; then n times the other fields of STATS
exchange  n: bits of the send time, bits from it to the receive time, received tick less the microseconds since the
          first send time, ticks from it to the answered
edge      n: level, boot, seq, tick
samples   n: count; m: us from the end of the sample before, us of length, uW, flags
========  ==============================================================================================================
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from edge_runtime.power.events import Batch, Block, Edge, Exchanged, Greeting, Sums
from edge_runtime.power.recording.columns import Cursor, DamagedBlock, Ints, pack, unpack, varint
from protos.bridge.exchange import Exchange
from protos.bridge.hello import MAX_SENSORS, MalformedMessage, read_hello
from protos.bridge.messages import Marker, Samples, Stats
from protos.energy.trace import Floats, PowerTrace

__all__ = ["MOST_SAMPLES", "READERS", "STEPS_PER_S", "STEPS_PER_W", "WRITERS"]

STEPS_PER_S = 1e6
STEPS_PER_W = 1e6
"""Samples in host time come in whole microseconds and microwatts."""
MOST_SAMPLES = 1 << 20
_GREETING = struct.Struct("<dQBd")
_BUS_PPM, _HAS_BUS_PPM = struct.Struct("<i"), 0x80
_LONGEST_HELLO = 1024
_STATS_FIELDS = 17
_MOVING = [2, 3, 4, 5, 6, 7, 8, 9]
"""Fields of STATS that change each time: seq, tick, end, samples and the four sums; the others rarely do."""
_TICK, _END, _TIME = 1, 2, 4
"""Where three of them stand among these."""
_LARGEST_STEP = float(1 << 62)


def _write_greetings(events: Sequence[Greeting]) -> bytes:
    out = []
    for event in events:
        hello = event.hello.encode()
        shunt_ohm = math.nan if event.shunt_ohm is None else event.shunt_ohm
        bus = b"" if event.bus_ppm is None else _BUS_PPM.pack(event.bus_ppm)
        sensor = event.sensor | (_HAS_BUS_PPM if bus else 0)
        out += [_GREETING.pack(event.at_s, event.epoch, sensor, shunt_ohm), bus, varint(len(hello)), hello]
    return b"".join(out)


def _read_greetings(cursor: Cursor, count: int) -> list[Greeting]:
    events = []
    for _ in range(count):
        at_s, epoch, sensor, shunt_ohm = _GREETING.unpack(cursor.take(_GREETING.size))
        bus_ppm: int | None = None
        if sensor & _HAS_BUS_PPM:
            sensor ^= _HAS_BUS_PPM
            (bus_ppm,) = _BUS_PPM.unpack(cursor.take(_BUS_PPM.size))
        payload = cursor.take(cursor.count(_LONGEST_HELLO))
        try:
            hello = read_hello(payload)
        except (MalformedMessage, struct.error, ValueError) as cause:
            raise DamagedBlock("a HELLO that is none") from cause
        if sensor >= len(hello.sensors) or not math.isfinite(at_s):
            raise DamagedBlock(f"a greeting of sensor {sensor} of {len(hello.sensors)}")
        if not (math.isnan(shunt_ohm) or 1e-6 <= shunt_ohm <= 1000):
            raise DamagedBlock(f"a shunt of {shunt_ohm} ohm")
        events.append(Greeting(at_s, epoch, sensor, None if math.isnan(shunt_ohm) else shunt_ohm, hello, bus_ppm))
    return events


def _write_batches(events: Sequence[Batch]) -> bytes:
    batches = [event.samples for event in events]
    ends = [batch.t0 + int(batch.dt_us.sum()) for batch in batches]
    apart = [
        (after.t0 - end + (1 << 31)) % (1 << 32) - (1 << 31) for end, after in zip(ends[:-1], batches[1:], strict=True)
    ]
    counts = [len(batch.dt_us) for batch in batches]
    heads = [
        (batch.sensor, batch.boot, batch.seq, batch.flags, batch.profile, batch.dt_shift, count, t0)
        for batch, count, t0 in zip(batches, counts, [batches[0].t0, *apart], strict=True)
    ]
    bus = np.concatenate([batch.bus for batch in batches]).astype(np.int64)
    columns = [
        *np.array(heads, np.int64).T,
        np.concatenate([batch.dt_us for batch in batches]),
        np.concatenate([batch.shunt for batch in batches]),
        bus >> 3 | (bus & 7) << 13,
    ]
    return b"".join(map(pack, columns))


def _read_batches(cursor: Cursor, n: int) -> list[Batch]:
    limits = (MAX_SENSORS - 1, 0xFFFF, 0xFFFF, 0xFF, 0xFF, 16, 0xFF)
    sensor, boot, seq, flags, profile, shift, count = (_within(unpack(cursor, n), 0, limit) for limit in limits)
    if (count < 1).any():
        raise DamagedBlock("a batch without samples")
    apart = unpack(cursor, n)
    m = int(count.sum())
    dt_us = _within(unpack(cursor, m), 0, 0xFFFF << 16)
    shunt = _within(unpack(cursor, m), -0x8000, 0x7FFF).astype(np.int16)
    turned = _within(unpack(cursor, m), 0, 0xFFFF)
    bus = ((turned & 0x1FFF) << 3 | turned >> 13).astype(np.uint16)
    last = np.cumsum(count)
    first = last - count
    lengths = np.add.reduceat(dt_us, first)
    with np.errstate(over="ignore"):
        t0 = (np.cumsum(apart) + np.concatenate([[0], np.cumsum(lengths)[:-1]])) & 0xFFFFFFFF
    return [
        Batch(
            Samples(
                int(sensor[k]), int(boot[k]), int(seq[k]), int(flags[k]), int(profile[k]), int(t0[k]),
                dt_us[first[k] : last[k]], shunt[first[k] : last[k]], bus[first[k] : last[k]], int(shift[k]),
            )
        )
        for k in range(n)
    ]  # fmt: skip


def _write_sums(events: Sequence[Sums]) -> bytes:
    rows = np.array([astuple(event.stats) for event in events], np.int64)
    moving, still = rows[:, _MOVING], np.delete(rows, _MOVING, axis=1)
    with np.errstate(over="ignore"):
        moving[:, _TIME] = moving[:, _END] - moving[:, _TIME]
        moving[:, _END] = moving[:, _TICK] - moving[:, _END]
    return b"".join(map(pack, (*moving.T, still.ravel())))


def _read_sums(cursor: Cursor, n: int) -> list[Sums]:
    rows = np.empty((n, _STATS_FIELDS), np.int64)
    moving = np.array([unpack(cursor, n) for _ in _MOVING]).T
    with np.errstate(over="ignore"):
        moving[:, _END] = moving[:, _TICK] - moving[:, _END]
        moving[:, _TIME] = moving[:, _END] - moving[:, _TIME]
    rows[:, _MOVING] = moving
    still = [column for column in range(_STATS_FIELDS) if column not in _MOVING]
    rows[:, still] = unpack(cursor, n * len(still)).reshape(n, len(still))
    if rows[:, 0].min() < 0 or rows[:, 0].max() >= MAX_SENSORS or rows[:, 3:5].min() < 0:
        raise DamagedBlock("sums of a sensor or a time that cannot be")
    return [Sums(Stats(*row)) for row in rows.tolist()]


def _write_exchanges(events: Sequence[Exchanged]) -> bytes:
    parts = [event.exchange for event in events]
    sent = np.array([part.sent_s for part in parts]).view(np.int64)
    back = np.array([part.back_s for part in parts]).view(np.int64)
    received = np.array([part.received_tick for part in parts], np.int64)
    answered = np.array([part.answered_tick for part in parts], np.int64)
    return b"".join(map(pack, (sent, back - sent, received - _ticks_since_first(sent), answered - received)))


def _ticks_since_first(sent: Ints) -> Ints:
    """Ticks that a bridge with a perfect clock would count from the first sending on, nearly; any times will do."""
    with np.errstate(invalid="ignore", over="ignore"):
        ticks = np.nan_to_num((sent.view(np.float64) - sent[:1].view(np.float64)) * 1e6)
    whole: Ints = np.rint(np.clip(ticks, -_LARGEST_STEP, _LARGEST_STEP)).astype(np.int64)
    return whole


def _read_exchanges(cursor: Cursor, n: int) -> list[Exchanged]:
    sent, away, received, delay = (unpack(cursor, n) for _ in range(4))
    with np.errstate(over="ignore"):
        received = received + _ticks_since_first(sent)
        sent_s, back_s = sent.view(np.float64), (sent + away).view(np.float64)
        answered = received + delay
    if not (np.isfinite(sent_s) & np.isfinite(back_s)).all() or (np.abs(received) >= 1 << 62).any():
        raise DamagedBlock("an exchange at no time")
    rows = zip(sent_s.tolist(), received.tolist(), answered.tolist(), back_s.tolist(), strict=True)
    return [Exchanged(Exchange(*row)) for row in rows]


def _write_edges(events: Sequence[Edge]) -> bytes:
    rows = np.array([astuple(event.marker) for event in events], np.int64)
    return b"".join(map(pack, rows.T))


def _read_edges(cursor: Cursor, n: int) -> list[Edge]:
    limits = (1, 0xFFFF, 0xFFFF, (1 << 62) - 1)
    columns = [_within(unpack(cursor, n), 0, limit).tolist() for limit in limits]
    return [Edge(Marker(*row)) for row in zip(*columns, strict=True)]


def _write_blocks(events: Sequence[Block]) -> bytes:
    traces = [event.trace for event in events]
    start, stop, power = (
        np.concatenate([getattr(trace, name) for trace in traces]) for name in ("start_s", "stop_s", "power_w")
    )
    flags = np.concatenate([trace.flags for trace in traces]).astype(np.int64)
    good = np.isfinite(start) & np.isfinite(stop) & np.isfinite(power)
    of_trace = np.repeat(np.arange(len(traces)), [len(trace) for trace in traces])
    counts = np.bincount(of_trace[good], minlength=len(traces))
    begin, end, watts = (
        _steps(values[good] * steps)
        for values, steps in ((start, STEPS_PER_S), (stop, STEPS_PER_S), (power, STEPS_PER_W))
    )
    pauses = begin - np.concatenate([[np.int64(0)], end[:-1]]) if len(begin) else begin
    return b"".join(map(pack, (counts, pauses, end - begin, watts, flags[good])))


def _read_blocks(cursor: Cursor, n: int) -> list[Block]:
    counts = _within(unpack(cursor, n), 0, MOST_SAMPLES)
    m = int(counts.sum())
    pauses, lengths, watts = (unpack(cursor, m) for _ in range(3))
    flags = _within(unpack(cursor, m), 0, 0xFF).astype(np.uint8)
    with np.errstate(over="ignore"):
        end = np.cumsum(pauses + lengths)
        begin = end - lengths
    start_s, stop_s, power_w = begin / STEPS_PER_S, end / STEPS_PER_S, watts / STEPS_PER_W
    parts = np.split(np.arange(m), np.cumsum(counts)[:-1])
    return [Block(PowerTrace(start_s[part], stop_s[part], power_w[part], flags[part])) for part in parts]


def _steps(values: Floats) -> Ints:
    steps: Ints = np.clip(np.rint(values), -_LARGEST_STEP, _LARGEST_STEP).astype(np.int64)
    return steps


def _within(values: Ints, low: int, high: int) -> Ints:
    if len(values) and (int(values.min()) < low or int(values.max()) > high):
        raise DamagedBlock(f"values {int(values.min())} to {int(values.max())} outside {low} to {high}")
    return values


# By kind of entry, from 1.
WRITERS: tuple[Callable[[Any], bytes], ...] = (
    _write_greetings, _write_batches, _write_sums, _write_exchanges, _write_edges, _write_blocks,
)  # fmt: skip
READERS: tuple[Callable[[Cursor, int], Sequence[Any]], ...] = (
    _read_greetings, _read_batches, _read_sums, _read_exchanges, _read_edges, _read_blocks,
)  # fmt: skip
