"""A calibration's arithmetic: the line is found, and what it says of its own uncertainty is true."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_tools.bridge.calibrate.amounts import parse_amount, parse_meter_error
from firmware_tools.bridge.calibrate.calibration import (
    MeterError,
    Point,
    Reading,
    check_no_current,
    check_steady,
    fit_line,
    read_shunt,
)
from firmware_tools.bridge.calibrate.job import read_reference
from protos.energy.ina219 import Config
from protos.errors import CheckFailed, DataError, UsageError

SHUNT_OHM = 0.02
FINE = Config(bus_adc=1, shunt_adc=3)


def sampled(shunt_v: float, noise_v: float, rng: np.random.Generator, count: int = 3000) -> Reading:
    raw = np.rint((shunt_v + rng.normal(0, noise_v, count)) / 10e-6).astype(np.int16)
    return read_shunt(np.full(count, 680), raw, np.full(count, 1250 << 3, np.uint16), FINE)


@given(
    offset_v=st.floats(-1e-4, 1e-4),
    gain=st.floats(-0.04, 0.04),
    currents=st.lists(st.floats(0.5, 4.0), min_size=1, max_size=4),
    before=st.floats(-0.02, 0.02),
)
def test_points_on_a_line_give_that_line(offset_v, gain, currents, before):
    points = [Point(i, 1e-4 * (i > 0), offset_v + i * SHUNT_OHM / (1 + gain), 1e-7) for i in [0.0, *currents]]
    line = fit_line(points, SHUNT_OHM, before, 0.001)
    assert line.gain == pytest.approx(gain, abs=1e-8)
    assert line.offset_v == pytest.approx(offset_v, abs=1e-10)
    assert line.gain_standard >= (1 + gain) * 0.001 / math.sqrt(3)
    assert line.residual_sigmas < 0.01


def test_a_zero_alone_leaves_the_gain():
    line = fit_line([Point(0.0, 0.0, -3e-5, 1e-7)], SHUNT_OHM, 0.0123, 0.001)
    assert (line.offset_v, line.gain, line.gain_standard) == (pytest.approx(-3e-5), 0.0123, None)


def test_stated_uncertainties_hold_for_many_calibrations():
    rng = np.random.default_rng(5)
    offset_v, gain, inside = 2e-5, 0.011, []
    for _ in range(400):
        points = []
        for true_a, standard_a in [(0.0, 0.0), (0.8, 1e-3), (3.0, 1e-3)]:
            reading = sampled(offset_v + true_a * SHUNT_OHM / (1 + gain), 5e-6, rng)
            points.append(
                Point(true_a + rng.normal(0, standard_a), standard_a, reading.shunt_v, reading.shunt_standard_v)
            )
        line = fit_line(points, SHUNT_OHM, 0.0, 0.0)
        assert line.gain_standard is not None
        inside.append(
            (
                abs(line.offset_v - offset_v) <= 2 * line.offset_standard_v,
                abs(line.gain - gain) <= 2 * line.gain_standard,
            )
        )
    shares = np.mean(inside, axis=0)
    assert np.all(shares > 0.91)
    assert np.all(shares < 0.985)


@pytest.mark.parametrize("noise_v", [0.0, 1e-6, 3e-6, 5e-6, 2e-5])
def test_the_uncertainty_of_a_reading_covers_register_steps(noise_v):
    rng = np.random.default_rng(11)
    errors, claimed = [], []
    for shunt_v in rng.uniform(-5e-5, 5e-5, 150):
        reading = sampled(shunt_v, noise_v, rng)
        errors.append(reading.shunt_v - shunt_v)
        claimed.append(reading.shunt_standard_v)
    seen = math.sqrt(np.mean(np.square(errors)))
    assert seen < 1.25 * math.sqrt(np.mean(np.square(claimed)))
    if noise_v in (0.0, 5e-6, 2e-5):  # and does not exaggerate where the noise is known
        assert seen > 0.75 * math.sqrt(np.mean(np.square(claimed)))


def test_slow_wandering_is_not_taken_for_independent_noise():
    rng = np.random.default_rng(3)
    walk = np.cumsum(rng.normal(0, 1e-6, 3000)) + rng.normal(0, 5e-6, 3000)
    raw = np.rint(walk / 10e-6).astype(np.int16)
    reading = read_shunt(np.full(3000, 680), raw, np.full(3000, 1250 << 3, np.uint16), FINE)
    assert reading.shunt_standard_v > 5 * reading.spread_v / math.sqrt(3000)


def test_long_samples_weigh_more():
    dt_us = np.where(np.arange(400) % 2, 3000, 1000)
    raw = np.where(np.arange(400) % 2, 200, 100).astype(np.int16)
    reading = read_shunt(dt_us, raw, np.full(400, 1250 << 3, np.uint16), FINE)
    assert reading.shunt_v == pytest.approx(1.75e-3)
    assert reading.bus_v == pytest.approx(5.0)


def test_what_cannot_be_calibrated_with_is_refused():
    rng = np.random.default_rng(1)
    with pytest.raises(DataError, match="too few"):
        sampled(0.0, 5e-6, rng, count=100)
    check_no_current(sampled(9e-5, 5e-6, rng), 1, SHUNT_OHM)
    with pytest.raises(CheckFailed, match=r"current flows: 10\.0 mA"):
        check_no_current(sampled(2e-4, 5e-6, rng), 1, SHUNT_OHM)
    with pytest.raises(CheckFailed, match="current flows"):
        check_no_current(sampled(0.0, 9e-5, rng), 1, SHUNT_OHM)  # pulses whose mean is nothing
    check_steady(sampled(2e-2, 5e-6, rng))
    with pytest.raises(CheckFailed, match="too little"):
        check_steady(sampled(5e-4, 5e-6, rng))
    with pytest.raises(CheckFailed, match="not steady"):
        check_steady(sampled(2e-2, 2e-3, rng))
    with pytest.raises(CheckFailed, match="end of the range"):
        check_steady(sampled(8.1e-2, 5e-6, rng))


def test_points_that_fit_no_line_or_another_shunt_are_refused():
    off = [Point(i, 1e-4, v, 1e-6) for i, v in [(1.0, 0.02), (2.0, 0.0405), (3.0, 0.06)]]
    with pytest.raises(CheckFailed, match="not on a line"):
        fit_line(off, SHUNT_OHM, 0.0, 0.001)
    with pytest.raises(CheckFailed, match="differ by 80"):
        fit_line([Point(0.0, 0.0, 0.0, 1e-6), Point(1.0, 1e-4, 0.02, 1e-6)], 0.1, 0.0, 0.001)
    with pytest.raises(CheckFailed, match="one current"):
        fit_line([Point(1.0, 1e-4, 0.02, 1e-6)], SHUNT_OHM, 0.0, 0.001)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("1.234A", 1.234), ("250 mA", 0.25), ("-2", -2.0), (".5a", 0.5), ("1e-3A", 1e-3), ("700uA", 7e-4)],
)
def test_amounts_are_read(text, amount):
    assert parse_amount(text, "A", where="x") == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "A", "1.2.3A", "5W", "nan", "1,5A", "two"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(UsageError):
        parse_amount(text, "A", where="x")


def test_meter_errors_are_read():
    assert parse_meter_error("0.1%+2mA", "A", where="x") == MeterError(0.001, 0.002)
    assert parse_meter_error("3mA", "A", where="x") == MeterError(0.0, 0.003)
    for text in ("0%", "-1%", "good"):
        with pytest.raises(UsageError):
            parse_meter_error(text, "A", where="x")


def test_a_reference_log_counts_within_its_time(tmp_path):
    log = tmp_path / "meter.csv"
    log.write_text("unix_s,volts,current_a\n" + "".join(f"{t},5.0,{1 + (t >= 110) + t % 2 / 10}\n" for t in range(130)))
    found = read_reference(log, 110, 119)
    assert (found.rows, found.unit, found.mean) == (10, "A", pytest.approx(2.05))
    assert found.standard == pytest.approx(np.std([2.0, 2.1] * 5, ddof=1) / math.sqrt(10))
    with pytest.raises(DataError, match="2 rows"):
        read_reference(log, 5, 6)
    log.write_text("unix_s,power_w\n1,2\n2,3\n3,oops\n")
    with pytest.raises(DataError, match=r"meter\.csv:4"):
        read_reference(log, 0, 9)
    log.write_text("time,watts\n1,2\n")
    with pytest.raises(DataError, match="no columns"):
        read_reference(log, 0, 9)
    with pytest.raises(DataError, match="cannot be read"):
        read_reference(tmp_path / "none.csv", 0, 9)
