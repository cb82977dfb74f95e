"""Entries of a data block: whatever a sensor may say comes back as it was; strange bytes are refused."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.power.events import Batch, Block, Edge, Exchanged, Greeting, Realigned, Sums, Trouble
from edge_runtime.power.recording.columns import DamagedBlock
from edge_runtime.power.recording.entries import Note, Worked, decode, encode, sample_count, summary
from protos.bridge.exchange import Exchange
from protos.bridge.hello import Hello, SensorRecord
from protos.bridge.messages import Marker, Samples, Stats
from protos.energy.ina219 import Calibration
from protos.energy.trace import PowerTrace

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
TICK = st.integers(0, 2**61)
I64 = st.integers(-(2**63), 2**63 - 1)
TIME = st.floats(0, 1e9)


@st.composite
def batches(draw) -> Batch:
    n, shift = draw(st.integers(1, 20)), draw(st.integers(0, 16))
    column = lambda low, high, kind: np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)), kind)  # noqa: E731
    dt_us = column(0, 0xFFFF, np.int64) << shift
    shunt, bus = column(-0x8000, 0x7FFF, np.int16), column(0, 0xFFFF, np.uint16)
    head = draw(st.tuples(st.integers(0, 3), U16, U16, U8, U8, U32))
    return Batch(Samples(*head, dt_us, shunt, bus, shift))


greetings = st.builds(
    lambda at_s, epoch, shunt_ohm, uid, boot, tick, calibration: Greeting(
        at_s, epoch, 0, shunt_ohm, Hello((1, 2, 3), boot, tick, 2, (SensorRecord(64, 0x1234, 0, calibration),), uid=uid)
    ),
    TIME, st.integers(1, 1000), st.one_of(st.none(), st.floats(1e-6, 1000)), st.binary(min_size=8, max_size=8), U16,
    TICK, st.builds(Calibration, U32, st.integers(1, 10**9), st.integers(-(10**6), 10**6), st.integers(-999, 999), U16),
)  # fmt: skip
sums = st.builds(
    lambda sensor, head, sixty_four, rest: Sums(Stats(sensor, *head, *sixty_four, *rest)),
    st.integers(0, 3),
    st.tuples(U16, U16, TICK, TICK, U32),
    st.tuples(I64, I64, I64, I64),
    st.tuples(U8, U8, U16, U16, U16, U16, U16),
)
exchanges = st.builds(lambda *row: Exchanged(Exchange(*row)), TIME, TICK, TICK, TIME)
edges = st.builds(lambda *row: Edge(Marker(*row)), st.integers(0, 1), U16, U16, TICK)
notes = st.builds(
    Note, TIME, st.text(max_size=8).filter(lambda word: word != "trouble"), st.just({"name": "x", "n": 3})
)
troubles = st.builds(Trouble, TIME, st.text(max_size=12))
anything = st.one_of(batches(), greetings, sums, exchanges, edges, notes, troubles, st.builds(Worked))


def same(left, right) -> bool:
    """Equality that looks into arrays."""
    if isinstance(left, Batch) and isinstance(right, Batch):
        one, other = left.samples, right.samples
        arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("dt_us", "shunt", "bus"))
        names = ("sensor", "boot", "seq", "flags", "profile", "t0", "dt_shift")
        return arrays and all(getattr(one, name) == getattr(other, name) for name in names)
    return left == right


@given(st.lists(anything, max_size=30))
def test_all_that_a_bridge_may_say_comes_back_in_its_order(entries):
    body = encode(entries)
    again = decode(body)
    assert len(again) == len(entries)
    assert all(map(same, entries, again))
    assert summary(body).samples == sum(map(sample_count, entries))


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 100), st.floats(-1e4, 1e4), U8), min_size=1, max_size=20))
def test_samples_in_host_time_come_back_to_a_microsecond_and_a_microwatt(rows):
    start, length, power, flags = map(list, zip(*rows, strict=True))
    trace = PowerTrace.of(start, np.add(start, length), power, flags)
    (block,) = decode(encode([Block(trace)]))
    assert isinstance(block, Block)
    assert np.abs(block.trace.start_s - trace.start_s).max() <= 0.6e-6
    assert np.abs(block.trace.stop_s - trace.stop_s).max() <= 0.6e-6
    assert np.abs(block.trace.power_w - trace.power_w).max() <= 0.6e-6
    assert block.trace.flags.tolist() == flags


def test_samples_side_by_side_stay_so_and_what_is_no_number_is_left_out():
    edges_s = 1234.5 + np.cumsum(np.random.default_rng(2).uniform(1e-3, 3e-3, 100))
    power = np.full(99, 2.5)
    power[7] = np.nan
    blocks = decode(encode([Block(PowerTrace.of(edges_s[:-1], edges_s[1:], power)), Block(PowerTrace.of([], [], []))]))
    assert [len(block.trace) for block in blocks if isinstance(block, Block)] == [98, 0]
    trace = blocks[0].trace  # type: ignore[union-attr]
    gaps = trace.start_s[1:] - trace.stop_s[:-1]
    assert (gaps == 0).sum() == 96


def test_a_summary_spans_the_times_that_are_known():
    assert summary(encode([Note(3.0, "a"), Note(5.5, "b"), Worked()])) == summary(
        encode([Note(5.5, "a"), Note(3.0, "b")])
    )
    assert math.isnan(summary(encode([Worked()])).begin_s)
    assert encode([Realigned()]) == encode([])


@given(st.lists(anything, min_size=1, max_size=12), st.data())
def test_changed_bytes_are_refused_or_read_and_nothing_worse(entries, data):
    body = bytearray(encode(entries))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(U8)
    cut = data.draw(st.integers(0, len(body)))
    for damaged in (bytes(body), bytes(body[:cut])):
        with contextlib.suppress(DamagedBlock):
            decode(damaged)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_entries(data):
    with contextlib.suppress(DamagedBlock):
        decode(bytes(20) + data)


def test_a_block_that_says_more_than_it_holds_is_refused():
    with pytest.raises(DamagedBlock):
        decode(encode([])[:20] + b"\xff\xff\x7f")
    with pytest.raises(DamagedBlock):
        summary(b"short")


def test_a_header_tells_programs_the_steps_of_its_samples(header):
    told = header.as_json()
    assert (told["time_step_s"], told["power_step_w"]) == (1e-6, 1e-6)
