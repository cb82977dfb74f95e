"""The simulated INA219: its registers and its conversions, without firmware."""

from __future__ import annotations

import numpy as np
import pytest

from firmware_tools.bridge.machine.driver import SensorSpec
from protos.energy.ina219 import CONVERSION_S, Config, Mode
from protos.errors import UsageError

CONFIG, SHUNT, BUS, POWER, CURRENT, CALIBRATION = range(6)
READY, OVERFLOW = 2, 1
MARGIN_S = 1e-6


@pytest.fixture
def bare(start):
    """One sensor, configured: ``bare(load, Config(...), **SensorSpec fields)``."""

    def begin(load: str, config: Config | None = None, **fields):
        machine = start(SensorSpec(load, **fields), hex=None)
        if config is not None:
            machine.poke(CONFIG, config.register())
        return machine

    return begin


def test_power_on_values(bare):
    machine = bare("constant:2.5")
    assert [machine.peek(register) for register in range(6)] == [0x399F, 0, 0, 0, 0, 0]


def test_reset_bit_brings_them_back(bare):
    machine = bare("constant:2.5", Config())
    machine.poke(CALIBRATION, 4097)
    assert machine.peek(CALIBRATION) == 4096, "bit 0 cannot be set"
    machine.poke(CONFIG, 0x8000)
    assert (machine.peek(CONFIG), machine.peek(CALIBRATION)) == (0x399F, 0)


@pytest.mark.parametrize("shunt_adc", [0, 1, 2, 3, 8, 9, 12, 15])
@pytest.mark.parametrize("oscillator", [-0.1, 0.0, 0.07])
def test_ready_comes_when_shunt_and_bus_are_through(bare, shunt_adc, oscillator):
    config = Config(shunt_adc=shunt_adc, bus_adc=1)
    machine = bare("constant:2.5", config, oscillator=oscillator)
    period_s = (CONVERSION_S[shunt_adc] + CONVERSION_S[1]) * (1 + oscillator)
    machine.step(period_s - MARGIN_S)
    assert not machine.peek(BUS) & READY
    machine.step(2 * MARGIN_S)
    assert machine.peek(BUS) & READY


def test_ready_is_cleared_by_reading_power_and_by_a_new_mode_only(bare):
    machine = bare("constant:2.5", Config(shunt_adc=3, bus_adc=3))
    machine.step(0.0011)
    for register in (SHUNT, BUS, CURRENT, CALIBRATION, CONFIG):
        machine.peek(register)
    machine.poke(CALIBRATION, 4096)
    assert machine.peek(BUS) & READY
    machine.peek(POWER)
    assert not machine.peek(BUS) & READY
    machine.step(0.0011)
    assert machine.peek(BUS) & READY
    machine.poke(CONFIG, Config(shunt_adc=3, bus_adc=3).register())
    assert not machine.peek(BUS) & READY
    machine.step(0.0011)
    machine.poke(CONFIG, Config(shunt_adc=3, bus_adc=3, mode=Mode.POWER_DOWN).register())
    assert machine.peek(BUS) & READY, "power-down leaves it"


def test_writing_the_configuration_begins_the_conversion_anew(bare):
    config = Config(shunt_adc=3, bus_adc=3)
    machine = bare("constant:2.5", config)
    machine.step(0.9e-3)
    machine.poke(CONFIG, config.register())
    machine.step(1.0e-3)
    assert not machine.peek(BUS) & READY
    machine.step(0.1e-3)
    assert machine.peek(BUS) & READY


def test_a_shunt_value_is_the_mean_over_its_own_window(bare):
    """Power for the first 200 us of 1064: the shunt window of 532 us sees it, the next one does not."""
    machine = bare("burst:0,5,0,200e-6", Config(shunt_adc=3, bus_adc=3))
    machine.step(532e-6 + MARGIN_S)
    mean_v = 1.0 * 0.02 * 200 / 532
    assert machine.peek(SHUNT) == round(mean_v / 10e-6)
    machine.step(1064e-6)
    assert machine.peek(SHUNT) == 0


def test_what_falls_into_the_bus_window_is_not_seen(bare):
    machine = bare("burst:0,5,540e-6,500e-6", Config(shunt_adc=3, bus_adc=3))
    machine.step(1.1e-3)
    assert machine.peek(BUS) & READY
    assert machine.peek(SHUNT) == 0


@pytest.mark.parametrize(("code", "step"), [(0, 8), (1, 4), (2, 2), (3, 1), (12, 1)])
def test_a_lower_resolution_has_larger_steps(bare, code, step):
    rng = np.random.default_rng(4)
    for power_w in rng.uniform(0.5, 5.0, 3):
        machine = bare(f"constant:{power_w}", Config(shunt_adc=code, bus_adc=code), supply_v=5.003)
        machine.step(0.02)
        exact = power_w / 5.003 * 0.02 / 10e-6
        assert machine.peek(SHUNT) == round(exact / step) * step
        assert machine.peek(BUS) >> 3 == round(5.003 / 4e-3 / step) * step


