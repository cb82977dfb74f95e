"""One round planned: budgets, costs and the plan's policy become orders, weights, and what must be said of them.

Who is asked: a random set in which everyone is with just the probability that was planned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from coordinator.budgets import accounts, planner, unbiased
from coordinator.budgets.accounts import Allotment, Charged, Situation
from coordinator.budgets.codec_error import report_bytes
from coordinator.budgets.cost_model import CostModel, Work
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.planner import Candidate, Choice, Decision
from coordinator.budgets.solar import Trace
from coordinator.budgets.unbiased import Distance, Whole, distance
from coordinator.budgets.weights import Standing, weight
from protos.energy.trace import Phase
from protos.orders import CostHint
from protos.plan.plan import RunPlan


def draw(probabilities: Mapping[str, float], random: np.random.Generator) -> list[str]:
    """Systematic sampling (Madow, "On the theory of systematic sampling, II", Ann. Math. Stat. 1949) in a shuffled
    order: inclusion probabilities are exact, and the number drawn is the sum of them, rounded up or down.

    Args:
        probabilities: by name, each in [0, 1].

    Returns:
        Names in the order in which they were given.
    """
    names = list(probabilities)
    order = random.permutation(len(names))
    ends = np.cumsum([probabilities[names[at]] for at in order])
    if not len(ends):
        return []
    # Whole steps from a random start; each covers one name, since none is wider than a step.
    crossed = np.floor(ends + random.random() + 1e-12).astype(np.int64)
    before = np.concatenate([[0], crossed[:-1]])
    chosen = {names[at] for at, new, old in zip(order, crossed, before, strict=True) if new > old}
    return [name for name in names if name in chosen]


_NOTHING = Charged()


@dataclass(frozen=True)
class Entrant:
    """A device that is present when a round opens.

    Attributes:
        steps: that the plan asks for.
        embeddings: examples that it has not embedded yet, about.
        own_j: its own limit on a round.
        work_w: watts at work, for a device that has not measured any.
        rounds: in which its report was accepted.
        change, deviation: of its last report; see :class:`~coordinator.budgets.planner.Candidate`.
    """

    device_id: str
    examples: int
    steps: int
    costs: CostModel
    charged: Charged = _NOTHING
    embeddings: int = 0
    own_j: float | None = None
    work_w: float = 0.0
    bytes_down: int = 0
    rounds: tuple[int, ...] = ()
    change: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class RoundPlan:
    """What a round asks for.

    Attributes:
        lines: orders of those who were drawn.
        whole: of all who could have been, or None when everyone was asked for certain and reports are averaged.
        weights: of the same, by device; empty without ``whole``.
        from_plan: how far the say of devices, in expectation, is from the weights of the plan.
        from_examples: the same, from weights by examples alone.
        left_out: device id and why, for those who could not be asked.
    """

    lines: tuple[OrderLine, ...]
    whole: Whole | None
    weights: Mapping[str, float]
    from_plan: Distance
    from_examples: Distance
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Surroundings:
    """What the round is planned in.

    Attributes:
        coordinates: of the head.
        normaliser: FedNova's ``|a|_1`` of so many steps.
        random: for the draw.
    """

    number: int
    situation: Situation
    coordinates: int
    normaliser: Callable[[int], float]
    random: np.random.Generator
    harvest: Trace | None = None


def _believed(allotment: Allotment, plan: RunPlan, entrant: Entrant) -> Allotment:
    """The same, with a standing that the device cannot give itself: where the plan promises it nothing, its own word
    counts up to what its board draws at work from the opening of a round to its deadline."""
    budget = plan.budget
    promised = budget.of(entrant.device_id), budget.per_day_j, budget.total_j, budget.battery_j, budget.harvest
    if allotment.standing_j is None or any(limit is not None for limit in promised):
        return allotment
    return replace(allotment, standing_j=min(allotment.standing_j, entrant.work_w * plan.round.deadline_s))


def plan_round(plan: RunPlan, entrants: Sequence[Entrant], here: Surroundings) -> RoundPlan:
    """Orders for the devices that are present."""
    allotted = {
        entrant.device_id: _believed(
            accounts.allot(
                plan.budget, entrant.device_id, entrant.own_j, entrant.charged, here.situation, here.harvest
            ),
            plan,
            entrant,
        )
        for entrant in entrants
    }
    largest_j = max((j for allotment in allotted.values() if (j := allotment.standing_j) is not None), default=None)
    weights = {
        entrant.device_id: weight(
            plan.aggregate.weight, Standing(entrant.examples, allotted[entrant.device_id].standing_j, largest_j)
        )
        for entrant in entrants
    }
    if plan.planner.policy == "none":
        decisions = [_as_planned(plan, entrant, allotted[entrant.device_id], here) for entrant in entrants]
    else:
        decisions = _decided(plan, entrants, allotted, weights, here)
    possible = {decision.device_id: decision for decision in decisions if decision.probability > 0}
    drawn = draw({name: decision.probability for name, decision in possible.items()}, here.random)
    by_id = {entrant.device_id: entrant for entrant in entrants}
    factors = {
        name: _factor(plan, decision.probability, by_id[name].rounds, here.number)
        for name, decision in possible.items()
    }
    lines = []
    for name in drawn:
        line = _line(plan, by_id[name], possible[name], allotted[name], here)
        # Who has no budget counts as the best endowed of all, drawn or not.
        standing_j = line.standing_j if line.standing_j is not None else largest_j
        lines.append(replace(line, factor=factors[name], standing_j=standing_j))
    say = {name: weights[name] * decision.probability * factors[name] for name, decision in possible.items()}
    whole = _whole(plan, possible, weights, here)
    return RoundPlan(
        lines=tuple(lines),
        whole=whole,
        weights={name: weights[name] for name in possible} if whole is not None else {},
        from_plan=distance(say, weights),
        from_examples=distance(say, {entrant.device_id: float(entrant.examples) for entrant in entrants}),
        left_out=tuple((decision.device_id, decision.why) for decision in decisions if not decision.probability),
    )


def _as_planned(plan: RunPlan, entrant: Entrant, allotment: Allotment, here: Surroundings) -> Decision:
    bits = plan.update.parameters.get("bits", 32.0)
    work = Work(entrant.embeddings, entrant.steps, report_bytes(bits, here.coordinates), entrant.bytes_down)
    if not allotment.limit_j > 0:
        return Decision(entrant.device_id, 0.0, 0, bits, 0.0, 0.0, "nothing is left of its budget")
    cost = entrant.costs.forecast(work)
    whole, limit_j = cost.whole, allotment.limit_j
    if entrant.costs.knows(Phase.SEND) and cost.sending.mean - cost.sending.deviation > limit_j:
        return Decision(entrant.device_id, 0.0, 0, bits, 0.0, 0.0, "sending a report costs more than it may spend")
    if plan.budget.has_accounts:
        # An order that is never answered counts as spent: it must not hold all that an account has.
        limit_j = min(limit_j, max(2.0 * whole.at_most(2.0), allotment.rate_j if allotment.rate_j < math.inf else 0.0))
    return Decision(entrant.device_id, 1.0, entrant.steps, bits, min(limit_j, whole.mean), limit_j)


def _decided(
    plan: RunPlan,
    entrants: Sequence[Entrant],
    allotted: dict[str, Allotment],
    weights: dict[str, float],
    here: Surroundings,
) -> list[Decision]:
    candidates = [
        Candidate(
            one.device_id, weights[one.device_id], one.costs, one.steps, one.embeddings, one.bytes_down,
            allotted[one.device_id].limit_j, allotted[one.device_id].rate_j, one.change, one.deviation,
        )
        for one in entrants
    ]  # fmt: skip
    section = plan.planner
    fleet_j = accounts.fleet_rate_j(plan.budget, here.situation)
    choice = Choice(section.policy, plan.update.codec, here.coordinates, section.p_min, section.error_bound, fleet_j)
    decisions = planner.decide(candidates, choice)
    asked = sum(decision.probability for decision in decisions)
    if 0 < asked < 1:
        # A round of nobody is no round: one is asked, early, and the accounts make up for it in the rounds after.
        decisions = [replace(decision, probability=min(1.0, decision.probability / asked)) for decision in decisions]
    return decisions


def _factor(plan: RunPlan, probability: float, rounds: Sequence[int], number: int) -> float:
    if plan.planner.participation == "fedau":
        return unbiased.interval_weight(rounds, number)
    return 1.0 / max(probability, plan.planner.p_min)


def _whole(plan: RunPlan, possible: dict[str, Decision], weights: dict[str, float], here: Surroundings) -> Whole | None:
    if plan.planner.policy == "none" and plan.planner.participation == "known":
        return None
    total = sum(weights[name] for name in possible)
    work = sum(weights[name] * here.normaliser(decision.steps) for name, decision in possible.items())
    return Whole(total, work) if total > 0 and work > 0 else None


def _line(plan: RunPlan, entrant: Entrant, decision: Decision, allotment: Allotment, here: Surroundings) -> OrderLine:
    planned = plan.planner.policy != "none"
    size = report_bytes(decision.bits, here.coordinates)
    step, sending = entrant.costs.step_and_sending(size)
    return OrderLine(
        device_id=entrant.device_id,
        steps=decision.steps,
        budget_j=None if math.isinf(decision.granted_j) else decision.granted_j,
        standing_j=allotment.standing_j,
        probability=decision.probability,
        bits=decision.bits if planned else None,
        expected_j=decision.expected_j,
        # What was never metered is not said, so that the device tries it once and knows.
        costs=CostHint(
            entrant.costs.embedding.at_most(1.0) if entrant.costs.knows(Phase.EMBED) else 0.0,
            step.at_most(1.0) if entrant.costs.knows(Phase.TRAIN) else 0.0,
            sending.at_most(1.0) if entrant.costs.knows(Phase.SEND) else sending.mean,
            entrant.work_w,
        ),
    )
