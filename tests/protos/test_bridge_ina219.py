"""INA219 register arithmetic against the data sheet."""

from __future__ import annotations

import numpy as np
import pytest

from protos.energy.ina219 import PROFILES, Calibration, Config, Mode, sample_flags, watts
from protos.energy.trace import SampleFlag


def test_the_power_on_value_reads_as_the_data_sheet_says():
    config = Config.of(0x399F)
    assert config == Config(bus_range_32v=True, pga=3, bus_adc=3, shunt_adc=3, mode=Mode.BOTH_CONTINUOUS)
    assert config.register() == 0x399F


@pytest.mark.parametrize(("code", "same"), [(4, 0), (5, 1), (6, 2), (7, 3), (8, 3)])
def test_equal_adc_codes_are_made_one(code, same):
    assert Config.of(code << 3 | 7).shunt_adc == same


@pytest.mark.parametrize(
    ("name", "rate_hz", "duty", "register"),
    [("energy", 110.6, 0.941, 0x09E7), ("balanced", 208.7, 0.889, 0x09DF), ("transient", 1470.6, 0.782, 0x089F)],
)
def test_profiles_have_the_rate_and_duty_they_promise(name, rate_hz, duty, register):
    profile = PROFILES[name]
    assert profile.rate_hz == pytest.approx(rate_hz, abs=0.1)
    assert profile.config.duty == pytest.approx(duty, abs=0.001)
    assert profile.config.register() == register
    assert Config.of(register) == profile.config


def test_power_comes_from_raw_registers_offset_and_gain():
    # 20 mV over 0.02 ohm is 1 A; 5 V; the offset of 100 uV is 5 mA; gain + 1 %.
    shunt, bus = np.array([2010], np.int16), np.array([1250 << 3 | 2], np.uint16)
    assert watts(shunt, bus, Calibration(1, 20_000, 100_000, 10_000))[0] == pytest.approx(5.0 * 1.01)


def test_negative_current_stays_negative():
    power = watts(np.array([-1000], np.int16), np.array([1250 << 3], np.uint16), Calibration(shunt_uohm=100_000))
    assert power[0] == pytest.approx(-0.5)


@pytest.mark.parametrize(("pga", "limit"), [(0, 4000), (1, 8000), (2, 16000), (3, 32000)])
def test_a_full_scale_value_is_clipped_though_the_chip_reports_no_overflow(pga, limit):
    shunt = np.array([limit - 1, limit, -limit], np.int16)
    flags = sample_flags(shunt, np.full(3, 1250 << 3, np.uint16), Config(pga=pga))
    assert flags.tolist() == [0, SampleFlag.CLIPPED, SampleFlag.CLIPPED]


def test_the_overflow_bit_is_kept():
    bus = np.array([1250 << 3 | 1], np.uint16)
    assert sample_flags(np.zeros(1, np.int16), bus, Config()).tolist() == [SampleFlag.OVERFLOW]


def test_lower_resolution_has_coarser_steps():
    config = Config(bus_adc=1, shunt_adc=0)
    assert config.bus_step_v == pytest.approx(16e-3)
    assert config.shunt_step_v == pytest.approx(80e-6)


def test_an_uncalibrated_chain_claims_less():
    config = PROFILES["balanced"].config
    bare, good = Calibration(0, 20_000).errors(config, 5.0), Calibration(1, 20_000).errors(config, 5.0)
    assert bare.shunt_relative > 5 * good.shunt_relative
    assert bare.gain_relative > 5 * good.gain_relative
    assert bare.offset_a == pytest.approx(125e-6 / 0.02)
    assert good.offset_a == pytest.approx(5e-6 / 0.02)
    assert good.shunt_s == config.shunt_s
    # A calibration of the current leaves the voltage as it was.
    assert bare.bus_standard == good.bus_standard == 0.002


def test_the_reference_of_a_calibration_is_an_input():
    config = PROFILES["energy"].config
    assert Calibration(0).errors(config, 5.0).reference_relative == 0.0
    assert Calibration(1).errors(config, 5.0).reference_relative == 0.001
    assert Calibration(1).errors(config, 5.0, reference_relative=0.02).reference_relative == 0.02


def test_mixed_resolutions_of_the_bus_make_a_smaller_step_than_ten_bits():
    assert Config(bus_adc=1).dithered_bus_step_v == pytest.approx(4e-3 * (1 + 2.25) ** 0.5)
    assert Config(bus_adc=2).dithered_bus_step_v == pytest.approx(4e-3 * 1.25**0.5)
    assert Config(bus_adc=3).dithered_bus_step_v == pytest.approx(4e-3 * 1.25**0.5)
    assert Config(bus_adc=0).dithered_bus_step_v == Config(bus_adc=0).bus_step_v
    model = Calibration(1).errors(Config(bus_adc=1), 5.0, dithered=True)
    assert model.voltage_step_v == Config(bus_adc=1).dithered_bus_step_v
    assert model.dithered


def test_a_step_of_the_bus_register_is_4_mv_and_its_correction_in_millionths():
    # SBOS448, bus voltage register: LSB = 4 mV.
    assert Calibration(0).volts_per_step == 4e-3
    assert Calibration(0, bus_ppm=2500).volts_per_step == pytest.approx(4e-3 * 1.0025, rel=1e-12)
    assert Calibration(0, bus_ppm=-2500).volts_per_step == pytest.approx(4e-3 * 0.9975, rel=1e-12)
