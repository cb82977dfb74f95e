"""Budgets: how lines are combined, added and subtracted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.energy.interval import add_terms, combine, expanded, subtract_terms
from protos.energy.uncertainty import ErrorModel, IntervalSummary, UncertaintyTerm


def line(kind="systematic", standard_j=1.0, **more):
    return UncertaintyTerm("line", standard_j, kind, **more)


@pytest.mark.parametrize("parts", [(1.0,), (1.0, 0.3), (1.0, 1.0), (1.0, 0.5, 0.2), (0.2, 0.2, 0.2, 0.2)])
@pytest.mark.parametrize("normal", [0.0, 0.5, 2.0])
def test_the_interval_holds_95_percent_of_sums_of_rectangles_and_a_normal(parts, normal):
    rng = np.random.default_rng(1)
    draws = rng.normal(0, normal, 200_000) if normal else np.zeros(200_000)
    lines = [UncertaintyTerm("normal", normal)]
    for number, standard in enumerate(parts):
        draws += rng.uniform(-1, 1, len(draws)) * standard * math.sqrt(3)
        lines.append(UncertaintyTerm(f"rectangle {number}", standard, shape="rectangular"))
    held = np.mean(np.abs(draws) <= combine(lines).expanded_j)
    assert held == pytest.approx(0.95, abs=0.012)


def test_systematic_lines_add_linearly_and_random_ones_in_squares():
    assert add_terms([line(standard_j=3.0)], [line(standard_j=4.0)])[0].standard_j == 7.0
    assert add_terms([line("local", 3.0)], [line("local", 4.0)])[0].standard_j == 7.0
    assert add_terms([line("random", 3.0)], [line("random", 4.0)])[0].standard_j == 5.0


def test_the_same_error_goes_out_of_a_difference_and_others_stay():
    assert subtract_terms([line(standard_j=3.0)], [line(standard_j=2.0)])[0].standard_j == 1.0
    assert subtract_terms([line("local", 3.0)], [line("local", 4.0)])[0].standard_j == 5.0
    assert subtract_terms([line("random", 3.0)], [line("random", 4.0)])[0].standard_j == 5.0
    # A line that only the second figure has is kept.
    assert subtract_terms([], [line("random", 2.0)])[0].standard_j == 2.0


def test_errors_of_one_cause_keep_their_shape_and_those_of_unlike_shapes_are_taken_for_normal():
    flat, bell = line(shape="rectangular"), line(shape="normal")
    assert [add_terms([one], [two])[0].shape for one in (flat, bell) for two in (flat, bell)] == [
        "rectangular", "normal", "normal", "normal",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(["systematic", "local", "random"]), st.floats(0, 1e3)), max_size=8))
def test_the_worst_case_is_never_below_the_interval(drawn):
    lines = [UncertaintyTerm(str(n), standard, kind, shape="rectangular", limit_j=standard * math.sqrt(3))
             for n, (kind, standard) in enumerate(drawn)]  # fmt: skip
    interval = combine(lines)
    assert interval.expanded_j <= interval.worst_case_j * (1 + 1e-9)


@given(st.lists(st.tuples(st.sampled_from(["systematic", "random"]), st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1))
def test_a_sum_is_at_most_as_uncertain_as_if_all_were_one_error(drawn):
    left = [UncertaintyTerm(str(n), a, kind) for n, (kind, a, _) in enumerate(drawn)]
    right = [UncertaintyTerm(str(n), b, kind) for n, (kind, _, b) in enumerate(drawn)]
    both = expanded(add_terms(left, right))
    assert both <= (expanded(left) + expanded(right)) * (1 + 1e-9) + 1e-9
    assert both >= max(expanded(left), expanded(right)) * (1 - 1e-9)


def test_energy_known_to_be_missing_widens_the_interval_as_it_is():
    assert combine([line("random", 1.0, bias_j=5.0)]).expanded_j == pytest.approx(1.96 + 5.0)


def test_a_budget_of_nothing_is_certain():
    assert combine([]).expanded_j == 0.0
    assert combine([]).coverage_factor == 1.96


def test_a_clipped_stretch_has_no_bound_and_stays_so_in_sums():
    clipped = ErrorModel().terms(IntervalSummary(10.0, 1.0, clipped=True))
    clean = ErrorModel().terms(IntervalSummary(10.0, 1.0))
    assert expanded(clipped) == math.inf
    assert expanded(add_terms(clean, clipped)) == math.inf
    assert expanded(clean) == 0.0


def test_the_budget_names_every_line():
    names = [term.name for term in ErrorModel().terms(IntervalSummary(10.0, 1.0))]
    assert names == [
        "shunt", "gain", "bus", "reference", "offset", "clock", "quantisation", "sync", "edge", "duty", "noise", "gap",
        "clipping",
    ]  # fmt: skip


def test_known_standard_deviations_take_the_place_of_rectangles():
    stretch = IntervalSummary(10.0, 2.0)
    bare = {t.name: t for t in ErrorModel(gain_relative=0.006, offset_a=0.003).terms(stretch)}
    known = {
        t.name: t
        for t in ErrorModel(
            gain_relative=0.006, gain_standard=0.002, offset_a=0.003, offset_standard_a=0.001, supply_v=5.0
        ).terms(stretch)
    }
    assert bare["gain"].standard_j == pytest.approx(0.06 / math.sqrt(3))
    assert (known["gain"].standard_j, known["gain"].limit_j) == pytest.approx((0.02, 0.06))
    assert (bare["offset"].shape, known["offset"].shape) == ("rectangular", "normal")
    assert known["offset"].standard_j == pytest.approx(0.01)


def test_lines_of_one_shape_keep_it_and_unlike_ones_are_taken_for_normal():
    flat, round_ = line(shape="rectangular"), line(shape="normal")
    assert add_terms([flat], [flat])[0].shape == "rectangular"
    assert [add_terms(*pair)[0].shape for pair in (([flat], [round_]), ([round_], [flat]), ([round_], [round_]))] == [
        "normal"
    ] * 3
