"""The interval holds the truth: 500 random loads, sensors, calibrations, oscillators, clocks, lines and phases."""

from __future__ import annotations

import pytest

from benchmarks.coverage_study import LOADS, one_each, study, summary
from benchmarks.meters.cut_study import study as cut_study


@pytest.fixture(scope="module")
def outcomes():
    return study(500, seed=219)


def test_the_truth_lies_inside_the_95_percent_interval_in_93_to_99_percent_of_cases(outcomes):
    assert len(one_each(outcomes)) >= 495
    assert 0.93 <= summary(outcomes)["inside"] <= 0.99


def test_the_share_holds_for_every_kind_of_load_profile_and_calibration(outcomes):
    # Phases of one case share its sensor: 84 independent cases of a load, 95 % give or take 7 %.
    for name, group in summary(outcomes)["groups"].items():
        assert group["inside"] >= 0.88, (name, group)
    assert set(LOADS) < set(summary(outcomes)["groups"])


def test_the_share_holds_too_for_a_bridge_that_does_not_dither():
    assert 0.93 <= summary(study(300, seed=2, dither=False))["inside"] <= 0.99


def test_errors_are_as_large_as_the_interval_says(outcomes):
    # A normal error of one sigma has 0.51 half widths; intervals that are twice as wide would give 0.26.
    assert 0.4 <= summary(outcomes)["rms_error_in_half_widths"] <= 0.56


def test_hardly_an_error_is_beyond_the_worst_case(outcomes):
    # A square load in step with the samples hides from both figures (docs/energy.md).
    beyond = [o for o in outcomes if abs(o.error_j) > o.figure.worst_case_j]
    assert len(beyond) <= 0.003 * len(outcomes)
    assert {outcome.load for outcome in beyond} <= {"square"}


@pytest.fixture(scope="module")
def cuts():
    return {(row["case"], row["profile"], row["rule"]): row for row in cut_study(150, seed=4)}


@pytest.mark.parametrize(("profile", "limit"), [("transient", 0.005), ("balanced", 0.01), ("energy", 0.015)])
def test_a_phase_of_200_ms_from_idle_to_full_is_known_as_well_as_promised(cuts, profile, limit):
    for case in ("step at the mark", "clock wrong by up to 0.3 ms", "load follows the mark by 0-3 ms"):
        assert cuts[case, profile, "step where the energy says"]["largest"] < limit


def test_the_rule_in_use_is_never_worse_than_dividing_by_time(cuts):
    for (case, profile, rule), row in cuts.items():
        if rule == "constant power":
            assert cuts[case, profile, "step where the energy says"]["rms"] <= row["rms"] * 1.05, (case, profile)
