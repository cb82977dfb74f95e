"""Windows on a running sensor: the simulated bridge on a real pseudo-terminal, its load and its truth."""

from __future__ import annotations

import contextlib
import time

import pytest
from sensor_rigs import RIGS

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.meters.windows import MOST_UNREAD, SensorWindows


@pytest.fixture
def booked(plug_in):
    """Start a bridge and open a book of windows on it; closes both."""
    opened = []

    def start(capacity: int | None = None, **options):
        bridge = plug_in(**options)
        more = {} if capacity is None else {"capacity": capacity}
        sensor = bridge_sensor(str(bridge.spec.link), {}, SystemClock(), **more)
        sensor.open()
        opened.append(sensor)
        return bridge, sensor, SensorWindows(sensor, SystemClock())

    yield start
    for sensor in opened:
        sensor.close()


def settled(book, *entries, timeout_s: float = 60.0):
    book.settle(entries, timeout_s)
    return [entry.settled for entry in entries]


def test_windows_nest_and_overlap_and_each_has_its_joules(booked):
    bridge, _, book = booked(load="square:2,6,0.1", profile="transient", seed=3)
    outer = book.begin("round-3")
    train = book.begin("train")
    time.sleep(0.2)
    send = book.begin("send")
    book.end(train)
    time.sleep(0.2)
    book.end(outer)
    book.end(send)
    figures = {figure.name: figure for figure in settled(book, train, outer, send)}
    for figure in figures.values():
        truth_j = bridge.truth_j(figure.start_s, figure.stop_s)
        assert figure.gross_j == pytest.approx(truth_j, abs=figure.uncertainty_j)
        assert figure.coverage > 0.99
        assert figure.net is None
        assert figure.samples > 100
        assert 5.9 < figure.max_w < 6.2
        assert figure.uncertainty_j < figure.worst_case_j
    assert figures["round-3"].start_s < figures["train"].start_s < figures["send"].start_s < figures["train"].stop_s
    # What is settled stays, and is not made anew.
    assert settled(book, train) == [figures["train"]]


def test_a_window_longer_than_the_store_keeps_its_joules(booked):
    bridge, sensor, book = booked(load="constant:4", profile="transient", capacity=512, seed=8)
    long = book.begin("long")
    until_s = time.monotonic() + 1.5
    while time.monotonic() < until_s:
        sensor.request()
        sensor.wait_for_news(0.05)
    book.end(long)
    (figure,) = settled(book, long)
    assert figure.samples > 1000
    assert figure.coverage > 0.99
    assert figure.gross_j == pytest.approx(bridge.truth_j(figure.start_s, figure.stop_s), abs=figure.uncertainty_j)


def test_one_name_may_be_open_twice_and_each_is_a_window_of_its_own(booked):
    _, _, book = booked()
    outer = book.begin("step")
    time.sleep(0.02)
    inner = book.begin("step")
    book.end(outer)
    book.end(outer)
    book.end(inner)
    first, second = settled(book, outer, inner)
    assert first.start_s < second.start_s < first.stop_s < second.stop_s


def test_windows_that_nobody_asks_for_are_settled_along_the_way(booked):
    bridge, sensor, book = booked(load="constant:4", profile="transient", seed=5)
    entries = []
    for _ in range(3 * MOST_UNREAD):
        entries.append(book.begin("infer"))
        time.sleep(0.002)
        book.end(entries[-1])
    waiting = [entry for entry in entries if entry.settled is None]
    assert len(waiting) < 2 * MOST_UNREAD
    sensor.request()
    sensor.wait_for_news(1.0)
    assert len(sensor.trace()) * sensor.track.config.period_s < 3.0
    book.close()
    joules = [entry.settled.gross_j for entry in entries]
    truth_j = sum(bridge.truth_j(entry.start_s, entry.stop_s) for entry in entries)
    assert sum(joules) == pytest.approx(truth_j, rel=0.05)


def test_trouble_is_told_of_the_windows_that_it_concerns_alone(booked, until):
    bridge, _, book = booked(load="constant:4", profile="transient", seed=6)
    early = book.begin("early")
    time.sleep(0.1)
    book.end(early)
    settled(book, early)
    through, inner = book.begin("through"), book.begin("inner")
    bridge.unplug()
    time.sleep(0.2)
    bridge.plug()
    until(lambda: "reconnected" in through.words)
    book.end(inner)
    # Read first, and it does not take the word away from the other.
    (shorter,) = settled(book, inner)
    time.sleep(0.1)
    book.end(through)
    (longer,) = settled(book, through)
    late = book.begin("late")
    time.sleep(0.1)
    book.end(late)
    (after,) = settled(book, late)
    assert early.settled.flags == ()
    assert "reconnected" in shorter.flags
    assert "reconnected" in longer.flags
    assert after.flags == ()


def test_a_sensor_that_fell_silent_gives_no_figure(booked):
    bridge, _, book = booked()
    bridge.unplug()
    blind = book.begin("blind")
    time.sleep(0.3)
    book.end(blind)
    (figure,) = settled(book, blind, timeout_s=0.1)
    assert (figure.gross_j, figure.method) == (None, "unknown")
    assert "degraded" in figure.flags


@pytest.mark.parametrize("name", sorted(RIGS))
def test_windows_over_every_sensor_have_the_joules_that_it_saw(name, tmp_path, plug_in):
    with contextlib.ExitStack() as stack:
        rig = RIGS[name](tmp_path, stack, plug_in)
        sensor = rig.make()
        sensor.open()
        stack.callback(sensor.close)
        book = SensorWindows(sensor, SystemClock())
        # On a busy machine a sensor that this process asks itself may be asked too seldom; then there is no figure.
        for _ in range(20):
            outer, inner = book.begin("outer"), book.begin("inner")
            time.sleep(0.6)
            book.end(inner)
            time.sleep(0.2)
            book.end(outer)
            figures = settled(book, outer, inner)
            if all(figure.coverage >= 0.9 for figure in figures):
                break
        for entry, figure in zip((outer, inner), figures, strict=True):
            assert figure.method == "measured"
            assert figure.gross_j == pytest.approx(rig.truth_j(entry.start_s, entry.stop_s), abs=figure.worst_case_j)
        assert inner.settled.gross_j < outer.settled.gross_j
