"""Random walks of a state machine against a model of it: short ones always, long ones in `make test-slow`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

_QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]
_SHORT = settings(stateful_step_count=30, deadline=None, derandomize=True, suppress_health_check=_QUIET)
_LONG = settings(max_examples=300, stateful_step_count=80, deadline=None, suppress_health_check=_QUIET)

lengths = pytest.mark.parametrize("length", ["short", pytest.param("long", marks=pytest.mark.slow)])


def walk(machine: type[RuleBasedStateMachine], length: Any, short: int = 30) -> None:
    """Walk, and fail with the shortest walk that breaks a rule. ``short``: how many short ones."""
    chosen = _LONG if length == "long" else settings(_SHORT, max_examples=short)
    run_state_machine_as_test(machine, settings=chosen)  # type: ignore[no-untyped-call]
