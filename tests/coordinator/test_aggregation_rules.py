"""Rules of aggregation: one contract for every row of the table, and what each formula promises."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregate.rules import RULES
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.weights import FACTORS, Standing, weight
from coordinator.run.reports.aggregation import Fold
from protos.errors import NonFiniteError, PlanError
from protos.plan.sections import AggregateSection
from protos.update.trees import Tree, shapes

ROWS = sorted(RULES)


def _trees(count: int, seed: int = 0) -> list[Tree]:
    rng = np.random.default_rng(seed)
    return [
        {"bias": rng.normal(size=3).astype(np.float32), "kernel": rng.normal(size=(4, 3)).astype(np.float32)}
        for _ in range(count)
    ]


def _fold(name: str, trees: list[Tree], weights: list[float], steps: list[float]) -> dict[str, np.ndarray] | None:
    rule = RULES[name]
    state = rule.start(shapes(trees[0]))
    for tree, value, tau in zip(trees, weights, steps, strict=True):
        state = rule.add(state, tree, value, tau)
    return rule.finish(state)


@pytest.mark.parametrize("name", ROWS)
def test_equal_contributions_come_back_as_they_are(name: str) -> None:
    (tree,) = _trees(1)
    result = _fold(name, [tree] * 3, [1.0, 5.0, 0.5], [4.0] * 3)
    assert result is not None
    for key in tree:
        np.testing.assert_allclose(result[key], tree[key], rtol=1e-12)


@pytest.mark.parametrize("name", ROWS)
@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_order_and_common_scale_of_the_weights_do_not_matter(name: str, seed: int, scale: float) -> None:
    trees, rng = _trees(5, seed), np.random.default_rng(seed)
    weights, steps = list(rng.uniform(0.1, 9, 5)), [float(n) for n in rng.integers(1, 50, 5)]
    mixed = list(rng.permutation(5))
    one = _fold(name, trees, weights, steps)
    two = _fold(name, [trees[i] for i in mixed], [weights[i] * scale for i in mixed], [steps[i] for i in mixed])
    assert one is not None
    assert two is not None
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ROWS)
def test_without_weight_or_steps_a_contribution_has_no_effect(name: str) -> None:
    trees = _trees(3)
    assert _fold(name, trees, [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]) is None
    alone = _fold(name, trees[:1], [2.0], [3.0])
    beside = _fold(name, trees, [2.0, 0.0, 7.0], [3.0, 5.0, 0.0])
    assert alone is not None
    assert beside is not None
    for key in alone:
        np.testing.assert_array_equal(alone[key], beside[key])


@pytest.mark.parametrize("name", ROWS)
def test_folding_changes_nothing_that_it_was_given(name: str) -> None:
    trees = _trees(2)
    before = [{key: array.copy() for key, array in tree.items()} for tree in trees]
    _fold(name, trees, [1.0, 2.0], [1.0, 2.0])
    for tree, copy in zip(trees, before, strict=True):
        for key in tree:
            np.testing.assert_array_equal(tree[key], copy[key])


@given(st.integers(1, 8), st.integers(0, 99))
def test_folding_equals_the_formulas_in_numpy(count: int, seed: int) -> None:
    trees, rng = _trees(count, seed), np.random.default_rng(seed)
    raw, steps = rng.uniform(0.1, 9, count), rng.integers(1, 50, count).astype(float)
    w = raw / raw.sum()
    plain = sum(w[i] * trees[i]["kernel"].astype(np.float64) for i in range(count))
    nova = (w @ steps) * sum(w[i] / steps[i] * trees[i]["kernel"].astype(np.float64) for i in range(count))
    for name, expected in (("none", plain), ("fednova", nova)):
        result = _fold(name, trees, list(raw), list(steps))
        assert result is not None
        np.testing.assert_allclose(result["kernel"], expected, rtol=1e-10, atol=1e-12)


def test_fednova_finds_the_minimum_that_unequal_steps_pull_the_plain_mean_away_from() -> None:
    """Two devices with quadratics (x - c)^2 / 2, c = 0 and 1, the second making ten times the steps: the minimum of
    the sum is 1/2. FedNova's fixed point tends to it as the rate does to 0; the plain mean's to 10/11."""
    centres, steps, rate = np.array([0.0, 1.0]), (2, 20), 1e-3
    ends = {}
    for name in ("fednova", "none"):
        x = 0.0
        for _ in range(4000):
            changes = []
            for centre, tau in zip(centres, steps, strict=True):
                local = x
                for _ in range(tau):
                    local -= rate * (local - centre)
                changes.append({"x": np.array([local - x], np.float64)})
            rule = RULES[name]
            state = rule.start({"x": (1,)})
            for change, tau in zip(changes, steps, strict=True):
                state = rule.add(state, change, 1.0, float(tau))  # type: ignore[arg-type]
            result = rule.finish(state)
            assert result is not None
            x += float(result["x"][0])
        ends[name] = x
    assert abs(ends["fednova"] - 0.5) < 0.01
    assert abs(ends["none"] - 10 / 11) < 0.01


def test_weights_are_products_and_no_limit_counts_as_the_largest_budget() -> None:
    assert weight([], Standing(100, 2.0, 4.0)) == 1.0
    assert weight(["by_budget"], Standing(100, None, 4.0)) == 4.0
    assert weight(["by_budget"], Standing(100, None, None)) == 1.0
    assert weight(["by_examples", "by_budget"], Standing(100, 2.0, 4.0)) == 200.0
    with pytest.raises(PlanError, match="no weight"):
        weight(["by_luck"], Standing(1, None, None))
    assert set(FACTORS) == {"by_examples", "by_budget"}


def test_a_head_that_leaves_the_numbers_is_an_error_and_not_a_head() -> None:
    head = {"bias": np.full(3, 3e38, np.float32), "kernel": np.zeros((4, 3), np.float32)}
    fold = Fold(AggregateSection(weight=()), shapes(head), {"a": OrderLine("a", 1, None)})
    assert fold.head_after(head) is head
    fold._state = fold._rule.add(fold._state, head, 1.0, 1.0)
    with pytest.raises(NonFiniteError, match="diverged"):
        fold.head_after(head)


_SIZES = """
import numpy as np
from coordinator.budgets.order_line import OrderLine
from coordinator.run.reports.aggregation import Fold
from protos.plan.sections import AggregateSection
from stored_runs import report_of

fold = Fold(AggregateSection(), {"kernel": (1024, 10)}, {"pi-1": OrderLine("pi-1", 1, None)})
random = np.random.default_rng(0)
for _ in range(8):
    change = {"kernel": random.standard_normal((1024, 10)).astype(np.float32)}
    print(fold.sizes_of(report_of("pi-1"), change))
"""


def test_how_large_a_change_is_has_the_same_bits_on_any_number_of_cores() -> None:
    made = [
        subprocess.run(
            [sys.executable, "-c", _SIZES],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    ]
    assert len(made[0].splitlines()) == 8
    assert made[0] == made[1]
