"""Windows on a running sensor: the simulated bridge on a real pseudo-terminal, its load and its truth."""

from __future__ import annotations

import time

import pytest

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.windows import WindowBook
from protos.energy.baseline import Baseline


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
        return bridge, sensor, WindowBook(sensor, SystemClock())

    yield start
    for sensor in opened:
        sensor.close()


def test_windows_nest_and_overlap_and_each_has_its_joules(booked):
    bridge, _, book = booked(load="square:2,6,0.1", profile="transient", seed=3)
    with book.window("round-3"):
        with book.window("train"):
            time.sleep(0.2)
            book.begin("send")
        time.sleep(0.2)
    book.end("send")
    figures = {figure.name: figure for figure in book.settle()}
    assert list(figures) == ["train", "round-3", "send"]
    for figure in figures.values():
        truth_j = bridge.truth_j(figure.start_s, figure.stop_s)
        assert figure.gross_j == pytest.approx(truth_j, abs=figure.uncertainty_j)
        assert figure.coverage > 0.99
        assert figure.net is None
        assert figure.samples > 100
        assert 5.9 < figure.max_w < 6.2
        assert figure.uncertainty_j < figure.worst_case_j
    assert figures["round-3"].start_s < figures["train"].start_s < figures["send"].start_s < figures["train"].stop_s
    assert book.settle() == ()


def test_the_board_at_rest_is_read_and_taken_away(booked):
    _, _, book = booked(load="constant:3", seed=2)
    before = book.read_idle(0.3)
    with book.window("nothing"):
        time.sleep(0.3)
    (figure,) = book.settle(Baseline(before, book.read_idle(0.3)))
    assert before.power_w == pytest.approx(3.0, rel=0.01)
    assert figure.net_j == pytest.approx(0.0, abs=max(figure.net.interval.expanded_j, 1e-3))
    assert figure.net.interval.expanded_j < figure.uncertainty_j


def test_a_window_longer_than_the_store_keeps_its_joules(booked):
    bridge, sensor, book = booked(load="constant:4", profile="transient", capacity=512, seed=8)
    book.begin("long")
    until_s = time.monotonic() + 1.5
    while time.monotonic() < until_s:
        sensor.request()
        sensor.wait_for_news(0.05)
    book.end("long")
    (figure,) = book.settle()
    assert figure.samples > 1000
    assert figure.coverage > 0.99
    assert figure.gross_j == pytest.approx(bridge.truth_j(figure.start_s, figure.stop_s), abs=figure.uncertainty_j)


def test_one_name_may_be_open_twice_and_the_last_ends_first(booked):
    _, _, book = booked()
    book.begin("step")
    time.sleep(0.02)
    book.begin("step")
    book.end("step")
    book.end("step")
    inner, outer = book.settle()
    assert inner.start_s > outer.start_s
    with pytest.raises(ValueError, match="no window 'step' is open"):
        book.end("step")


def test_a_window_ends_also_when_the_work_fails(booked):
    _, _, book = booked()
    with pytest.raises(RuntimeError), book.window("broken"):
        raise RuntimeError
    assert [figure.name for figure in book.settle()] == ["broken"]


def test_a_sensor_that_fell_silent_gives_no_figure(booked):
    bridge, _, book = booked()
    bridge.unplug()
    with book.window("blind"):
        time.sleep(0.3)
    (figure,) = book.settle(timeout_s=0.1)
    assert (figure.gross_j, figure.method) == (None, "unknown")
    assert "degraded" in figure.flags
