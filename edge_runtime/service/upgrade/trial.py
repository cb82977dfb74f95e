"""The watch over a version on trial: a process of its own, run by the version before.

It outlives the command that began the upgrade, is started again when it is killed, and runs before the service at each
boot until the trial is over. A boot ends a trial: the version before comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from edge_runtime.service.upgrade import record as book
from edge_runtime.service.upgrade.switching import Switching
from edge_runtime.service.upgrade.verdict import judge
from edge_runtime.systemd import vitals
from edge_runtime.systemd.notify import Notifier

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
