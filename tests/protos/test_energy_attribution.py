"""Attribution of energy to phases: conservation, coverage, flags."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.energy.attribution import attribute, integrate, judge, tally
from protos.energy.trace import Mark, Phase, PowerTrace, SampleFlag
from protos.energy.uncertainty import ErrorModel

widths = st.lists(
    st.tuples(st.floats(1e-4, 0.5), st.one_of(st.just(0.0), st.floats(1e-5, 2.0)), st.floats(0.0, 20.0)),
    min_size=1,
    max_size=60,
)


def trace_of(rows: list[tuple[float, float, float]], begin_s: float) -> PowerTrace:
    """Samples of (width, pause before, watts)."""
    start, stop, now = [], [], begin_s
    for width, pause, _ in rows:
        start.append(now + pause)
        now = start[-1] + width
        stop.append(now)
    return PowerTrace.of(start, stop, [power for _, _, power in rows])


def direct_sum(trace: PowerTrace, begin_s: float, end_s: float) -> float:
    """Energy between two instants, sample by sample, in exact summation."""
    return math.fsum(
        power * max(0.0, min(stop, end_s) - max(start, begin_s))
        for start, stop, power in zip(trace.start_s, trace.stop_s, trace.power_w, strict=True)
    )


@settings(max_examples=200, deadline=None)
@given(widths, st.lists(st.floats(0.0, 1.0), max_size=30), st.floats(0.0, 1e6), st.data())
def test_parts_add_up_to_the_whole_under_random_marks_and_gaps(rows, cuts, begin_s, data):
    trace = trace_of(rows, begin_s)
    end_s = float(trace.stop_s[-1])
    phases = data.draw(st.lists(st.sampled_from(Phase), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    times = [begin_s, *(begin_s + cut * (end_s - begin_s) for cut in cuts)]
    marks = [Mark(t_s, phase) for t_s, phase in zip(times, phases, strict=True)]
    parts = attribute(trace, marks, end_s, minimum_coverage=0.0)
    whole = direct_sum(trace, begin_s, end_s)
    assert math.fsum(part.energy_j for part in parts) == pytest.approx(whole, rel=1e-9, abs=1e-12)
    total_s = math.fsum(part.covered_s + part.uncovered_s for part in parts)
    assert total_s == pytest.approx(end_s - begin_s, rel=1e-9, abs=1e-9)
    assert len({part.phase for part in parts}) == len(parts)


@settings(max_examples=100, deadline=None)
@given(widths, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=10))
def test_each_part_equals_its_own_sum_over_samples(rows, cuts):
    trace = trace_of(rows, 5.0)
    end_s = float(trace.stop_s[-1])
    edges = sorted({5.0, end_s, *(5.0 + cut * (end_s - 5.0) for cut in cuts)})
    energy_j, covered_s = integrate(trace, edges)
    whole = direct_sum(trace, 5.0, end_s)
    for index, (begin_s, stop_s) in enumerate(itertools.pairwise(edges)):
        assert energy_j[index] == pytest.approx(direct_sum(trace, begin_s, stop_s), abs=1e-9 * whole + 1e-12)
        assert covered_s[index] <= stop_s - begin_s + 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 3), st.floats(0, 9)), min_size=1, max_size=40))
def test_overlapping_samples_never_cover_an_instant_twice(rows):
    trace = PowerTrace.of(*(np.array(column) for column in zip(*[(s, s + w, p) for s, w, p in rows], strict=True)))
    clean = trace.disjoint()
    assert (clean.start_s[1:] >= clean.stop_s[:-1]).all()
    # The union of the intervals is kept: nothing is lost by taking overlaps away.
    union, reached = 0.0, -math.inf
    for start, width, _ in sorted(rows):
        union += max(0.0, start + width - max(start, reached))
        reached = max(reached, start + width)
    assert float((clean.stop_s - clean.start_s).sum()) == pytest.approx(union, abs=1e-9)


def test_a_sample_cut_by_a_mark_is_divided_by_time():
    trace = PowerTrace.of([0.0], [1.0], [8.0])
    idle, train = attribute(trace, [Mark(0.0, Phase.IDLE), Mark(0.25, Phase.TRAIN)], 1.0)
    assert (idle.energy_j, train.energy_j) == (2.0, 6.0)


def test_a_step_is_found_where_the_energy_says_though_the_mark_is_late():
    # 2 W, then 8 W from t = 1.25 on; the mark comes at 1.27, in the same sample.
    trace = PowerTrace.of([0.0, 1.2, 1.3], [1.2, 1.3, 2.3], [2.0, 5.0, 8.0])
    idle, train = attribute(trace, [Mark(0, Phase.IDLE), Mark(1.27, Phase.TRAIN)], 2.3)
    assert idle.energy_j == pytest.approx(2.0 * 1.25 + 8.0 * 0.02)
    assert train.energy_j == pytest.approx(8.0 * 1.03)


def test_a_sample_outside_its_neighbours_or_beyond_a_gap_is_divided_by_time():
    for start, power in (([0.0, 1.0, 2.0], [2.0, 9.0, 3.0]), ([0.0, 1.0, 3.5], [2.0, 2.5, 3.0])):
        trace = PowerTrace.of(start, [1.0, 2.0, start[-1] + 1], power)
        (_, second) = attribute(trace, [Mark(0, Phase.IDLE), Mark(1.75, Phase.TRAIN)], 2.0, minimum_coverage=0)
        assert second.energy_j == pytest.approx(power[1] / 4)


def test_a_gap_is_uncovered_time_and_adds_no_energy():
    trace = PowerTrace.of([0.0, 0.97], [0.95, 1.0], [10.0, 10.0])
    (part,) = attribute(trace, [Mark(0.0, Phase.TRAIN)], 1.0)
    assert part.energy_j == pytest.approx(9.8)
    assert part.uncovered_s == pytest.approx(0.02)
    assert part.flags == ("degraded",)
    # The interval covers what the gap may have held.
    assert part.energy_j + part.uncertainty_j >= 10.0


def test_too_little_coverage_gives_no_figure_instead_of_zero():
    trace = PowerTrace.of([0.0], [0.85], [10.0])
    (part,) = attribute(trace, [Mark(0.0, Phase.TRAIN)], 1.0)
    assert part.energy_j is None
    assert part.uncertainty_j is None
    assert part.method == "unknown"
    assert part.coverage == pytest.approx(0.85)


def test_no_samples_at_all_is_unknown():
    (part,) = attribute(PowerTrace.of([], [], []), [Mark(3.0, Phase.SEND)], 4.0)
    assert (part.energy_j, part.covered_s, part.uncovered_s) == (None, 0.0, 1.0)


def test_clipped_samples_take_the_uncertainty_away_and_flag_only_their_phase():
    trace = PowerTrace.of([0, 1, 2], [1, 2, 3], [5.0, 5.0, 5.0], [0, SampleFlag.CLIPPED, 0])
    marks = [Mark(0, Phase.EMBED), Mark(1, Phase.TRAIN), Mark(2, Phase.ENCODE)]
    embed, train, encode = attribute(trace, marks, 3.0)
    assert (embed.flags, train.flags, encode.flags) == ((), ("clipped",), ())
    assert train.uncertainty_j is None
    assert embed.uncertainty_j is not None


def test_a_clipped_sample_across_a_mark_flags_both_sides():
    trace = PowerTrace.of([0.0], [2.0], [5.0], [SampleFlag.CLIPPED])
    parts = attribute(trace, [Mark(0, Phase.EMBED), Mark(1, Phase.TRAIN)], 2.0)
    assert [part.flags for part in parts] == [("clipped",), ("clipped",)]


def test_samples_that_are_not_numbers_count_as_missing():
    trace = PowerTrace.of([0.0, 0.5], [0.5, 1.0], [4.0, math.nan])
    (sums,) = tally(trace, [Mark(0, Phase.TRAIN)], 1.0)
    assert (sums.energy_j, sums.covered_s, sums.uncovered_s) == (2.0, 0.5, 0.5)


def test_successive_tallies_add_up_to_the_tally_of_the_whole():
    rng = np.random.default_rng(5)
    edges = np.cumsum(rng.uniform(0.01, 0.1, 101))
    trace = PowerTrace.of(edges[:-1], edges[1:], rng.uniform(1, 9, 100))
    marks = [Mark(float(edges[0]), Phase.TRAIN)]
    middle = float(edges[50]) + 0.003
    (whole,) = tally(trace, marks, float(edges[-1]))
    (first,) = tally(trace, marks, middle)
    (second,) = tally(trace, [Mark(middle, Phase.TRAIN)], float(edges[-1]))
    both = first + second
    assert both.energy_j == pytest.approx(whole.energy_j, rel=1e-12)
    assert both.covered_s == pytest.approx(whole.covered_s, rel=1e-12)
    with pytest.raises(ValueError, match="cannot add"):
        first + tally(trace, [Mark(middle, Phase.SEND)], float(edges[-1]))[0]


def test_marks_may_come_in_any_order_and_late_ones_are_ignored():
    trace = PowerTrace.of([0.0], [4.0], [1.0])
    marks = [Mark(2, Phase.TRAIN), Mark(0, Phase.IDLE), Mark(9, Phase.SEND)]
    assert {part.phase: part.energy_j for part in attribute(trace, marks, 4.0)} == {"idle": 2.0, "train": 2.0}
    assert attribute(trace, [], 4.0) == []


def test_unknown_method_never_gives_a_figure():
    (sums,) = tally(PowerTrace.of([0.0], [1.0], [1.0]), [Mark(0, Phase.TRAIN)], 1.0)
    assert judge(sums, method="unknown").energy_j is None


def test_uncertainty_of_a_constant_load_follows_the_documented_formula():
    errors = ErrorModel(
        supply_v=5.0, current_step_a=5e-4, voltage_step_v=4e-3, offset_a=1e-3, gain_relative=0.002, duty=0.9
    )
    edges = np.linspace(0.0, 10.0, 1001)
    trace = PowerTrace.of(edges[:-1], edges[1:], np.full(1000, 4.0))
    (part,) = attribute(trace, [Mark(0, Phase.TRAIN)], 10.0, errors=errors)
    terms = {term.name: term.standard_j for term in part.budget}
    assert terms["quantisation"] == pytest.approx(math.hypot(5 * 5e-4, 0.8 * 4e-3) / math.sqrt(12) * 10)
    assert terms["offset"] == pytest.approx(5.0 * 1e-3 / math.sqrt(3) * 10)
    assert terms["gain"] == pytest.approx(0.002 / math.sqrt(3) * 40)
    assert terms["duty"] == pytest.approx(0.0, abs=1e-6)
    assert terms["gap"] == pytest.approx(0.0, abs=1e-9)
    combined = math.sqrt(sum(term**2 for term in terms.values()))
    assert part.uncertainty_j == pytest.approx(part.coverage_factor * combined)
    assert 1.645 < part.coverage_factor < 1.96
    assert part.worst_case_j == pytest.approx(10 * (5 * 5e-4 + 0.8 * 4e-3) / 2 + 0.05 + 0.08)


def test_readings_that_differ_err_in_quantisation_independently():
    errors = ErrorModel(current_step_a=5e-4)
    edges = np.linspace(0.0, 10.0, 1001)

    def quantisation(power):
        (part,) = attribute(PowerTrace.of(edges[:-1], edges[1:], power), [Mark(0, Phase.TRAIN)], 10.0, errors=errors)
        return {term.name: term.standard_j for term in part.budget}["quantisation"]

    alike, four = quantisation(np.full(1000, 4.0)), quantisation(np.tile([3.0, 4.0, 5.0, 6.0], 250))
    assert four == pytest.approx(alike / 2)


def test_a_missed_conversion_was_looked_at_for_half_as_long():
    errors = ErrorModel(shunt_s=0.008, dithered=True)
    power = np.where(np.arange(400) % 3 == 0, 5.0, 4.0)

    def unseen(width_s):
        edges = np.concatenate([[0.0], np.cumsum(width_s)])
        (sums,) = tally(PowerTrace.of(edges[:-1], edges[1:], power), [Mark(0, Phase.TRAIN)], edges[-1], errors=errors)
        return next(term.limit_j for term in sums.terms if term.name == "duty")

    # 2 ms of 10 are not seen, and 12 of 20; the range of the power is 1 W.
    assert unseen(np.full(400, 0.010)) == pytest.approx(400 * 0.002)
    assert unseen(np.full(400, 0.020)) == pytest.approx(400 * 0.012)


def test_unseen_time_is_a_sampling_error_that_shrinks_when_conversions_are_dithered():
    rng = np.random.default_rng(3)

    def relative(count, *, dithered):
        edges = np.arange(count + 1) * 0.01
        trace = PowerTrace.of(edges[:-1], edges[1:], rng.uniform(3, 5, count))
        errors = ErrorModel(shunt_s=0.008, dithered=dithered)
        (sums,) = tally(trace, [Mark(0, Phase.TRAIN)], edges[-1], errors=errors)
        return next(term.standard_j for term in sums.terms if term.name == "duty") / sums.energy_j

    assert relative(6400, dithered=True) == pytest.approx(relative(100, dithered=True) / 8, rel=0.25)
    assert relative(6400, dithered=False) == pytest.approx(relative(100, dithered=False), rel=0.15)


def test_a_step_at_a_mark_inside_a_sample_stays_within_the_edge_term():
    # Idle at 2 W, then 8 W from t = 1.3 on; the sample [1.25, 1.35] holds the step.
    edges = np.arange(0.05, 2.6, 0.1)
    truth = np.clip(edges[1:] - 1.3, 0, 0.1) / 0.1
    trace = PowerTrace.of(edges[:-1], edges[1:], 2.0 + 6.0 * truth)
    marks = [Mark(0.05, Phase.IDLE), Mark(1.3, Phase.TRAIN)]
    idle, train = attribute(trace, marks, float(edges[-1]))
    assert idle.energy_j == pytest.approx(2.0 * 1.25, abs=idle.uncertainty_j)
    assert train.energy_j == pytest.approx(8.0 * (float(edges[-1]) - 1.3), abs=train.uncertainty_j)
    # The sample's energy tells where the step was.
    assert idle.energy_j == pytest.approx(2.5, abs=1e-9)


def test_arrays_of_different_length_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        PowerTrace.of([0.0, 1.0], [1.0, 2.0], [3.0])
