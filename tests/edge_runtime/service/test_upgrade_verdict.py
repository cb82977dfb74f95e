"""What is good and what is bad in a trial, from what systemd shows and what the daemon says of itself."""

from __future__ import annotations

import dataclasses

import pytest
from upgrade_rig import GOOD, PID, TRIAL

from edge_runtime.service.upgrade.record import Trial
from edge_runtime.service.upgrade.trial import ALONE_S, SETTLE_S, judge
from edge_runtime.systemd.vitals import Vitals

SAID = Vitals(PID, "/new", "xnnpack", answered_s=1900.0)


def verdict(trial: Trial = TRIAL, said: Vitals | None = SAID, *, boottime_s: float = 200.0, **changes: object) -> str:
    sight = dataclasses.replace(GOOD, **changes)
    return judge(trial, sight, said, boottime_s=boottime_s, monotonic_s=2000.0).kind


def test_an_answer_of_the_coordinator_is_good_once_the_daemon_has_run_on_for_a_while() -> None:
    assert verdict() == "good"
    assert verdict(said=dataclasses.replace(SAID, answered_s=2000.0 - SETTLE_S / 2)) == "wait"
    assert verdict(said=dataclasses.replace(SAID, pid=PID + 1)) == "wait", "of the process before"


def test_without_a_coordinator_progress_is_good_unless_the_version_before_was_answered() -> None:
    alone = dataclasses.replace(SAID, answered_s=None)
    assert verdict(said=alone, fed_s=1000.0 + ALONE_S) == "good"
    assert verdict(said=alone, fed_s=1000.0 + ALONE_S - 1) == "wait"
    assert verdict(said=alone, fed_s=1000.0) == "wait", "time alone is no progress"
    assert verdict(dataclasses.replace(TRIAL, must_join=True), alone, fed_s=1e4) == "wait"
    assert verdict(dataclasses.replace(TRIAL, limit_s=60.0), alone, boottime_s=150.0, fed_s=1015.0) == "good"


@pytest.mark.parametrize(
    "changes",
    [{"active": "failed"}, {"active": "inactive"}, {"restarts": 2}, {"active": "activating", "restarts": 2}],
)
def test_what_ended_is_bad_and_says_how(changes: dict[str, object]) -> None:
    sight = dataclasses.replace(GOOD, **changes, result="exit-code", exit_code=15)
    found = judge(TRIAL, sight, None, boottime_s=101.0, monotonic_s=2000.0)
    assert (found.kind, "exit code 15" in found.why) == ("bad", True)


def test_one_new_start_is_forgiven() -> None:
    assert verdict(restarts=1) == "good"


def test_nothing_is_judged_while_systemd_is_still_busy_with_the_version_before() -> None:
    assert (
        verdict(active="inactive", busy=True, restarts=9, said=dataclasses.replace(SAID, environment="/old")) == "wait"
    )
    assert verdict(active="activating", busy=True, boottime_s=701.0) == "bad"


def test_another_program_or_other_kernels_are_bad() -> None:
    assert verdict(said=dataclasses.replace(SAID, environment="/old")) == "bad"
    assert (
        verdict(dataclasses.replace(TRIAL, delegate="xnnpack"), dataclasses.replace(SAID, delegate="builtin")) == "bad"
    )
    assert (
        verdict(dataclasses.replace(TRIAL, delegate="builtin"), dataclasses.replace(SAID, delegate="builtin")) == "good"
    )


def test_time_that_is_over_is_bad_with_what_is_missing() -> None:
    def why(said: Vitals | None, **changes: object) -> str:
        trial = dataclasses.replace(TRIAL, must_join=True)
        sight = dataclasses.replace(GOOD, **changes)
        return judge(trial, sight, said, boottime_s=700.0, monotonic_s=2000.0).why

    assert why(None, active="activating") == "it was not ready within 600 s"
    assert "was not answered by the coordinator" in why(dataclasses.replace(SAID, answered_s=None))
