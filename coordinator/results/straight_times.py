"""Times of a run that never go back, for programs that subtract them.

A coordinator writes down what its clock said. Where that went back while a run went on (it was put right, or a
battery was empty), a round may close before it opened, or open before the one before it closed: durations would be
negative, and whoever integrates over time would lose joules or count them twice. So all that comes after such a
moment is moved on by as much as lacks. How long a round took over which the clock went back nobody knows: it gets the
longest work that a device told of it, which is by the device's own monotonic clock.
"""

from __future__ import annotations

import dataclasses

from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.report.joules import work_of

__all__ = ["straight"]

# No round is shorter, so that a power over it is a number and times in microseconds differ.
_LEAST_S = 1e-5


def straight(run: RunStatus) -> tuple[RunStatus, float]:
    """The run with times that never go back, and by how many seconds its last ones were moved on; 0: none was."""
    moved_s, until_s, rounds = 0.0, run.started_unix_s, []
    for this_round in run.rounds:
        opened_s = this_round.opened_unix_s + moved_s
        # Round 0 is a look at the first head, beside what goes on.
        if this_round.round and opened_s < until_s:
            moved_s += until_s - opened_s
            opened_s = until_s
        closed_s = None if this_round.closed_unix_s is None else this_round.closed_unix_s + moved_s
        if closed_s is not None and closed_s < opened_s:
            closed_s = opened_s + _longest_work_s(this_round)
            moved_s = closed_s - (this_round.closed_unix_s or 0.0)
        if closed_s is not None and this_round.round:
            closed_s = max(closed_s, opened_s + _LEAST_S)
            until_s = max(until_s, closed_s)
        rounds.append(dataclasses.replace(this_round, opened_unix_s=opened_s, closed_unix_s=closed_s))
    finished_s = run.finished_unix_s
    if finished_s is not None:
        finished_s = max(finished_s + moved_s, until_s)
    return dataclasses.replace(run, rounds=tuple(rounds), finished_unix_s=finished_s), moved_s


def _longest_work_s(this_round: RoundStatus) -> float:
    works = [work_of(device.energy) for device in this_round.devices]
    return max((sum(part.covered_s + part.uncovered_s for part in work) for work in works), default=0.0)
