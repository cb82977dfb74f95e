"""Clock alignment on virtual time: drift, asymmetry, outliers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edge_runtime.power.bridge.alignment import KEPT_EXCHANGES, LEAST_RATE_ERROR, PRIOR_DRIFT, Alignment, _Line
from protos.bridge.exchange import Exchange


def exchanges(
    *, drift_ppm: float, seconds: float, each_s: float, seed: int, usb_s: float = 1e-3, born_s: float = 500.0
):
    """Four-stamp exchanges over a USB-like line: 0.1-1.1 ms down, quantised to the polling interval up."""
    source = random.Random(seed)
    rate = 1e6 * (1 + drift_ppm * 1e-6)
    at_s = born_s + 10.0
    while at_s < born_s + 10.0 + seconds:
        received_s = at_s + source.uniform(1e-4, 1.1e-3)
        answered_s = received_s + 40e-6
        back_s = answered_s + source.uniform(2e-5, usb_s)
        yield Exchange(at_s, int((received_s - born_s) * rate), int((answered_s - born_s) * rate), back_s)
        at_s += each_s


def fitted(**options):
    alignment = Alignment()
    for exchange in exchanges(**options):
        alignment.add(exchange)
    fit = alignment.fit
    assert fit is not None
    return fit


@pytest.mark.parametrize("drift_ppm", [0.0, 80.0, -200.0, 2000.0])
@pytest.mark.parametrize("seed", range(5))
def test_drift_and_offset_are_found_over_two_minutes(drift_ppm, seed):
    fit = fitted(drift_ppm=drift_ppm, seconds=120.0, each_s=0.5, seed=seed)
    assert fit.drift_ppm == pytest.approx(drift_ppm, abs=6.0)
    rate = 1e6 * (1 + drift_ppm * 1e-6)
    ticks = np.array([int(seconds * rate) for seconds in (20.0, 70.0, 125.0)])
    error_s = fit.host_s(ticks) - (500.0 + ticks / rate)
    assert np.abs(error_s).max() < fit.limit_s
    assert fit.asymmetry_s < 0.5e-3


def test_a_few_early_exchanges_do_not_invent_a_drift():
    fit = fitted(drift_ppm=80.0, seconds=0.25, each_s=0.03, seed=1)
    assert abs(fit.drift_ppm) < 2500
    assert fit.rate_error > 1e-4


def test_one_exchange_is_enough_for_an_offset():
    alignment = Alignment()
    assert alignment.fit is None
    alignment.add(Exchange(10.0, 5_000_000, 5_000_100, 10.0012))
    fit = alignment.fit
    assert fit is not None
    assert fit.host_s(np.array([5_000_050]))[0] == pytest.approx(10.0006)
    assert fit.asymmetry_s == pytest.approx(0.55e-3)


def test_slow_exchanges_do_not_move_the_fit():
    alignment = Alignment()
    for number, exchange in enumerate(exchanges(drift_ppm=80.0, seconds=60.0, each_s=0.5, seed=9)):
        late_s = 0.016 if number % 3 == 0 else 0.0  # the latency timer of a USB bridge
        alignment.add(
            Exchange(exchange.sent_s, exchange.received_tick, exchange.answered_tick, exchange.back_s + late_s)
        )
    fit = alignment.fit
    assert fit is not None
    assert fit.drift_ppm == pytest.approx(80.0, abs=10.0)
    assert fit.asymmetry_s < 1e-3


def test_impossible_exchanges_are_left_out():
    alignment = Alignment()
    alignment.add(Exchange(10.0, 0, 5_000_000, 10.001))
    alignment.add(Exchange(10.0, 0, 0, 9.0))
    assert alignment.fit is None


def test_only_the_newest_exchanges_are_kept():
    alignment = Alignment()
    for exchange in exchanges(drift_ppm=0.0, seconds=400.0, each_s=1.0, seed=2):
        alignment.add(exchange)
    assert KEPT_EXCHANGES // 2 < len(alignment) <= KEPT_EXCHANGES


def warming_board(seed: int):
    """Exchanges of a resonator that warms up, over USB frames or an FTDI's latency timer, some of them held up.

    Returns the fit, and instants of the last ten minutes with the ticks that they have.
    """
    rng = np.random.default_rng([seed, 4])
    rate, span_s = 1 + rng.uniform(-2e-3, 2e-3), 10 ** rng.uniform(0.5, 3.3)
    warm, tau_s = rng.uniform(0, 10) * 10e-6, rng.uniform(60, 900)
    held_up_s = rng.uniform(0, 3e-4)

    def tick(t_s):
        t = np.asarray(t_s)
        return (1e6 * (rate * t + warm * (t - tau_s * (1 - np.exp(-t / tau_s))))).astype(np.int64)

    alignment, t_s = Alignment(), 0.3
    while t_s < span_s:
        late_s = rng.exponential(0.05, 2) * (rng.random(2) < 0.05)
        received_s = t_s + rng.uniform(1e-4, 1.1e-3) + late_s[0]
        answered_s = received_s + 4e-5
        ready_s = answered_s + held_up_s + rng.uniform(2e-5, 2e-4) + late_s[1]
        back_s = ready_s + rng.uniform(1e-4, 16e-3) if seed % 2 else np.ceil(ready_s / 1e-3) * 1e-3
        alignment.add(Exchange(1000 + t_s, int(tick(received_s)), int(tick(answered_s)), 1000 + float(back_s)))
        t_s += 0.5 if t_s > 1 else 0.03
    at_s = np.linspace(max(0.0, span_s - 600), span_s, 100)
    assert alignment.fit is not None
    return alignment, 1000 + at_s, tick(at_s), 1 / (rate + warm * (1 - np.exp(-span_s / tau_s)))


@pytest.mark.parametrize("seed", range(60))
def test_every_instant_of_ten_minutes_is_mapped_within_the_stated_limit(seed):
    alignment, at_s, ticks, rate = warming_board(seed)
    fit = alignment.fit
    assert np.abs(fit.host_s(ticks) - at_s).max() <= fit.limit_s
    assert fit.limit_s < (6e-3 if seed % 2 else 2.5e-3)
    assert abs(fit.rate - rate) <= 5 * fit.rate_error
    assert len(alignment) <= KEPT_EXCHANGES


def test_a_board_that_warms_up_bends_the_line():
    def fit_of(warm):
        alignment = Alignment()
        for t_s in np.arange(0, 600, 0.5):
            tick = int(1e6 * (t_s + warm * t_s**2 / 2))
            alignment.add(Exchange(50 + float(t_s), tick, tick, 50 + float(t_s) + 2e-4))
        return alignment.fit

    # 10 ppm a minute: a straight line over ten minutes would be wrong by 5 ms.
    fit = fit_of(10e-6 / 60)
    times = np.linspace(0, 600, 61)
    error_s = fit.host_s((1e6 * (times + 10e-6 / 60 * times**2 / 2)).astype(np.int64)) - 50 - times
    assert np.abs(error_s - 1e-4).max() < 2e-4
    # The mean of the last minute.
    assert fit.drift_ppm == pytest.approx(95, abs=2)
    assert fit_of(0.0).drift_ppm == pytest.approx(0, abs=0.5)


@pytest.mark.parametrize("count", [4, 5, 9])
def test_errors_of_a_line_of_few_points_are_those_of_least_squares(count):
    """Where residuals are larger than was thought, errors grow by their chi-square over N - 2, as numpy has it."""
    x = np.linspace(-1000.0, 0.0, count)
    y = 3e-5 * x + np.where(np.arange(count) % 2, 5e-3, -5e-3)
    noise_s = np.full(count, 1e-3)
    line = _Line(x, y, noise_s, np.zeros(0))
    (slope, offset), covariance = np.polyfit(x, y, 1, w=1 / noise_s, cov=True)
    assert (line.slope, line.offset) == (pytest.approx(slope, rel=1e-2), pytest.approx(offset, rel=1e-2))
    assert line.offset_error_s == pytest.approx(float(covariance[1, 1]) ** 0.5, rel=0.02)
    expected = np.hypot(LEAST_RATE_ERROR, float(covariance[0, 0]) ** 0.5)
    assert line.slope_error == pytest.approx(min(PRIOR_DRIFT, expected), rel=0.02)
