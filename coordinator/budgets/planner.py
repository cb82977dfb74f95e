"""From budgets to (participation, local steps, bits) of each device.

Minimised is the variance of the round's unbiased mean at a given expense,

    sum_i w_i^2 n_i^2 / p_i    with    n_i^2 = |D_i - g|^2 + omega(b_i) |D_i|^2,
    sum_i p_i E_i <= fleet,  p_i E_i <= rate_i,  p_min <= p_i <= 1,
    E_i = fixed + embedding + tau_i step + b_i d / 8 up,

where D_i is the device's last change per unit of FedNova's normaliser and g the head's own. In this order:

1. bits: ``argmin (1 + omega(b)) (r + b)``, or the fewest within an error bound; cheaper where they must be;
2. steps: what [train] says, or as many as the round's limit pays for besides the rest;
3. participation: ``min(1, rate / E, w n / sqrt(lambda E))`` with lambda by bisection on the fleet's joules.

Who cannot pay for one step and its sending, or for p_min of a round, is left out and said: that is a bias.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coordinator.budgets.codec_error import ERROR, best_bits, bits_within, report_bytes
from coordinator.budgets.cost_model import CostModel, Forecast, Work
from protos.energy.trace import Phase


@dataclass(frozen=True)
class Candidate:
    """A device that may take part.

    Attributes:
        weight: its say, not normalised, above 0.
        costs: its fit.
        steps: steps that the plan asks for, >= 1.
        embeddings: examples that are probably not embedded yet.
        bytes_down: what its order weighs.
        limit_j: the most that one round may cost it.
        rate_j: what its accounts give a round in the long run.
        change: |D| of its last report, or None before one.
        deviation: |D - g| of it.
    """

    device_id: str
    weight: float
    costs: CostModel
    steps: int
    embeddings: int = 0
    bytes_down: int = 0
    limit_j: float = math.inf
    rate_j: float = math.inf
    change: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Decision:
    """What a device is asked for, if it is drawn.

    Attributes:
        probability: of being drawn; 0 when left out, and ``why`` says so.
        expected_j: joules of one participation, idling left out.
        granted_j: the most that it may spend on it.
    """

    device_id: str
    probability: float
    steps: int
    bits: float
    expected_j: float
    granted_j: float
    why: str = ""


@dataclass(frozen=True)
class Choice:
    """How the planner chooses.

    Attributes:
        policy: "joules" or "on_demand".
        codec: a row of the table of errors.
        coordinates: of the head.
        fleet_j: expected joules of the whole fleet on this round, at most.
    """

    policy: str
    codec: str
    coordinates: int
    p_min: float = 0.05
    error_bound: float = 0.1
    fleet_j: float = math.inf


def decide(candidates: Sequence[Candidate], choice: Choice) -> list[Decision]:
    """One decision a candidate, in their order."""
    work = [_work(candidate, choice) for candidate in candidates]
    known = sorted(candidate.change for candidate in candidates if candidate.change is not None)
    usual = known[len(known) // 2] if known else 1.0
    spread = [_spread(candidate, made.bits, choice, usual) for candidate, made in zip(candidates, work, strict=True)]
    return _participate(candidates, work, spread, choice)


def _work(candidate: Candidate, choice: Choice) -> Decision:
    bits = _bits(candidate, choice)
    table = sorted(ERROR[choice.codec])
    left_out = Decision(
        candidate.device_id, 0.0, 0, bits, 0.0, 0.0, "one step and its sending cost more than it may spend"
    )
    while True:
        # Who was never metered is let in, to be: the device itself stops at its limit.
        steps = max(0 if candidate.costs.rounds else 1, _affordable(candidate, bits, choice))
        if steps >= 1:
            break
        # The bits that buy the most are of no use to a device that cannot pay for them.
        cheaper = [less for less in table if less < bits]
        if not cheaper or choice.policy == "on_demand":
            return left_out
        bits = cheaper[-1]
    # Rather fewer steps than so rare a part in the rounds that its weight must be clipped.
    cost = _forecast(candidate, steps, bits, choice)
    while steps > 1 and cost.whole.mean * choice.p_min > candidate.rate_j:
        steps //= 2
        cost = _forecast(candidate, steps, bits, choice)
    if cost.whole.mean * choice.p_min > candidate.rate_j:
        return replace(left_out, bits=bits, why="a round costs more than 1 / p_min times what its accounts give")
    # Twice what it may well cost: the device keeps back more than the mean, and must not be starved by that.
    granted_j = min(candidate.limit_j, 2.0 * cost.whole.at_most(2.0))
    return Decision(candidate.device_id, 1.0, steps, bits, min(cost.whole.mean, granted_j), granted_j)


def _bits(candidate: Candidate, choice: Choice) -> float:
    if choice.policy == "on_demand":
        return bits_within(choice.codec, choice.error_bound)
    prices = candidate.costs.prices
    bit_j = prices.up_j * choice.coordinates / 8
    rest_j = _forecast(candidate, candidate.steps, 0.0, choice).whole.mean + _unmetered_j(candidate)
    return best_bits(choice.codec, rest_j / bit_j if bit_j > 0 else math.inf)


def _forecast(candidate: Candidate, steps: int, bits: float, choice: Choice) -> Forecast:
    size = report_bytes(bits, choice.coordinates)
    return candidate.costs.forecast(Work(candidate.embeddings, steps, size, candidate.bytes_down))


def _unmetered_j(candidate: Candidate) -> float:
    """Joules of the order itself where the device calls them idle time: in no budget, and spent all the same."""
    costs = candidate.costs
    return 0.0 if costs.knows(Phase.RECEIVE) else costs.prices.down_j * candidate.bytes_down


def _affordable(candidate: Candidate, bits: float, choice: Choice) -> int:
    """Steps that the round's limit surely pays for, besides all else; 0 when not even one."""
    if math.isinf(candidate.limit_j):
        return candidate.steps
    few, many = 0, candidate.steps
    caution = 1.0 if candidate.costs.rounds else 0.0
    while few < many:
        middle = (few + many + 1) // 2
        if _forecast(candidate, middle, bits, choice).whole.at_most(caution) <= candidate.limit_j:
            few = middle
        else:
            many = middle - 1
    return few