@pytest.mark.parametrize("pga", [0, 1, 2, 3])
def test_beyond_its_range_a_value_is_clipped_and_nothing_says_so(bare, pga):
    machine = bare("constant:100", Config(pga=pga, shunt_adc=3, bus_adc=3), shunt_ohm=0.1)
    machine.step(2e-3)
    assert machine.peek(SHUNT) == 4000 << pga
    assert not machine.peek(BUS) & OVERFLOW


def test_peaks_are_clipped_within_an_averaged_conversion(bare):
    """Half of the time 0.8 A on 0.1 ohm in the 40 mV range: the mean of clipped conversions, not a clipped mean."""
    machine = bare("square:0,4,0.0212,0.5", Config(pga=0, shunt_adc=13, bus_adc=3), shunt_ohm=0.1)
    machine.step(0.0180)
    assert 2000 <= machine.peek(SHUNT) <= 2600


def test_current_that_flows_back_is_negative(bare):
    machine = bare("constant:-1", Config(shunt_adc=3, bus_adc=3))
    machine.step(2e-3)
    assert machine.peek(SHUNT) - 0x10000 == -400


def test_the_chips_own_multiplication(bare):
    machine = bare("constant:2.5", Config(shunt_adc=3, bus_adc=3))
    machine.poke(CALIBRATION, 20480)
    machine.step(2e-3)
    assert machine.peek(CURRENT) == 1000 * 20480 // 4096
    assert machine.peek(POWER) == 5000 * 1250 // 5000
    machine.poke(CALIBRATION, 0xFFFE)
    machine.set_load("constant:15", at_s=machine.now_s)
    machine.step(3e-3)
    assert machine.peek(BUS) & OVERFLOW


@pytest.mark.parametrize("mode", [Mode.SHUNT_TRIGGERED, Mode.BUS_TRIGGERED, Mode.BOTH_TRIGGERED])
def test_a_trigger_gives_one_conversion(bare, mode):
    config = Config(shunt_adc=3, bus_adc=3, mode=mode)
    machine = bare("constant:2.5", config)
    machine.step(1.2e-3)
    assert machine.peek(BUS) & READY
    assert (machine.peek(SHUNT) > 0, machine.peek(BUS) >> 3 > 0) == (mode != 2, mode != 1)
    machine.peek(POWER)
    machine.set_load("constant:5", at_s=machine.now_s)
    machine.step(0.01)
    assert not machine.peek(BUS) & READY
    machine.poke(CONFIG, config.register())
    machine.step(1.2e-3)
    assert machine.peek(BUS) & READY


def test_shunt_only_never_refreshes_the_bus(bare):
    machine = bare("constant:2.5", Config(shunt_adc=3, mode=Mode.SHUNT_CONTINUOUS))
    machine.step(0.05)
    assert machine.peek(SHUNT) == 1000
    assert machine.peek(BUS) == READY


@pytest.mark.parametrize("mode", [Mode.POWER_DOWN, Mode.ADC_OFF])
def test_off_is_off(bare, mode):
    machine = bare("constant:2.5", Config(mode=mode))
    machine.step(0.1)
    assert [machine.peek(register) for register in (SHUNT, BUS)] == [0, 0]


def test_errors_of_the_part_are_as_told(bare):
    machine = bare("constant:2.5", Config(), offset_v=50e-6, gain=0.02, bus_gain=-0.01)
    machine.step(0.02)
    assert machine.peek(SHUNT) == 1020 + 5
    assert machine.peek(BUS) >> 3 == round(1250 * 0.99)


def test_noise_is_seeded_and_averaged_away(start):
    def values(seed: int, code: int) -> np.ndarray:
        machine = start(SensorSpec("constant:2.5", noise_v=100e-6), hex=None, seed=seed)
        machine.poke(CONFIG, Config(shunt_adc=code, bus_adc=1).register())
        period_s = CONVERSION_S[code] + CONVERSION_S[1]
        taken = []
        for _ in range(200):
            machine.step(period_s)
            taken.append(machine.peek(SHUNT))
        return np.array(taken)

    single = values(1, 3)
    assert (single == values(1, 3)).all()
    assert (single != values(2, 3)).any()
    assert 8 < single.std() < 12
    assert values(1, 12).std() < 4


def test_sensors_are_independent(start):
    machine = start(SensorSpec("constant:1"), SensorSpec("constant:2", 0x41, shunt_ohm=0.1, supply_v=3.3), hex=None)
    machine.step(0.01)
    assert machine.peek(SHUNT) == 400
    assert machine.peek(SHUNT, sensor=1) == round(2 / 3.3 * 0.1 / 10e-6)
    with pytest.raises(UsageError):
        machine.peek(SHUNT, sensor=2)


def test_impossible_sensors_are_refused(start):
    for fields in ({"address": 0x50}, {"shunt_ohm": 0}, {"supply_v": -1}, {"noise_v": -1}, {"oscillator": 0.9}):
        with pytest.raises(UsageError):
            SensorSpec(**fields)
    with pytest.raises(UsageError, match="each with its address"):
        start(SensorSpec(), SensorSpec(), hex=None)
