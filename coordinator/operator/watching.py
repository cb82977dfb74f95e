"""Waiting for a run: asked again and again until it is over, by a command that prints and by programs that do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from coordinator.operator.client import Operator
from coordinator.operator.status import RoundStatus, RunStatus
from protos.errors import StoreError, UnreachableError, UsageError, WaitExpired

__all__ = ["PATIENCE_S", "POLL_S", "follow"]

POLL_S = 0.5
PATIENCE_S = 60.0
"""How long a coordinator may not answer while somebody waits for its run."""


def follow(
    connection: Operator,
    run_id: str,
    *,
    timeout_s: float | None = None,
    patience_s: float = PATIENCE_S,
    on_round: Callable[[RoundStatus], None] | None = None,
    on_waiting: Callable[[str], None] | None = None,
) -> RunStatus:
    """Wait until a run is over; returns it with its rounds as they were when they closed.

    A coordinator that is busy, or away for a while, or whose database is, is asked again.

    Args:
        timeout_s: give up then; None waits for ever.
        patience_s: how long the coordinator may not answer.
        on_round: told of each round when it has closed. The joules of its sending are still to come.
        on_waiting: told why a run does not begin, once for each reason.

    Raises:
        WaitExpired: it is not over after ``timeout_s``; the run goes on.
        UnreachableError, StoreError: no coordinator answers any more, or it cannot read its books.
        UnknownRunError: there is no such run.
        UsageError: it is a plan that starts runs by itself.
    """
    end_s = None if timeout_s is None else time.monotonic() + timeout_s
    shown, said = 0, ""
    seen: dict[int, RoundStatus] = {}
    heard_s = time.monotonic()
    reason = "no answer"
    while True:
        try:
            (status,) = connection.status(run_id, since_round=shown)
        except (UnreachableError, StoreError):
            # Nobody is there, or its books cannot be read just now: the run may go on all the same.
            if time.monotonic() - heard_s >= patience_s:
                raise
        else:
            heard_s, reason = time.monotonic(), status.reason
            for this_round in status.rounds:
                seen[this_round.round] = this_round
                if this_round.state == "closed" and this_round.round >= shown:
                    if on_round is not None:
                        on_round(this_round)
                    shown = this_round.round + 1
            if status.is_over:
                return replace(status, rounds=tuple(seen[number] for number in sorted(seen)))
            if status.state == "scheduled":
                what, fix = "starts runs again and again, and is never over", "wait for one of its runs"
                raise UsageError(what, where=status.run_id, fix=fix)
            if status.state == "waiting" and status.reason != said:
                said = status.reason
                if on_waiting is not None:
                    on_waiting(said)
        if end_s is not None and time.monotonic() >= end_s:
            fix = f"wait again with: coordinator wait {run_id}"
            raise WaitExpired(f"not over after {timeout_s:g} s: {reason}", where=run_id, fix=fix)
        time.sleep(POLL_S)
