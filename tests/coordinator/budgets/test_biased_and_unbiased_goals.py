"""The quadratic toy of the benchmark: where a rule ends when energy decides who takes part."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.budgets import toy


@pytest.mark.parametrize(("rule", "is_biased"), [("fedavg", True), ("fednova_ratio", True), ("planner", False)])
def test_averages_of_those_who_have_energy_miss_the_goal_and_planned_draws_do_not(rule: str, is_biased: bool) -> None:
    problem = toy.make(0)
    ends = np.array([toy.run(rule, problem, 400, np.random.default_rng([7, number])) for number in range(12)])
    error = float(np.sqrt(ends.var(axis=0, ddof=1).sum() / len(ends)))
    bias = float(np.linalg.norm(ends.mean(axis=0) - problem.goal))
    if is_biased:
        assert bias > 0.1 * float(np.linalg.norm(problem.goal))
        assert bias > 8 * error
    else:
        assert bias < 4 * error
