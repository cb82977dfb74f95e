"""A thousand random cost histories: whatever a device's costs do, the estimate follows and its interval covers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.budgets.regression import HUBER, Regression

Floats = npt.NDArray[np.float64]
ROUNDS = 80


def steady(random: np.random.Generator) -> tuple[Floats, Floats]:
    """A true mean that stays, and a factor of every figure."""
    return np.ones(ROUNDS), np.ones(ROUNDS)


def jumps(random: np.random.Generator) -> tuple[Floats, Floats]:
    """One jump, up or down by up to five times, at least twenty rounds before the end."""
    at, factor = int(random.integers(5, ROUNDS - 20)), float(np.exp(random.uniform(-1.6, 1.6)))
    return np.where(np.arange(ROUNDS) < at, 1.0, factor), np.ones(ROUNDS)


def drifts(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Up to twice or half as much by the end."""
    return np.asarray(np.exp(np.linspace(0, random.uniform(-0.7, 0.7), ROUNDS))), np.ones(ROUNDS)


def outliers(random: np.random.Generator) -> tuple[Floats, Floats]:
    """Five in a hundred figures are three to ten times too large."""
    spoilt = random.random(ROUNDS) < 0.05
    return np.ones(ROUNDS), np.where(spoilt, random.uniform(3, 10, ROUNDS), 1.0)


def bad_first(random: np.random.Generator) -> tuple[Floats, Floats]:
    """The first figure alone is up to thirty times too large, or too small."""
    factor = np.ones(ROUNDS)
    factor[0] = np.exp(random.uniform(-3.4, 3.4))
    return np.ones(ROUNDS), factor


def lived(seed: int, kind: Callable[[np.random.Generator], tuple[Floats, Floats]]) -> tuple[float, float, float]:
    """Shares of rounds (after ten) whose interval held the next clean figure, and of the last twenty whose interval of
    the mean held the true mean; and the relative error of the mean at the end."""
    random = np.random.default_rng(seed)
    level, noise = float(np.exp(random.normal(0, 2))), float(random.choice([0.03, 0.1, 0.3]))
    means, spoilt = kind(random)
    model = Regression([level * float(np.exp(random.normal(0, 1.5)))])
    singles, sure = [], []
    for number in range(ROUNDS):
        mean = level * float(means[number])
        clean = mean * max(0.0, 1 + noise * float(random.normal()))
        if number >= 10:
            one = model.predict([1.0])
            singles.append(abs(clean - one.mean) <= 2 * one.deviation)
        if number >= ROUNDS - 20:
            average = model.predict([1.0], single=False)
            sure.append(abs(mean - average.mean) <= 3 * average.deviation)
        model.observe([1.0], clean * float(spoilt[number]))
    truth = level * float(means[-1])
    found = model.predict([1.0], single=False)
    return float(np.mean(singles)), float(np.mean(sure)), abs(found.mean - truth) / truth / noise


@pytest.mark.parametrize("kind", [steady, jumps, drifts, outliers, bad_first], ids=lambda kind: kind.__name__)
def test_over_200_histories_of_each_kind_the_estimate_follows_and_the_interval_covers(
    kind: Callable[[np.random.Generator], tuple[Floats, Floats]],
) -> None:
    found = np.array([lived(seed, kind) for seed in range(200)])
    assert found[:, 0].mean() >= 0.9, "the next figure within two deviations"
    assert found[:, 1].mean() >= 0.85, "the true mean within three deviations"
    assert np.quantile(found[:, 2], 0.95) <= 1.5, "the error at the end, in deviations of one figure"


@pytest.mark.parametrize("seed", range(20))
def test_one_dear_first_figure_does_not_freeze_the_estimate(seed: int) -> None:
    random = np.random.default_rng(seed)
    model = Regression([0.05])
    model.observe([1.0], 1.64)
    for _ in range(60):
        model.observe([1.0], max(0.0, float(random.normal(0.5, 0.35))))
    found = model.predict([1.0], single=False)
    assert 0.3 < found.mean < 0.8
    assert abs(found.mean - 0.51) <= 3 * found.deviation


def test_a_state_without_the_later_fields_goes_on() -> None:
    model = Regression([0.05])
    for value in (0.5, 0.6, 0.55):
        model.observe([1.0], value)
    old = {name: value for name, value in model.state().items() if name not in {"lean", "fresh"}}
    again = Regression.from_state(old)
    again.observe([1.0], 0.5)
    assert again.predict([1.0]).mean == pytest.approx(0.53, abs=0.05)


def settled(figures: int = 40) -> Regression:
    """A model that has seen many figures of about a half."""
    random, model = np.random.default_rng(1), Regression([0.05])
    for _ in range(figures):
        model.observe([1.0], float(random.normal(0.5, 0.02)))
    return model


@pytest.mark.parametrize("off", [3.0, 0.01])
def test_four_outliers_on_one_side_are_a_change_and_three_are_not(off: float) -> None:
    model = settled()
    for _ in range(3):
        assert abs(model.observe([1.0], off)) > HUBER
        assert model.state()["fresh"] > 40
    assert abs(model.observe([1.0], off)) > HUBER
    assert model.state()["fresh"] == 1, "certainty was dropped, and this figure is the first since"


def test_outliers_to_both_sides_are_bad_luck() -> None:
    model = settled()
    for off in (3.0, 3.0, 3.0, 0.001, 3.0, 3.0, 3.0):
        assert abs(model.observe([1.0], off)) > HUBER
    assert model.state()["fresh"] == 47
