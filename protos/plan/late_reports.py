"""What late reports, and rounds without a rhythm, do not go with: each line has the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protos.plan.plan import RunPlan


def clash_with_late(plan: RunPlan) -> tuple[str, str] | None:
    """Why reports of earlier rounds cannot count with the rest of a plan, and what to do; None where they can."""
    round_, train, aggregate = plan.round, plan.train, plan.aggregate
    if not round_.late:
        if round_.buffer is not None:
            return "round.buffer counts reports of earlier rounds, and round.late = 0 takes none", "set round.late"
        if aggregate.staleness != type(aggregate).staleness:
            return "aggregate.staleness weighs late reports, and round.late = 0 takes none", "set round.late"
        return None
    for is_so, what, fix in (
        (train.method != "sgd", f"method = {train.method!r} sums statistics, which are of one round", "leave it out"),
        (
            plan.correction == "scaffold",
            "the control variates of 'scaffold' are those of the round that a report was made in",
            'set train.correction = "none"',
        ),
        (
            plan.planner.policy != "none" or plan.planner.participation != "known",
            "a planner's weights make one round unbiased, and a late report is of another",
            "leave [planner] out; budgets hold without it",
        ),
        (plan.privacy.noise is not None, "noise is worked out for the reports of one round", "leave privacy.noise out"),
        (bool(plan.privacy.masked), "masks are of one round", "leave privacy.masked out"),
        (
            round_.buffer is not None and round_.enough < 1.0,
            "round.buffer says how many reports close a round, and round.enough says it again",
            "keep one of them",
        ),
    ):
        if is_so:
            return what, fix
    return None
