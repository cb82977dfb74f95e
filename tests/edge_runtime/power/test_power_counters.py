"""RAPL and the Pi 5's PMIC: what the counter says after a wrap, who may read it, which rails count."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from fake_machine import rapl_tree, write_files

from edge_runtime.power.host.pmic import PmicSource, rails_power_w
from edge_runtime.power.host.rapl import RaplSource
from edge_runtime.power.sensor_factory import make_sensor, open_sensor
from protos.errors import SensorError, UsageError

REAL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


def opened(root, domain=""):
    source = RaplSource(domain, 20.0, root)
    source.open(0.0)
    return source


def count(zone, uj):
    with (zone / "energy_uj").open("r+") as file:
        file.write(f"{uj:015d}\n")


def test_joules_of_the_counter_go_on_past_its_wrap(tmp_path):
    zone = rapl_tree(tmp_path)
    source = opened(tmp_path)
    range_uj = 262143328850
    powers = []
    for step, uj in enumerate([range_uj - 3_000_000, range_uj - 1_000_000, 1_000_000, 3_000_000]):
        count(zone, uj)
        powers += source.take(step * 1.0).power_w.tolist()
    assert powers == pytest.approx([2.0, 2.0, 2.0])


def test_a_long_pause_loses_no_joule_and_an_impossible_jump_counts_for_nothing(tmp_path):
    zone = rapl_tree(tmp_path)
    source = opened(tmp_path)
    assert not len(source.take(0.0))
    count(zone, 500_000_000)
    sample = source.take(100.0)
    assert (sample.start_s[0], sample.stop_s[0], sample.power_w[0]) == pytest.approx((0.0, 100.0, 5.0))
    count(zone, 0)  # the driver was loaded anew: not a wrap
    assert not len(source.take(101.0))
    count(zone, 7_000_000)
    assert source.take(102.0).power_w == pytest.approx([7.0])


def test_looks_that_follow_at_once_wait_for_the_counter_to_move(tmp_path):
    rapl_tree(tmp_path)
    source = opened(tmp_path)
    source.take(1.0)
    assert not len(source.take(1.001))
    assert len(source.take(1.05))


def test_one_of_several_packages_must_be_named(tmp_path):
    rapl_tree(tmp_path, packages=2)
    with pytest.raises(SensorError, match=r"several domains fit; name one of: .*intel-rapl:1 \(package-1\)"):
        opened(tmp_path)
    assert opened(tmp_path, "package-1").identity.sensor == "rapl:package-1"
    assert opened(tmp_path, "intel-rapl:1:0").identity.sensor == "rapl:dram"
    with pytest.raises(SensorError, match="several"):
        opened(tmp_path, "dram")


def test_a_counter_that_only_root_may_read_names_the_way_out(tmp_path, monkeypatch):
    rapl_tree(tmp_path)

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SensorError, match=r"only root may read the counter; run as root, or: sudo chmod a\+r"):
        opened(tmp_path)


def test_a_machine_without_the_counter_is_told(tmp_path):
    with pytest.raises(SensorError, match="has no RAPL counter"):
        opened(tmp_path)


@pytest.mark.skipif(not os.access(REAL, os.R_OK), reason=f"{REAL} is not there, or not ours to read")
def test_the_counter_of_this_machine_gives_a_power_that_a_processor_can_draw():
    sensor = open_sensor("rapl")
    try:
        assert 0.05 < float(np.median(sensor.trace().power_w)) < 1000
        assert sensor.identity.quality == "partial"
    finally:
        sensor.close()


def test_rails_with_volts_and_amperes_are_summed_and_others_are_left_out():
    text = """
   3V7_WL_SW_A current(0)=0.10000000A
    DDR_VDD2_A current(4)=0.20000000A
   3V7_WL_SW_V volt(8)=3.70000000V
    DDR_VDD2_V volt(12)=1.10000000V
      EXT5V_V volt(24)=5.15000000V
       BATT_V volt(25)=0.00000000V
"""
    assert rails_power_w(text) == pytest.approx(0.37 + 0.22)
    assert rails_power_w("VDD_CORE_V=0.8750V\nVDD_CORE_A=2.0A\n") == pytest.approx(1.75)


@pytest.mark.parametrize("text", ["", "Command not registered", "EXT5V_V volt(24)=5.1V"])
def test_text_without_a_rail_is_no_power(text):
    with pytest.raises(ValueError, match="no rail"):
        rails_power_w(text)


def test_a_program_that_fails_is_told_with_its_words(tmp_path):
    program = tmp_path / "vcgencmd"
    program.write_text("#!/bin/sh\necho 'error=1 error_msg=\"Command not registered\"'\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(SensorError, match=r"exit code 3: .*Command not registered.*only a Raspberry Pi 5"):
        PmicSource((str(program), "pmic_read_adc"), 4.0).open(0.0)


def test_pmic_has_no_parts():
    with pytest.raises(UsageError, match="no part"):
        make_sensor("pmic:core")


def test_a_wrapping_counter_without_a_stated_range_is_refused(tmp_path):
    write_files(rapl_tree(tmp_path), max_energy_range_uj="")
    with pytest.raises(SensorError, match="how far its counter counts"):
        opened(tmp_path)
