"""What comes in between rounds: marks of it do not grow without end, and a call is over whatever a meter does."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.daemon.arriving_call import ArrivingCall
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.meters.shared_meter import SharedMeter
from edge_runtime.power.meters.unmetered import UnknownMeter
from protos.energy.trace import Phase


class Counting(UnknownMeter):
    """How many marks it holds at once, at most."""

    held = most = 0

    def mark(self, phase: Phase) -> None:
        self.held += 1
        self.most = max(self.most, self.held)
        super().mark(phase)

    def settle(self, timeout_s: float = 2.0) -> tuple[Any, ...]:
        self.held = 0
        return super().settle(timeout_s)


def test_a_board_that_only_waits_holds_few_marks_and_loses_none_of_what_came_in() -> None:
    inner = Counting(SystemClock())
    meter = SharedMeter(inner)
    meter.start()
    for _ in range(5000):
        meter.mark(Phase.RECEIVE)
        meter.mark(Phase.IDLE)
    assert inner.most <= 2000
    meter.begin_run()
    assert Phase.RECEIVE in {part.phase for part in meter.settle()}


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
