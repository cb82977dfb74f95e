"""What comes in between rounds is charged to no run but its first order, and a call is over whatever a meter does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from edge_runtime.daemon.arriving_call import ArrivingCall
from edge_runtime.power.meters.estimate import EstimateMeter
from edge_runtime.power.meters.shared_meter import SharedMeter
from edge_runtime.power.meters.unmetered import UnknownMeter
from protos.energy.boards import board as profile
from protos.energy.trace import Phase


class Slow:
    """Seconds pass as the test says."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return 0.0

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return event.is_set()


def answered(meter: SharedMeter, clock: Slow, seconds: float) -> None:
    """An hour of waiting, and an answer that takes so long to come in."""
    clock.now_s += 3600.0
    meter.mark(Phase.RECEIVE)
    clock.now_s += seconds
    meter.mark(Phase.IDLE)


def test_a_run_is_charged_for_its_first_order_and_not_for_days_of_answers_that_said_to_wait() -> None:
    clock, board = Slow(), profile("pi4")
    inner = EstimateMeter(board, clock)
    meter = SharedMeter(inner)
    meter.start()
    for _ in range(500):
        answered(meter, clock, 0.5)
        meter.no_order_came()
        assert len(inner._stretches) <= 2, "marks of all that came in are held"
    answered(meter, clock, 2.0)
    meter.begin_run()
    (order,) = meter.settle()
    assert (order.phase, order.covered_s) == (Phase.RECEIVE, pytest.approx(2.0))
    assert order.energy_j == pytest.approx(2.0 * board.idle_w)
    assert meter.settle() == ()


def test_a_sensor_that_was_away_while_the_board_waited_makes_no_order_unknown() -> None:
    clock = Slow()
    meter = SharedMeter(UnknownMeter(clock))
    meter.start()
    answered(meter, clock, 0.5)
    meter.no_order_came()
    meter.inner = EstimateMeter(profile("pi4"), clock)
    answered(meter, clock, 2.0)
    meter.begin_run()
    assert [(part.phase, part.method) for part in meter.settle()] == [(Phase.RECEIVE, "estimated")]


class Stream:
    """A call that is answered at once."""

    def initial_metadata(self) -> None: ...

    def is_active(self) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter(["an order"])


def test_a_call_is_over_and_fails_where_what_is_told_of_it_does() -> None:
    def told(begins: bool) -> None:
        if not begins:
            raise RuntimeError("no meter")

    call = ArrivingCall(Stream(), told)
    with pytest.raises(RuntimeError, match="no meter"):
        call.result()
    assert call.done()


def test_who_asks_for_an_answer_waits_until_it_is_there() -> None:
    asked = threading.Event()

    class Asked(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            asked.set()
            return super().wait(timeout)

    class Stream:
        def initial_metadata(self) -> None:
            assert asked.wait(60)

        def is_active(self) -> bool:
            return True

        def __iter__(self) -> Any:
            return iter(["the answer"])

    call = ArrivingCall(Stream(), lambda coming: None)
    call._done = Asked()
    assert call.result() == "the answer"
