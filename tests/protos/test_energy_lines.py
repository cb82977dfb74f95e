"""Each line of an uncertainty budget against drawn instruments: as wide as the errors are, neither less nor much more.

An instrument is drawn a few thousand times with one error alone; the spread of what its joules are wrong by is held
against the line's standard uncertainty, from both sides.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from protos.energy.uncertainty import ErrorModel, IntervalSummary

DRAWS = 20_000
VOLTS, AMPERES, TIME_S, SAMPLES = 5.0, 0.5, 2.0, 200
TRUE_J = VOLTS * AMPERES * TIME_S
Rng = np.random.Generator
Drawn = Callable[[Rng], np.ndarray]


def stretch(**more: float) -> IntervalSummary:
    step_s = TIME_S / SAMPLES
    return IntervalSummary(TRUE_J, TIME_S, squared_s2=SAMPLES * step_s**2, samples=SAMPLES, **more)  # type: ignore[arg-type]


def line(model: ErrorModel, name: str, of: IntervalSummary) -> float:
    (found,) = (term for term in model.terms(of) if term.name == name)
    return found.standard_j


LINES: dict[str, tuple[ErrorModel, IntervalSummary, Drawn]] = {
    # A tolerance alone is a rectangle; a known spread of parts is normal.
    "shunt": (
        ErrorModel(shunt_relative=0.01), stretch(), lambda rng: TRUE_J * rng.uniform(-0.01, 0.01, DRAWS),
    ),
    "gain": (
        ErrorModel(gain_relative=0.005, gain_standard=0.002), stretch(),
        lambda rng: TRUE_J * rng.normal(0, 0.002, DRAWS),
    ),
    "bus": (ErrorModel(bus_relative=0.005), stretch(), lambda rng: TRUE_J * rng.uniform(-0.005, 0.005, DRAWS)),
    "reference": (
        ErrorModel(reference_relative=0.001), stretch(), lambda rng: TRUE_J * rng.uniform(-0.001, 0.001, DRAWS),
    ),
    "offset": (
        ErrorModel(offset_a=1e-3), stretch(), lambda rng: VOLTS * TIME_S * rng.uniform(-1e-3, 1e-3, DRAWS),
    ),
    "clock": (ErrorModel(clock_relative=1e-4), stretch(), lambda rng: TRUE_J * rng.normal(0, 1e-4, DRAWS)),
    "noise": (
        ErrorModel(noise_a=2e-3), stretch(),
        lambda rng: VOLTS * TIME_S * rng.normal(0, 2e-3, (DRAWS // 10, SAMPLES)).mean(axis=1),
    ),
    # All marks are shifted together by as much as the clocks may differ: a step of 2 W moves in or out.
    "sync": (ErrorModel(sync_s=1e-3), stretch(sync_w=2.0), lambda rng: 2.0 * rng.uniform(-1e-3, 1e-3, DRAWS)),
}  # fmt: skip


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_as_wide_as_the_errors_that_it_stands_for(name: str) -> None:
    model, of, drawn = LINES[name]
    assert line(model, name, of) == pytest.approx(float(np.std(drawn(np.random.default_rng(5)))), rel=0.04)


@pytest.mark.parametrize("levels", [1, 50])
def test_the_line_of_steps_is_as_wide_as_registers_are_coarse(levels: int) -> None:
    """A load that stays on one reading errs alike all the time; one that moves over many errs in as many ways."""
    rng, current_step, voltage_step = np.random.default_rng(6), 5e-3, 4e-3
    amperes = AMPERES + rng.uniform(0, 50 * current_step, (4000, levels))
    volts = VOLTS + rng.uniform(0, 10 * voltage_step, (4000, 1))
    read_a, read_v = (np.round(array / step) * step for array, step in ((amperes, current_step), (volts, voltage_step)))
    errors_j = TIME_S * (read_a * read_v - amperes * volts).mean(axis=1)
    mean_w = float(np.mean(amperes * volts))
    model = ErrorModel(supply_v=VOLTS, current_step_a=current_step, voltage_step_v=voltage_step)
    of = IntervalSummary(mean_w * TIME_S, TIME_S, alike=levels**-0.5, samples=SAMPLES)
    assert line(model, "quantisation", of) == pytest.approx(float(np.std(errors_j)), rel=0.08)


def test_a_gap_widens_the_interval_by_what_is_missing_and_by_how_much_the_load_varies() -> None:
    of = stretch(uncovered_s=0.5, spread_w=0.3)
    (gap,) = (term for term in ErrorModel().terms(of) if term.name == "gap")
    assert (gap.standard_j, gap.bias_j) == (pytest.approx(0.15), pytest.approx(0.5 * VOLTS * AMPERES))


def test_the_limit_of_a_line_is_the_largest_error_drawn_and_hardly_more() -> None:
    for name, (model, of, drawn) in LINES.items():
        (found,) = (term for term in model.terms(of) if term.name == name)
        if found.shape == "rectangular":
            largest = float(np.max(np.abs(drawn(np.random.default_rng(7)))))
            assert largest <= found.worst_j <= 1.01 * largest, name


def test_unseen_time_of_a_rhythm_without_dither_is_half_the_swing_as_a_rectangle() -> None:
    of = IntervalSummary(TRUE_J, TIME_S, swing_ws=0.6, unseen_s=0.5, low_w=0.0, unseen_w2s2=0.09, samples=SAMPLES)
    (still,) = [term for term in ErrorModel().terms(of) if term.name == "duty"]
    # A value anywhere within a width has the standard deviation width / sqrt(12): GUM, 4.3.7.
    assert still.standard_j == pytest.approx(0.6 / 12**0.5)
    (dithered,) = [term for term in ErrorModel(dithered=True).terms(of) if term.name == "duty"]
    assert dithered.standard_j == pytest.approx(0.3)
    assert dithered.limit_j == still.limit_j == pytest.approx(0.5 * TRUE_J / TIME_S)
