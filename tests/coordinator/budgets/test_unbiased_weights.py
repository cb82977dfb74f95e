"""Weights by inverse probability: the mean over draws is the mean of all; how far other weights are from it is said."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregate.mean import Wide
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.round_plan import draw
from coordinator.budgets.unbiased import Whole, distance, interval_weight
from coordinator.run.reports.aggregation import Fold, Late, Population
from protos.normaliser import local_normaliser
from protos.orders import DeviceReport, Engine, StopReason
from protos.plan.sections import AggregateSection
from protos.update.trees import Tree

SHAPES = {"k": (5,)}
P = {"a": 0.1, "b": 0.35, "c": 0.8, "d": 1.0, "e": 0.5}
EXAMPLES = {"a": 50, "b": 10, "c": 30, "d": 20, "e": 40}
STEPS = {"a": 1, "b": 50, "c": 7, "d": 20, "e": 3}
_RANDOM = np.random.default_rng(4)
CHANGES: dict[str, Tree] = {
    name: {"k": (_RANDOM.standard_normal(5) * STEPS[name] + 1).astype(np.float32)} for name in P
}
GUESSES: dict[str, Tree] = {name: {"k": _RANDOM.standard_normal(5).astype(np.float32)} for name in P}


def report(name: str) -> DeviceReport:
    return DeviceReport(
        "r", 1, name, "p", "b", "h", STEPS[name], STEPS[name], EXAMPLES[name],
        local_normaliser(STEPS[name], rate=0.1), StopReason.COMPLETED, None, None, Engine("e", "1", ""), (), (), 0, 0.0,
    )  # fmt: skip


def population(guesses: dict[str, Tree] | None) -> Population:
    whole = Whole(float(sum(EXAMPLES.values())), float(sum(EXAMPLES[n] * STEPS[n] for n in P)))
    if guesses is None:
        return Population(whole)
    guess: Wide = {"k": sum(EXAMPLES[n] * guesses[n]["k"].astype(np.float64) for n in P)}  # type: ignore[dict-item]
    return Population(whole, guess, guesses.get)


def folded(drawn: list[str], normalise: str, guesses: dict[str, Tree] | None) -> Any:
    plan = AggregateSection(weight=("by_examples",), normalise=normalise)
    lines = {name: OrderLine(name, STEPS[name], None, probability=P[name], factor=1 / P[name]) for name in drawn}
    fold = Fold(plan, SHAPES, lines, population(guesses))
    for name in drawn:
        fold.add(report(name), CHANGES[name])
    return fold.head_after({"k": np.zeros(5, np.float32)})["k"]


def wanted(normalise: str) -> Any:
    share = {name: EXAMPLES[name] / sum(EXAMPLES.values()) for name in P}
    if normalise == "none":
        return sum(share[n] * CHANGES[n]["k"] for n in P)
    work = sum(share[n] * STEPS[n] for n in P)
    return work * sum(share[n] * CHANGES[n]["k"] / STEPS[n] for n in P)


@pytest.mark.parametrize("normalise", ["fednova", "none"])
@pytest.mark.parametrize("guesses", [None, GUESSES], ids=["plain", "with guesses"])
def test_the_mean_over_draws_is_the_change_of_all(normalise: str, guesses: dict[str, Tree] | None) -> None:
    random = np.random.default_rng(2)
    seen = np.array([folded(draw(P, random), normalise, guesses) for _ in range(6000)])
    error = seen.std(axis=0, ddof=1) / np.sqrt(len(seen))
    assert (np.abs(seen.mean(axis=0) - wanted(normalise)) < 4.5 * error).all()


# Whom each of three rounds could ask, with which probability, and how many rounds late each then comes. Who works on an
# order of an earlier round is not free: those whom the round before did not draw, and those that are back.
COHORTS: tuple[dict[str, tuple[float, int]], ...] = (
    {"a": (0.3, 2), "b": (0.6, 0), "c": (1.0, 1)},
    {"b": (0.5, 0), "d": (0.25, 1)},
    {"b": (0.9, 0), "c": (0.4, 0), "e": (0.7, 0)},
)


def of_cohort(number: int) -> Whole:
    names = COHORTS[number - 1]
    return Whole(float(sum(EXAMPLES[n] for n in names)), float(sum(EXAMPLES[n] * STEPS[n] for n in names)))


def moved_by(drawn: list[list[str]], normalise: str, staleness: float) -> Any:
    """How far the head moves in all, when rounds close as the reports of those who were drawn come."""
    plan = AggregateSection(weight=("by_examples",), normalise=normalise, staleness=staleness)
    lines = [
        {name: OrderLine(name, STEPS[name], None, probability=p, factor=1 / p) for name, (p, _) in cohort.items()}
        for cohort in COHORTS
    ]
    moved: Any = np.zeros(5)
    for number in range(1, len(COHORTS) + 1):
        fold = Fold(plan, SHAPES, {n: lines[number - 1][n] for n in drawn[number - 1]}, Population(of_cohort(number)))
        for of in range(1, number + 1):
            for name in drawn[of - 1]:
                if of + COHORTS[of - 1][name][1] != number:
                    continue
                late = Late(lines[of - 1][name], number - of, of_cohort(of)) if of < number else None
                fold.add(replace(report(name), round=of), CHANGES[name], late)
        moved = moved + fold.head_after({"k": np.zeros(5, np.float32)})["k"].astype(np.float64)
    return moved


@pytest.mark.parametrize("normalise", ["fednova", "none"])
@pytest.mark.parametrize("staleness", [0.0, 0.5, -1.0])
def test_where_rounds_wait_for_no_report_the_mean_over_all_draws_is_the_change_of_all_whom_they_could_ask(
    normalise: str, staleness: float
) -> None:
    """Every draw that there may be, each with its probability; no draw is left to chance."""
    offered = [(number, name) for number, cohort in enumerate(COHORTS) for name in cohort]
    mean: Any = np.zeros(5)
    for outcome in itertools.product((False, True), repeat=len(offered)):
        chance = 1.0
        drawn: list[list[str]] = [[] for _ in COHORTS]
        for (number, name), is_drawn in zip(offered, outcome, strict=True):
            p = COHORTS[number][name][0]
            chance *= p if is_drawn else 1 - p
            if is_drawn:
                drawn[number].append(name)
        if chance:
            mean = mean + chance * moved_by(drawn, normalise, staleness)
    expected: Any = np.zeros(5)
    for number, cohort in enumerate(COHORTS, 1):
        whole = of_cohort(number)
        for name, (_, late) in cohort.items():
            discount = (1 + late) ** -staleness
            change = CHANGES[name]["k"].astype(np.float64)
            if normalise == "fednova":
                change = whole.work / whole.weight * change / STEPS[name]
            expected = expected + discount * EXAMPLES[name] / whole.weight * change
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_dividing_by_those_who_came_would_be_biased() -> None:
    """The same draws, folded without a population: a ratio of two random sums."""
    random = np.random.default_rng(2)
    plan = AggregateSection(weight=("by_examples",), normalise="fednova")
    seen = []
    for _ in range(6000):
        drawn = draw(P, random)
        fold = Fold(plan, SHAPES, {n: OrderLine(n, STEPS[n], None, factor=1 / P[n]) for n in drawn})
        for name in drawn:
            fold.add(report(name), CHANGES[name])
        seen.append(fold.head_after({"k": np.zeros(5, np.float32)})["k"])
    error = np.std(seen, axis=0, ddof=1) / np.sqrt(len(seen))
    assert (np.abs(np.mean(seen, axis=0) - wanted("fednova")) > 6 * error).any()


def test_good_guesses_take_the_variance_away_and_exact_ones_all_of_it() -> None:
    random = np.random.default_rng(3)
    exact: dict[str, Tree] = {n: {"k": (CHANGES[n]["k"] / STEPS[n]).astype(np.float32)} for n in P}
    draws = [draw(P, random) for _ in range(200)]
    plain, guessed = (
        np.var([folded(each_draw, "fednova", g) for each_draw in draws], axis=0).sum() for g in (None, exact)
    )
    assert plain > 1.0
    assert guessed < 1e-9 * plain


def test_everyone_asked_for_certain_is_the_plain_mean() -> None:
    plan = AggregateSection(weight=("by_examples",), normalise="fednova")
    lines = {name: OrderLine(name, STEPS[name], None) for name in P}
    plain, whole = Fold(plan, SHAPES, lines), Fold(plan, SHAPES, lines, population(GUESSES))
    for fold in (plain, whole):
        for name in P:
            fold.add(report(name), CHANGES[name])
    zero: Tree = {"k": np.zeros(5, np.float32)}
    np.testing.assert_allclose(whole.head_after(zero)["k"], plain.head_after(zero)["k"], rtol=1e-5)


def test_nobody_who_made_a_step_leaves_the_head_as_it_is() -> None:
    lines = {"a": OrderLine("a", 1, None, probability=0.5, factor=2.0)}
    fold = Fold(AggregateSection(), SHAPES, lines, population(GUESSES))
    fold.add(replace(report("a"), steps_done=0, local_normaliser=0.0), CHANGES["a"])
    head: Tree = {"k": np.ones(5, np.float32)}
    assert fold.head_after(head) is head


def test_intervals_estimate_one_over_p() -> None:
    random = np.random.default_rng(5)
    for p in (0.1, 0.4, 0.9):
        rounds = [number for number in range(1, 4001) if random.random() < p]
        assert interval_weight(rounds, 4001, cut_off=10_000) == pytest.approx(1 / p, rel=0.1)
    assert interval_weight([1, 2, 3], 4) == 1.0


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(0, 1e3), st.floats(0.001, 1e3)), min_size=1))
def test_a_distance_is_between_nothing_and_one_and_zero_for_equal_shares(table: dict[str, tuple[float, float]]) -> None:
    chosen, want = ({name: pair[at] for name, pair in table.items()} for at in (0, 1))
    found = distance(chosen, want)
    assert 0.0 <= found.total_variation <= 1.0 + 1e-9
    assert found.largest_ratio is None or found.largest_ratio >= 1.0
    same = distance({name: 3 * value for name, value in want.items()}, want)
    assert same.total_variation == pytest.approx(0.0, abs=1e-9)
    assert same.largest_ratio == pytest.approx(1.0)


def test_who_has_no_say_is_seen_in_the_distance() -> None:
    found = distance({"a": 1.0}, {"a": 1.0, "b": 3.0})
    assert (found.total_variation, found.largest_ratio) == (0.75, None)
