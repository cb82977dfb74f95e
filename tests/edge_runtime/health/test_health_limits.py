"""When a pause begins, when it ends, and that the two are apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.health.condition import Condition
from edge_runtime.health.limits import FREE_SHARE, LEAST_PAUSE_S, Judge, Limits
from edge_runtime.health.throttling import Bits, Throttling
from protos.orders import StopReason

HOT, BUSY = StopReason.HEAT, StopReason.BUSY
LIMITS = Limits(pause_above_c=80.0, resume_below_c=75.0, pause_when_busy=0.5, max_pause_s=600.0)


def verdicts(judge: Judge, *conditions: Condition) -> list[StopReason | None]:
    """Far enough apart in time that a pause may end at each."""
    return [judge(condition, 100.0 + LEAST_PAUSE_S * number) for number, condition in enumerate(conditions)]


def at(temperature_c: float | None, bits: int = 0) -> Condition:
    return Condition(temperature_c, throttling=Throttling(Bits(bits), Bits(0), ("kernel",)))


def test_heat_stops_at_one_limit_and_ends_below_the_other() -> None:
    given = (at(79.9), at(80.0), at(79.0), at(75.0), at(74.9), at(79.9), at(80.1))
    assert verdicts(Judge(LIMITS), *given) == [None, HOT, HOT, HOT, None, None, HOT]


def test_a_clock_that_is_held_down_for_heat_stops_too() -> None:
    assert verdicts(Judge(LIMITS), at(78.0, 0x4), at(76.0), at(74.0)) == [HOT, HOT, None]
    # Nothing else is known: the clock alone decides.
    assert verdicts(Judge(LIMITS), at(None, 0x2), at(None, 0x2), at(None)) == [HOT, HOT, None]


@pytest.mark.parametrize(
    "condition", [at(50.0, 0x5), at(50.0, 0x1), at(60.0, 0x8), at(60.0, 0x2), at(None), at(79.9, 0x7)]
)
def test_what_waiting_does_not_mend_is_no_reason_to_wait(condition: Condition) -> None:
    """Too little voltage, the soft limit of a Pi 3B+, a cap on a board that is cool."""
    assert Judge(LIMITS)(condition, 0.0) is None


def test_zero_means_never_for_heat() -> None:
    limits = Limits(0.0, 0.0, None, 600.0)
    assert Judge(limits)(Condition(120.0, 120.0, throttling=Throttling(Bits(0x6))), 0.0) is None


def test_an_edge_tpu_has_the_limit_of_its_driver() -> None:
    hot = [Condition(40.0, value_c, 85.0) for value_c in (84.9, 85.0, 80.0, 79.9)]
    assert verdicts(Judge(LIMITS), *hot) == [None, HOT, HOT, None]


def test_busy_stops_at_one_share_and_ends_at_a_smaller_one() -> None:
    shares = [Condition(others_share=share) for share in (0.5, 0.51, 0.45, FREE_SHARE * 0.5, 0.5)]
    assert verdicts(Judge(LIMITS), *shares) == [None, BUSY, BUSY, None, None]
    assert Judge(Limits(80.0, 75.0, None, 600.0))(Condition(others_share=1.0), 0.0) is None


def test_one_reason_may_follow_the_other() -> None:
    hot_and_busy, busy, free = Condition(85.0, others_share=0.9), Condition(60.0, others_share=0.9), Condition(60.0)
    assert verdicts(Judge(LIMITS), hot_and_busy, busy, free) == [StopReason.HEAT, StopReason.BUSY, None]


def test_a_pause_is_never_shorter_than_a_few_seconds() -> None:
    judge = Judge(LIMITS)
    assert judge(at(None, 0x4), 0.0) is StopReason.HEAT
    assert judge(at(None), LEAST_PAUSE_S - 0.1) is StopReason.HEAT
    assert judge(at(None), LEAST_PAUSE_S) is None


@given(st.lists(st.floats(70.0, 85.0), min_size=2, max_size=200))
def test_between_two_pauses_the_temperature_has_crossed_both_limits(temperatures: list[float]) -> None:
    said = verdicts(Judge(LIMITS), *map(at, temperatures))
    turns = [number for number in range(1, len(said)) if said[number] != said[number - 1]]
    for number in turns:
        if said[number] is None:
            assert temperatures[number] < LIMITS.resume_below_c
        else:
            assert temperatures[number] >= LIMITS.pause_above_c
