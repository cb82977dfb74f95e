"""Windows that nest and overlap, and the board at rest taken away from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.energy.baseline import Baseline, IdleReading, net_of
from protos.energy.ina219 import PROFILES, Calibration
from protos.energy.interval_summary import ALIKE_ERRORS, ROUGH_SHARE, examine, unusable_bits
from protos.energy.trace import PowerTrace, SampleFlag
from protos.energy.trace_splitting import cut_samples
from protos.energy.uncertainty import ErrorModel
from protos.energy.windows import Window, judge_window, sum_window, window_energies

CHAIN = Calibration(1, 20_000).errors(PROFILES["balanced"].config, 5.0, dithered=True)


def steps(power, each_s=0.1):
    edges = np.arange(len(power) + 1) * each_s
    return PowerTrace.of(edges[:-1], edges[1:], power)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_a_window_is_the_same_whatever_others_there_are(pairs, seed):
    trace = steps(np.random.default_rng(seed).uniform(1, 9, 100))
    windows = [Window(str(n), min(pair), max(pair)) for n, pair in enumerate(pairs)]
    together = window_energies(trace, windows, errors=CHAIN)
    for window, figure in zip(windows, together, strict=True):
        assert window_energies(trace, [window], errors=CHAIN) == [figure]


@settings(max_examples=100, deadline=None)
@given(st.floats(0.2, 9.8), st.integers(0, 2**32 - 1))
def test_two_windows_that_meet_make_the_window_around_them(middle_s, seed):
    trace = steps(np.random.default_rng(seed).uniform(1, 9, 100))
    outer, left, right = window_energies(
        trace, [Window("all", 0, 10), Window("left", 0, middle_s), Window("right", middle_s, 10)]
    )
    assert left.gross_j + right.gross_j == pytest.approx(outer.gross_j, rel=1e-9)
    assert outer.max_w == max(left.max_w, right.max_w)
    assert outer.mean_w == pytest.approx(float(trace.power_w.mean()))


def test_successive_sums_add_up_to_the_window():
    trace = steps(np.random.default_rng(2).uniform(1, 9, 100))
    whole = sum_window(trace, 0.5, 9.5, CHAIN)
    parts = sum_window(trace, 0.5, 4.0, CHAIN) + sum_window(trace, 4.0, 9.5, CHAIN)
    assert parts.energy_j == pytest.approx(whole.energy_j)
    assert parts.max_w == whole.max_w
    shunt = {t.name: t.standard_j for t in parts.terms}["shunt"]
    # The shunt's own heat goes by the mean square of the current, and is no sum of what the parts say of theirs; the
    # rest of the line is, exactly.
    assert shunt == pytest.approx({t.name: t.standard_j for t in whole.terms}["shunt"], rel=1e-3)
    cold = dataclasses.replace(CHAIN, shunt_heating_per_w=0.0)
    whole = sum_window(trace, 0.5, 9.5, cold)
    parts = sum_window(trace, 0.5, 4.0, cold) + sum_window(trace, 4.0, 9.5, cold)
    assert {t.name: t.standard_j for t in parts.terms}["shunt"] == pytest.approx(
        {t.name: t.standard_j for t in whole.terms}["shunt"]
    )
    assert shunt > {t.name: t.standard_j for t in parts.terms}["shunt"]


def test_too_little_coverage_gives_no_figure_and_clipping_no_uncertainty():
    trace = PowerTrace.of([0, 1, 2.5], [1, 2, 3], [4.0, 4.0, 4.0], [0, SampleFlag.CLIPPED, 0])
    clean, clipped, holed, bad = window_energies(
        trace, [Window("a", 0, 1), Window("b", 0, 2), Window("c", 0, 2.05), Window("d", 1, 3)], errors=CHAIN
    )
    assert (clean.gross_j, clean.flags) == (4.0, ())
    assert (clipped.gross_j, clipped.flags, clipped.uncertainty_j) == (8.0, ("clipped",), None)
    assert holed.flags == ("degraded", "clipped")
    assert (bad.gross_j, bad.mean_w, bad.method, bad.uncertainty_j) == (None, None, "unknown", None)


@pytest.mark.parametrize(("quick", "pace"), [(10, 1.05), (11, 0.99), (12, 0.99)])
def test_the_sensors_clock_is_told_by_the_sample_that_a_tenth_of_the_others_are_quicker_than(quick, pace):
    """A hundred and one samples, some of them 6 % apart from the others: what was not looked at goes by the clock."""
    nominal_s = CHAIN.shunt_s / CHAIN.duty
    width = nominal_s * np.where(np.arange(101) < quick, 0.99, 1.05)
    edges = np.concatenate([[0.0], np.cumsum(np.random.default_rng(3).permutation(width))])
    trace = PowerTrace.of(edges[:-1], edges[1:], np.full(101, 4.0))
    found, _ = examine(trace, edges[:1], edges[-1:], CHAIN)
    unseen_s = width - np.minimum(width, CHAIN.shunt_s * pace)
    assert found.unseen_s == pytest.approx(float(unseen_s.sum()), rel=1e-9)


def test_a_clock_further_off_than_one_can_be_and_one_of_few_samples_are_taken_for_nominal():
    nominal_s = CHAIN.shunt_s / CHAIN.duty
    for count, pace in ((7, 1.05), (101, 1.2), (101, 0.8)):
        trace = steps(np.full(count, 4.0), nominal_s * pace)
        found, _ = examine(trace, trace.start_s[:1], trace.stop_s[-1:], CHAIN)
        assert found.unseen_s == pytest.approx(count * max(0.0, nominal_s * pace - CHAIN.shunt_s), rel=1e-9)


def test_idle_is_a_line_between_the_readings_and_subtracted_once():
    # 2 W at rest before, 3 W after: at 2.5 W in the middle. The work adds 4 W for 2 s.
    idle_w = 2.0 + np.clip((np.arange(100) - 9.5) / 80, 0, 1)
    power = idle_w + np.where((np.arange(100) >= 40) & (np.arange(100) < 60), 4.0, 0.0)
    trace = steps(power)
    before, after = (IdleReading.of_trace(trace, a, b, CHAIN) for a, b in ((0.0, 2.0), (8.0, 10.0)))
    (work,) = window_energies(trace, [Window("work", 4.0, 6.0)], errors=CHAIN, baseline=Baseline(before, after))
    assert work.net_j == pytest.approx(8.0, abs=0.02)
    assert work.net.idle_j == pytest.approx(5.0, abs=0.02)
    assert work.gross_j == pytest.approx(work.net_j + work.net.idle_j)
    lines = {term.name: term.standard_j for term in work.net.budget}
    assert lines["baseline"] == pytest.approx((after.power_w - before.power_w) * 2 / np.sqrt(12))


def test_the_zero_goes_out_of_the_net_energy_and_the_scale_acts_on_what_is_left():
    trace = steps(np.where(np.arange(100) < 40, 2.0, 6.0))
    reading = IdleReading.of_trace(trace, 0.0, 4.0, CHAIN)
    (work,) = window_energies(trace, [Window("work", 5.0, 9.0)], errors=CHAIN, baseline=Baseline(reading))
    gross = {term.name: term.standard_j for term in work.budget}
    net = {term.name: term.standard_j for term in work.net.budget}
    assert net["offset"] == pytest.approx(0.0, abs=1e-12)
    assert gross["offset"] > 0
    assert net["bus"] == pytest.approx(gross["bus"] * 4 / 6)
    assert work.flags == ("one-baseline",)


def test_idle_is_taken_away_only_where_joules_were_seen():
    trace = PowerTrace.of([0.0, 0.95], [0.9, 1.0], [5.0, 5.0])
    reading = IdleReading(-2.0, -1.0, 2.0, 1.0, ())
    (work,) = window_energies(trace, [Window("work", 0.0, 1.0)], baseline=Baseline(reading))
    assert work.net_j == pytest.approx(0.95 * 3.0)
    assert work.net.idle_j == pytest.approx(0.95 * 2.0)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 20), st.floats(0, 20), st.floats(0, 20))
def test_idle_energy_adds_up_over_any_division(first, second, third):
    start, middle, stop = sorted((first, second, third))
    baseline = Baseline(IdleReading(4.0, 6.0, 4.0, 2.0, ()), IdleReading(14.0, 16.0, 10.0, 2.0, ()))
    whole = baseline.energy(start, stop)[0]
    assert baseline.energy(start, middle)[0] + baseline.energy(middle, stop)[0] == pytest.approx(whole, abs=1e-9)


def test_net_energy_lies_within_its_interval_whatever_the_chain_does():
    outside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        errors = ErrorModel(gain_relative=0.01, gain_standard=0.005, offset_a=0.01, offset_standard_a=0.005)
        scale, zero_w = 1 + rng.normal(0, 0.005), 5.0 * rng.normal(0, 0.005)
        drift = rng.uniform(-0.2, 0.2)
        idle = 2.0 + drift * np.linspace(0, 1, 300)
        work = np.where((np.arange(300) >= 100) & (np.arange(300) < 200), 3.0, 0.0)
        trace = steps((idle + work) * scale + zero_w)
        readings = [IdleReading.of_trace(trace, a, a + 8.0, errors) for a in (0.0, 22.0)]
        (figure,) = window_energies(
            trace, [Window("work", 10.0, 20.0)], errors=errors, baseline=Baseline(*readings)
        )  # fmt: skip
        outside += abs(figure.net_j - 30.0) > figure.net.interval.expanded_j
    assert outside <= 14  # 95 %


def test_a_reading_without_samples_is_refused():
    with pytest.raises(ValueError, match="no samples"):
        IdleReading.of_trace(steps([1.0]), 5.0, 6.0, CHAIN)


def test_an_unknown_method_has_no_figure_and_no_net():
    reading = IdleReading(0.0, 1.0, 2.0, 1.0, ())
    sums = sum_window(steps([1.0] * 10), 0.0, 1.0)
    figure = judge_window(Window("x", 0.0, 1.0), sums, method="unknown", baseline=Baseline(reading))
    assert (figure.gross_j, figure.net, figure.duration_s) == (None, None, 1.0)
    assert net_of(3.0, (), Baseline(reading), 0.0, 1.0).energy_j == 1.0


@given(st.floats(0.0, 4.5), st.sampled_from([0.0, 0.0004, 0.003, 0.2, 4.0]), st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_a_window_in_a_long_trace_is_that_of_the_whole_trace_examined(start_s, seconds, seed):
    rng = np.random.default_rng(seed)
    edges = np.cumsum(rng.uniform(5e-4, 9e-4, 6001))
    trace = PowerTrace.of(edges[:-1], edges[1:], rng.uniform(2, 6, 6000))
    model = ErrorModel(supply_v=5.0, shunt_relative=0.01, noise_a=1e-3, duty=0.6)
    sums = sum_window(trace, start_s, start_s + seconds, model)
    stretch, bits = examine(trace, np.array([start_s]), np.array([start_s + seconds]), model)
    assert sums.energy_j == pytest.approx(stretch.energy_j, abs=1e-9)
    assert (sums.samples, sums.bits) == (stretch.samples, bits)
    for mine, whole in zip(sums.terms, model.terms(stretch), strict=True):
        assert mine.standard_j == pytest.approx(whole.standard_j, rel=1e-6, abs=1e-12)


def over(trace, start_s, stop_s, errors=CHAIN):
    return examine(trace, np.array([start_s]), np.array([stop_s]), errors)[0]


def test_a_sample_that_is_cut_counts_by_the_range_of_its_neighbours_and_one_that_is_whole_not_at_all():
    trace = PowerTrace.of(np.arange(4.0), np.arange(1.0, 5.0), [1.0, 4.0, 2.0, 2.0])
    assert over(trace, 1.5, 4.0).cut_sum_ws == pytest.approx(4.0 - 1.0)
    assert over(trace, 1.0, 4.0).cut_sum_ws == 0.0
    level = PowerTrace.of(np.arange(4.0), np.arange(1.0, 5.0), np.full(4, 5.0))
    assert over(level, 1.5, 3.5).cut_sum_ws == 0.0


def test_what_a_sample_did_not_see_weighs_less_where_it_stands_for_several():
    """One made of the bridge's sums stands for four: the errors of four looks are smaller together than of one."""
    flags = [0, 0, SampleFlag.RECOVERED, 0]
    trace = PowerTrace.of([0.0, 1.0, 2.0, 6.0], [1.0, 2.0, 6.0, 7.0], [1.0, 2.0, 4.0, 3.0], flags)
    width, unseen_s, count = np.array([1, 1, 4, 1]), np.array([1, 1, 4, 1]) * 0.25, np.array([1, 1, 4, 1])
    rough, step = np.array([1, 1, 1, 1]) / (2 * ROUGH_SHARE), np.array([1 + 1, 1 + 4, 4 + 1, 1 + 1]) / 4
    each = ALIKE_ERRORS**2 * unseen_s / count * (width * rough + unseen_s * step)
    assert over(trace, 0.0, 7.0, ErrorModel(duty=0.75)).unseen_w2s2 == pytest.approx(each.sum())


def test_only_samples_that_cover_no_time_tell_why_time_is_missing():
    flags = [SampleFlag.CLIPPED, SampleFlag.BUS_LOW, 0]
    trace = PowerTrace.of([0.0, 1.0, 2.0], [1.0, 2.0, 3.0], [9.0, 0.0, 1.0], flags)
    assert unusable_bits(trace, np.array([0.0]), np.array([3.0])) == SampleFlag.BUS_LOW
    assert unusable_bits(trace, np.array([0.0]), np.array([1.0])) == 0


def test_an_edge_between_two_samples_cuts_none():
    trace = steps(np.ones(3), each_s=1.0)
    assert cut_samples(trace, np.array([-1.0, 0.0, 0.5, 1.0, 2.9, 3.0])).tolist() == [-1, -1, 0, -1, 2, -1]
