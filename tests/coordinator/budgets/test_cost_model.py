"""Costs are learnt from metered phases: true under noise and outliers, with a deviation that says how true."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.budgets import regression
from coordinator.budgets.cold_start import board_of, prices_of
from coordinator.budgets.cost_model import CostModel, Prices, Work
from coordinator.budgets.regression import Regression, _solved
from protos.energy.trace import Phase, PhaseEnergy

TRUTH = Prices(
    embed_fixed_j=0.05, embedding_j=0.02, train_fixed_j=0.01, step_j=0.004, encode_j=0.03, send_fixed_j=0.04,
    up_j=2e-6, idle_w=3.0, down_j=1e-6,
)  # fmt: skip
_library_solve = np.linalg.solve


def metered(work: Work, seconds: float, spoil: object = None, truth: Prices = TRUTH) -> list[PhaseEnergy]:
    """The joules of some work; ``spoil`` makes a figure another."""
    joules = {
        Phase.EMBED: (truth.embed_fixed_j + truth.embedding_j * work.embedded) if work.embedded else 0.0,
        Phase.TRAIN: truth.train_fixed_j + truth.step_j * work.steps,
        Phase.ENCODE: truth.encode_j,
        Phase.SEND: truth.send_fixed_j + truth.up_j * work.bytes_up,
        Phase.IDLE: truth.idle_w * seconds + truth.down_j * work.bytes_down,
    }
    change = spoil if callable(spoil) else lambda value: value
    return [PhaseEnergy(phase, change(value), seconds, 0.0, "measured", "s", 0.01) for phase, value in joules.items()]


def test_predictions_are_no_part_of_a_round_and_teach_nothing() -> None:
    model, same = CostModel(TRUTH), CostModel(TRUTH)
    work = Work(embedded=5, steps=10, bytes_up=1000, bytes_down=1000)
    model.observe(work, [*metered(work, 2.0), PhaseEnergy(Phase.INFER, 1e6, 2.0, 0.0, "measured", "s", 0.01)])
    same.observe(work, metered(work, 2.0))
    assert model.state() == same.state()


def _came(work: Work) -> PhaseEnergy:
    return PhaseEnergy(Phase.RECEIVE, 0.2 + 5e-5 * work.bytes_down, 1.0, 0.0, "measured", "s", 0.01)


def test_what_comes_in_is_priced_by_the_devices_that_meter_it_and_by_their_orders_alone() -> None:
    model, random = CostModel(TRUTH), np.random.default_rng(3)
    work = Work(embedded=0, steps=10, bytes_up=1000, bytes_down=20_000)
    before = model.forecast(work).whole.mean
    for _ in range(40):
        some = Work(0, 10, 1000, int(random.integers(500, 40_000)))
        model.observe(some, [*metered(some, 2.0), _came(some)])
    assert model.prices.down_j == pytest.approx(5e-5, rel=0.1)
    assert model.forecast(work).whole.mean - before == pytest.approx(0.2 + 5e-5 * 20_000, rel=0.15)
    known = model.state()
    model.observe(Work(5, 10, 1000, 20_000), [PhaseEnergy(Phase.RECEIVE, 1e3, 9.0, 0.0, "measured", "s", 0.01)])
    assert model.state() == known, "a bundle may have come in as well"


def test_fits_that_an_earlier_release_wrote_down_go_on() -> None:
    model = lived(5)
    state = {name: value for name, value in model.state().items() if name != "receive"}
    again = CostModel.from_state(json.loads(json.dumps(state)))
    work = Work(0, 100, 1000, 10**6)
    assert again.forecast(work) == model.forecast(work), "joules that nobody reports are in no forecast"
    assert again.prices == model.prices
    again.observe(work, [_came(work)])
    assert again.knows(Phase.RECEIVE)


def lived(seed: int, rounds: int = 60, noise: float = 0.05, outliers: float = 0.05) -> CostModel:
    """A device whose first prices were wrong by a factor of two or so, after many rounds."""
    random = np.random.default_rng(seed)
    model = CostModel(Prices(*(value * float(np.exp(random.normal(0, 0.7))) for value in asdict(TRUTH).values())))

    def spoil(value: float) -> float:
        return value * (1 + random.normal(0, noise)) * (5.0 if random.random() < outliers else 1.0)

    for number in range(rounds):
        some = random.integers((5, 2000, 5000), (60, 20_000, 20_000))
        work = Work(int(random.integers(1, 80)) if number % 3 == 0 else 0, int(some[0]), int(some[1]), int(some[2]))
        model.observe(work, metered(work, float(random.uniform(0.5, 5)), spoil))
    return model


def test_the_truth_lies_within_the_uncertainty_under_noise_and_outliers() -> None:
    off = []
    for seed in range(25):
        model = lived(seed)
        truth, found, spread = (
            np.array([*asdict(prices).values()]) for prices in (TRUTH, model.prices, model.deviations)
        )
        off.append(np.abs(found - truth) / spread)
    inside = (np.array(off) < 2.0).mean(axis=0)
    assert (inside >= 0.8).all(), dict(zip(asdict(TRUTH), inside, strict=True))
    # And the deviations say something: prices that are used every round are known well.
    assert lived(1).deviations.step_j < 0.1 * TRUTH.step_j
    assert lived(1).deviations.embedding_j < 0.25 * TRUTH.embedding_j


def test_outliers_alone_move_a_price_little() -> None:
    clean, spoilt = lived(3, outliers=0.0), lived(3, outliers=0.1)
    assert spoilt.prices.step_j == pytest.approx(clean.prices.step_j, rel=0.15)


def test_a_device_that_changes_is_followed_within_a_few_rounds() -> None:
    model = lived(0)
    slower = Prices(**{**asdict(TRUTH), "step_j": 3 * TRUTH.step_j})
    random = np.random.default_rng(9)
    for _ in range(10):
        work = Work(0, int(random.integers(5, 60)), 4000, 8000)
        model.observe(work, metered(work, 1.0, truth=slower))
    assert model.forecast(Work(0, 30, 4000, 8000)).whole.mean == pytest.approx(
        0.01 + 30 * 0.012 + 0.03 + 0.04 + 0.008, rel=0.15
    )


def test_always_the_same_work_keeps_the_parts_uncertain_and_the_sum_sure() -> None:
    model = CostModel(Prices(*(2 * value for value in asdict(TRUTH).values())))
    work = Work(0, 20, 4000, 8000)
    for _ in range(300):
        model.observe(work, metered(work, 1.0))
    whole = model.forecast(work, single=False).whole
    assert whole.mean == pytest.approx(0.01 + 0.08 + 0.03 + 0.04 + 0.008, rel=0.02)
    assert model.deviations.train_fixed_j > 0.3 * model.prices.train_fixed_j
    assert np.isfinite([*asdict(model.deviations).values()]).all()


def test_unknown_or_barely_covered_phases_teach_nothing() -> None:
    model = CostModel(TRUTH)
    before = model.state()
    work = Work(0, 20, 4000, 8000)
    model.observe(work, [PhaseEnergy(Phase.TRAIN, None, 0.0, 1.0, "unknown", "", None)])
    model.observe(work, [PhaseEnergy(Phase.TRAIN, 99.0, 0.5, 0.5, "measured", "s", 0.1)])
    assert model.state() == before


def test_a_restart_changes_no_bit() -> None:
    model = lived(5, rounds=20)
    again = CostModel.from_state(json.loads(json.dumps(model.state())))
    assert again.state() == model.state()
    work = Work(3, 20, 4000, 8000)
    for cost_model in (model, again):
        cost_model.observe(work, metered(work, 1.0))
    assert again.state() == model.state()


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(0, 1000), st.integers(0, 10**7), st.floats(-1e3, 1e6)), max_size=25
    )
)
def test_whatever_is_metered_prices_stay_finite_and_never_negative(rounds: list[tuple[int, int, int, float]]) -> None:
    model = CostModel(TRUTH)
    for embedded, steps, size, joules in rounds:
        work = Work(embedded, steps, size, size)
        model.observe(work, [PhaseEnergy(phase, joules, 1.0, 0.0, "measured", "s", None) for phase in Phase])
    values = [*asdict(model.prices).values(), *asdict(model.deviations).values()]
    assert all(np.isfinite(value) and value >= 0 for value in values)
    forecast = model.forecast(Work(10, 10, 1000, 1000))
    assert forecast.whole.at_most() >= forecast.whole.mean >= 0


def test_a_first_guess_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive"):
        Regression([1.0, 0.0])


def test_a_cold_start_knows_the_board_and_the_operations() -> None:
    small = prices_of("Raspberry Pi 4 Model B Rev 1.4", macs=11_000_000, coordinates=650, batch_size=16)
    large = prices_of("pi4", macs=110_000_000, coordinates=5125, batch_size=16)
    # Traces at the board: 453 mJ for 300 M multiply-accumulates, with Ethernet; without, 0.55 W less for 128 ms.
    assert 300 / 11 * small.embedding_j == pytest.approx(0.453 - 0.55 * 0.128, rel=0.1)
    assert large.embedding_j == pytest.approx(10 * small.embedding_j)
    assert large.step_j > small.step_j
    assert prices_of("pi-zero-2", macs=None, coordinates=650, batch_size=16).idle_w == 0.6
    assert board_of("an unknown board").name == "pi4"


def test_a_round_is_planned_and_learnt_from_without_asking_the_library_for_a_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: Counter[str] = Counter()

    def solve(*given: Any) -> Any:
        asked["solve"] += 1
        return _library_solve(*given)

    monkeypatch.setattr(np.linalg, "solve", solve)
    model, work = CostModel(TRUTH), Work(40, 10, 1000, 4000)
    model.forecast(work)
    model.observe(work, metered(work, 2.0))
    model.forecast(work)
    assert not asked


@given(st.integers(1, 2), st.integers(0, 10_000))
def test_a_small_system_is_solved_as_well_as_the_library_does(size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(size, size)) * 10.0 ** random.uniform(-4, 4, (size, 1))
    matrix = rows @ rows.T + np.diag(10.0 ** random.uniform(-4, 2, size))
    right = random.normal(size=size)
    found, wanted = _solved(matrix, right), _library_solve(matrix, right)
    # Each loses as much as the matrix amplifies.
    assert np.abs(found - wanted).max() <= 8 * np.finfo(float).eps * np.linalg.cond(matrix) * np.abs(wanted).max()


def test_innovations_that_are_cut_are_held_against_what_a_normal_would_leave_of_them() -> None:
    """E[min(z^2, HUBER^2)] by a sum over narrow steps."""
    z = np.linspace(-12.0, 12.0, 240_001)
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    mean = float(np.sum(np.minimum(z * z, regression.HUBER**2) * density) * 1e-4)
    assert abs(regression._CLIPPED_SQUARE - mean) < 2e-3


def test_a_board_that_was_never_metered_is_expected_to_encode_longer_the_larger_the_head() -> None:
    small, large = (
        prices_of("pi4", macs=1_000_000, coordinates=count, batch_size=16).encode_j for count in (1_000, 4_000_000)
    )
    assert 0 < small < large
