"""The watch over a version on trial: a process of its own, run by the version before.

It outlives the command that began the upgrade, is started again when it is killed, and runs before the service at each
boot until the trial is over. A boot ends a trial: the version before comes back.

Whether a version on trial is good, bad, or not known yet. No input or output here.

Good is what it has done, never that time has passed:

* the coordinator took it in, answered its question for an order, and it still runs a while later; or
* the coordinator is away, and was so for the version before: then it has fed the watchdog with progress for a while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_runtime.service.systemctl import Sight
from edge_runtime.service.upgrade import record as book
from edge_runtime.service.upgrade.record import Trial
from edge_runtime.service.upgrade.switching import Switching
from edge_runtime.systemd import vitals
from edge_runtime.systemd.notify import Notifier
from edge_runtime.systemd.vitals import Vitals

__all__ = []

SETTLE_S = 10.0
"""How long it must run on after the coordinator's answer."""
ALONE_S = 120.0
"""How long it must make progress when no coordinator answers; less when the trial is short."""
RESTARTS = 1
"""How often systemd may start it again."""


@dataclass(frozen=True)
class Verdict:
    """``wait``, ``good`` or ``bad``, and why."""

    kind: Literal["wait", "good", "bad"]
    why: str = ""


def judge(trial: Trial, sight: Sight, vitals: Vitals | None, *, boottime_s: float, monotonic_s: float) -> Verdict:
    """What is known of the version on trial.

    Args:
        sight: the service, once the version on trial was started.
        boottime_s, monotonic_s: now, on the clocks of ``trial`` and of ``sight``.
    """
    late = boottime_s - trial.started_s >= trial.limit_s
    # Until systemd has done what it was asked for, what is seen may be of the version before.
    if sight.busy:
        return Verdict("bad", _late(trial, sight, None)) if late else Verdict("wait")
    ended = f"{sight.result}, exit code {sight.exit_code}"
    if sight.restarts > RESTARTS:
        return Verdict("bad", f"it ended {sight.restarts} times ({ended})")
    if sight.active in ("failed", "inactive"):
        return Verdict("bad", f"it ended ({ended})")
    mine = vitals if vitals is not None and vitals.pid == sight.pid else None
    if mine is not None and mine.environment != trial.new.path:
        return Verdict("bad", f"what runs is {mine.environment}; does a drop-in of the unit name another program?")
    if mine is not None and trial.delegate is not None and mine.delegate != trial.delegate:
        return Verdict("bad", f"its engine runs with {mine.delegate} kernels, and did with {trial.delegate}")
    if sight.active == "active" and mine is not None:
        if mine.answered_s is not None and monotonic_s - mine.answered_s >= SETTLE_S:
            return Verdict("good", "the coordinator took it in")
        worked_s = sight.fed_s - sight.ready_s
        if mine.answered_s is None and not trial.must_join and worked_s >= min(ALONE_S, trial.limit_s / 4):
            return Verdict("good", f"it made progress for {worked_s:.0f} s; no coordinator answers")
    if late:
        return Verdict("bad", _late(trial, sight, mine))
    return Verdict("wait")


def _late(trial: Trial, sight: Sight, vitals: Vitals | None) -> str:
    if sight.active != "active":
        return f"it was not ready within {trial.limit_s:.0f} s"
    missing = "was not answered by the coordinator" if trial.must_join else "made no progress"
    return f"it {missing} within {trial.limit_s:.0f} s; it says: {sight.says or 'nothing'}" + (
        "" if vitals else " (it has not said what it is)"
    )


_TURN_S = 1.0
# A command that holds the versions meanwhile has seconds to do, not minutes.
_PATIENCE_S = 60.0


def watch(
    switching: Switching,
    notifier: Notifier,
    *,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Switch to the version on trial, judge it, and keep it or go back. Nothing without a trial.

    Args:
        say: takes a line for the journal.

    Raises:
        StoreError: the disk does not take what must be written; repeating it is harmless.
        EdgejouleError: systemd does not do what it is asked for; likewise.
    """
    systemd, home = switching.systemd, switching.place.home
    with book.alone(home, wait_s=_PATIENCE_S):
        trial = switching.load().trial
        if trial is None:
            switching.tidy()
            notifier.ready("nothing is on trial")
            return
        if trial.boot_id != systemd.boot_id():
            switching.condemn("the machine started again before it had shown that it works", blame=False)
            say(switching.go_back(start=False))
            notifier.ready("the version before is back")
            return
    notifier.ready(f"{trial.new.name} is on trial")
    with book.alone(home, wait_s=_PATIENCE_S):
        switching.switch()
    say(f"{trial.new.name} is on trial for {trial.limit_s:.0f} s at most")
    while not _over(switching, say):
        sleep(_TURN_S)


def _over(switching: Switching, say: Callable[[str], None]) -> bool:
    """One look; True when the trial is over, and all that follows is done."""
    systemd, place = switching.systemd, switching.place
    with book.alone(place.home, wait_s=_PATIENCE_S):
        trial = switching.load().trial
        if trial is None:
            return True
        if trial.reason is None:
            seen = vitals.read(place.vitals)
            found = judge(
                trial, systemd.sight(), seen, boottime_s=systemd.boottime_s(), monotonic_s=systemd.monotonic_s()
            )
            # While the machine goes down its services end; that is no fault of theirs.
            if found.kind == "wait" or systemd.going_down():
                return False
            if found.kind == "good":
                say(switching.confirm(found.why))
                return True
            switching.condemn(found.why, blame=True)
        say(switching.go_back())
        return True
