"""The INA219's figures, as they stand in the data sheet SBOS448 (Texas Instruments), typed from its tables here."""

from __future__ import annotations

import numpy as np
import pytest

from protos.energy import ina219
from protos.energy.ina219 import Calibration, Config

# Table "ADC Settings (RADC4, RADC3, RADC2, RADC1)": code, bits or samples averaged, conversion time in us.
ADC = [
    (0b0000, 9, 1, 84), (0b0001, 10, 1, 148), (0b0010, 11, 1, 276), (0b0011, 12, 1, 532), (0b1000, 12, 1, 532),
    (0b1001, 12, 2, 1060), (0b1010, 12, 4, 2130), (0b1011, 12, 8, 4260), (0b1100, 12, 16, 8510),
    (0b1101, 12, 32, 17020), (0b1110, 12, 64, 34050), (0b1111, 12, 128, 68100),
]  # fmt: skip
# "Shunt Voltage Register": full scale in mV by PGA code; "Electrical Characteristics", INA219A: offset in uV, largest
# and typical.
PGA = [(0, 40, 100, 10), (1, 80, 125, 20), (2, 160, 150, 30), (3, 320, 200, 40)]


@pytest.mark.parametrize(("code", "bits", "samples", "micros"), ADC)
def test_a_sample_averages_as_many_conversions_and_takes_as_long_as_the_table_says(
    code: int, bits: int, samples: int, micros: int
) -> None:
    config = Config(shunt_adc=code, bus_adc=3)
    assert config.averages == samples
    assert config.shunt_s == pytest.approx(micros * 1e-6, rel=1e-9)
    assert config.period_s == pytest.approx((micros + 532) * 1e-6, rel=1e-9)
    # A step of 10 uV and 4 mV at 12 bits; each bit less doubles it.
    assert config.shunt_step_v == pytest.approx(10e-6 * 2 ** (12 - bits), rel=1e-9)
    assert Config(bus_adc=code).bus_step_v == pytest.approx(4e-3 * 2 ** (12 - bits), rel=1e-9)


@pytest.mark.parametrize(("code", "bits", "samples", "micros"), ADC)
def test_averaging_quiets_the_noise_by_the_root_of_the_samples(code: int, bits: int, samples: int, micros: int) -> None:
    model = Calibration(1, 20_000).errors(Config(shunt_adc=code), 5.0)
    alone = Calibration(1, 20_000).errors(Config(shunt_adc=3), 5.0)
    assert alone.noise_a == pytest.approx(5e-6 / 0.02)
    assert model.noise_a == pytest.approx(alone.noise_a / samples**0.5)


@pytest.mark.parametrize(("code", "full_mv", "largest_uv", "typical_uv"), PGA)
def test_ranges_and_offsets_are_those_of_the_table(code: int, full_mv: int, largest_uv: int, typical_uv: int) -> None:
    full = round(full_mv * 1e-3 / 10e-6)
    assert ina219.CLIP_RAW[code] == full
    raw = np.array([full - 1, full, -full + 1, -full], np.int16)
    bus = np.full(4, 1250 << 3, np.uint16)  # 5 V
    assert (ina219.sample_flags(raw, bus, Config(pga=code)) != 0).tolist() == [False, True, False, True]
    model = Calibration(0, 100_000).errors(Config(pga=code), 5.0)
    assert model.offset_a == pytest.approx(largest_uv * 1e-6 / 0.1)
    assert model.offset_standard_a == pytest.approx(typical_uv * 1e-6 / 0.1)


def test_current_and_bus_errors_are_those_of_grade_a() -> None:
    # "Current measurement error" and "bus voltage measurement error": 0.2 % typical, 0.5 % at most, at 25 degrees C.
    model = Calibration(0, 100_000).errors(Config(), 5.0)
    assert (model.gain_standard, model.gain_relative) == (0.002, 0.005)
    assert (model.bus_standard, model.bus_relative) == (0.002, 0.005)


def test_one_step_of_each_register_is_what_the_sheet_says() -> None:
    unit = Calibration(0, 1_000_000)
    # 100 steps of 10 uV over 1 ohm are 1 mA; 1000 steps of 4 mV, from bit 3 on, are 4 V.
    power = ina219.watts(np.array([100], np.int16), np.array([1000 << 3 | 0b111], np.uint16), unit)
    assert power.tolist() == pytest.approx([4e-3])


@pytest.mark.parametrize(
    ("code", "millivolts"), [(0, 32.0), (1, (4.0**2 + 6.0**2) ** 0.5), (2, 20.0**0.5), (3, 20.0**0.5)]
)
def test_a_mixture_of_resolutions_errs_by_each_as_often_as_it_is_taken(code: int, millivolts: float) -> None:
    """A step is 4 mV of 12 bits and twice as much for each bit less: 16 and 8 mV for a quarter and three quarters of
    the samples, or 8 and 4 mV for half of them each."""
    assert Config(bus_adc=code).dithered_bus_step_v == pytest.approx(millivolts / 1000)
