"""How far a plan's own budgets carry weights from examples, said before the run and in its outcome."""

from __future__ import annotations

import dataclasses

import pytest

from coordinator.budgets.plan_say import from_examples
from coordinator.lab.outcome import furthest
from coordinator.operator.status import RoundStatus, WeightBias
from protos.plan.plan import parse


def said(more: str) -> tuple[float, float | None] | None:
    found = from_examples(parse(f'[run]\nbundle = "b"\n{more}'))
    return None if found is None else (round(found.total_variation, 6), found.largest_ratio)


def test_one_line_of_a_plan_takes_the_budgets_out_of_the_weights() -> None:
    budgets = "[budget]\nper_round_j = 3.0\n[budget.device]\na = 1.0\n"
    # Shares of 1/4 and 3/4 instead of halves.
    assert said(f"[round]\ndevices = 2\n{budgets}") == (0.25, 2.0)
    assert said(f'[round]\ndevices = 2\n[aggregate]\nweight = ["by_examples"]\n{budgets}') is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", (0.0, 1.0)),
        ("[budget]\nper_round_j = 3.0\n", (0.0, 1.0)),
        ("[budget]\nbattery_j = 9\n[budget.scale]\na = 3.0\nb = 1.0\n[round]\ndevices = 2\n", None),
    ],
)
def test_equal_budgets_carry_nothing_and_batteries_count_by_their_scale(
    more: str, expected: tuple[float, float] | None
) -> None:
    found = said(more)
    if expected is None:
        # a: 3, b: 1, and another with 1: shares 0.6, 0.2, 0.2 instead of thirds.
        assert found is not None
        assert found[0] == pytest.approx(0.6 - 1 / 3, abs=1e-6)
    else:
        assert found == expected


def test_the_outcome_names_the_furthest_round() -> None:
    plain = RoundStatus(1, "closed", None, None, (), 0.0, None, "head-1")
    far = dataclasses.replace(plain, bias=WeightBias(0.0, 1.0, 0.3, 4.0))
    near = dataclasses.replace(plain, bias=WeightBias(0.0, 1.0, 0.1, 2.0))
    assert furthest([plain, near, far]) == 0.3
    assert furthest([plain]) is None