def _spread(candidate: Candidate, bits: float, choice: Choice, usual: float) -> float:
    """n_i; a device that has not reported yet counts as a usual one that goes its own way."""
    change = candidate.change if candidate.change is not None else usual
    deviation = candidate.deviation if candidate.deviation is not None else usual
    return math.sqrt(deviation**2 + ERROR[choice.codec][bits] * change**2)


def _participate(
    candidates: Sequence[Candidate], work: Sequence[Decision], spread: Sequence[float], choice: Choice
) -> list[Decision]:
    tops: list[float] = []
    merits: list[float] = []
    for candidate, made, n in zip(candidates, work, spread, strict=True):
        cost = max(made.expected_j, 1e-300)
        tops.append(min(1.0, candidate.rate_j / cost) if made.probability else 0.0)
        merits.append(candidate.weight * n / math.sqrt(cost + _unmetered_j(candidate)))
    chosen = _within_fleet(tops, merits, [decision.expected_j for decision in work], choice)
    return [
        replace(made, probability=p, why=made.why or ("" if p else "the fleet's joules do not reach for it"))
        for made, p in zip(work, chosen, strict=True)
    ]


def _within_fleet(
    tops: Sequence[float], merits: Sequence[float], costs: Sequence[float], choice: Choice
) -> list[float]:
    """Probabilities in {0} or [p_min, top], proportional to merit as far as that goes, within the fleet's joules."""
    lows = [min(choice.p_min, top) for top in tops]

    def at(scale: float) -> list[float]:
        return [min(top, max(low, scale * m)) for top, low, m in zip(tops, lows, merits, strict=True)]

    def expense(p: Sequence[float]) -> float:
        return sum(value * cost for value, cost in zip(p, costs, strict=True))

    if expense(tops) <= choice.fleet_j:
        return list(tops)
    if expense(lows) > choice.fleet_j:
        # The dearest for what they add go first. Who stays has p_min.
        kept = list(lows)
        for index in sorted(range(len(kept)), key=lambda i: merits[i] / max(costs[i], 1e-300) ** 0.5):
            if expense(kept) <= choice.fleet_j:
                break
            kept[index] = 0.0
        return kept
    low, high = 0.0, 1.0
    while expense(at(high)) < choice.fleet_j and high < 1e300:
        high *= 2.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if expense(at(middle)) <= choice.fleet_j else (low, middle)
    return at(low)
