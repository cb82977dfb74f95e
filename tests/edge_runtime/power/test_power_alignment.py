"""Clock alignment on virtual time: drift, asymmetry, outliers."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edge_runtime.power.alignment import KEPT_EXCHANGES, Alignment, Exchange


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
    assert len(alignment._exchanges) == KEPT_EXCHANGES
