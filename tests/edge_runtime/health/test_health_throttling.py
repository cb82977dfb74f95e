"""Who says that the clock is held down, and what that means."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_tree import BoardTree
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.health.throttling import VCGENCMD_EVERY_S, Bits, Throttling, decode, find_sources, read_all, vcgencmd


@pytest.fixture
def tree(tmp_path: Path) -> BoardTree:
    return BoardTree(tmp_path / "machine")


def seen(tree: BoardTree) -> Throttling:
    return read_all(find_sources(tree.root / "sys"), 0.0)


@pytest.fixture
def firmware_program(tmp_path: Path) -> Path:
    """A program that answers as vcgencmd does, with what is in a file, and counts how often it is asked."""
    program = tmp_path / "vcgencmd"
    program.write_text(f'#!/bin/sh\necho x >> {tmp_path}/asked\ncat {tmp_path}/answer\n[ "$1" = get_throttled ]\n')
    program.chmod(0o755)
    return program


@given(st.integers(0, 15), st.integers(0, 15))
def test_both_spellings_of_the_firmwares_number_mean_the_same(now: int, earlier: int) -> None:
    value = now | earlier << 16
    assert decode(f"throttled=0x{value:x}\n") == decode(f"{value:x}\n") == (Bits(now), Bits(earlier))


@pytest.mark.parametrize(
    ("value", "under_voltage", "slowed", "by_heat"),
    [
        (0x0, False, False, False),
        (0x50000, False, False, False),  # it has happened, and is over
        (0x50005, True, True, False),  # a weak supply: waiting mends nothing
        (0x20002, False, True, True),
        (0x60006, False, True, True),
        (0x80008, False, True, False),  # a Pi 3B+ at 60 degrees
    ],
)
def test_what_the_bits_mean(tree: BoardTree, value: int, under_voltage: bool, slowed: bool, by_heat: bool) -> None:
    tree.firmware(value)
    found = seen(tree)
    assert (found.under_voltage, found.slowed, found.slowed_by_heat) == (under_voltage, slowed, by_heat)
    assert found.earlier == Bits(value >> 16)
    assert found.sources == ("kernel",)


@pytest.mark.parametrize("folder", ["soc/soc:firmware", "soc@107c000000/soc@107c000000:firmware", "scb/soc:firmware"])
def test_the_firmwares_file_is_found_on_every_generation(tree: BoardTree, folder: str) -> None:
    tree.firmware(0x4, folder)
    assert seen(tree).now is Bits.THROTTLED


def test_the_voltage_alarm_tells_of_the_supply_alone(tree: BoardTree) -> None:
    tree.write("sys/class/hwmon/hwmon0/name", "cpu_thermal")
    tree.rpi_volt(1)
    found = seen(tree)
    assert (found.now, found.sources, found.slowed) == (Bits.UNDER_VOLTAGE, ("rpi_volt",), False)
    tree.rpi_volt(0)
    assert seen(tree).now == Bits(0)


def test_a_cooling_device_of_the_processor_counts_and_a_fan_does_not(tree: BoardTree) -> None:
    tree.cooling(3, "pwm-fan", 0)
    assert seen(tree).sources == ()
    tree.cooling(2, "cpufreq-cpu0", 1)
    assert seen(tree).slowed_by_heat
    tree.cooling(0, "cpufreq-cpu0", 1)
    assert not seen(tree).slowed
    assert seen(tree).sources == ("cooling",)


@pytest.mark.parametrize(
    ("now_khz", "governor", "driver", "slowed", "known"),
    [
        (1_500_000, "performance", "cpufreq-dt", False, True),
        (600_000, "performance", "cpufreq-dt", True, True),
        (600_000, "ondemand", "cpufreq-dt", False, False),
        (600_000, "performance", "intel_pstate", False, False),
    ],
)
def test_a_low_clock_counts_only_where_it_should_be_high(
    tree: BoardTree, now_khz: int, governor: str, driver: str, slowed: bool, known: bool
) -> None:
    tree.clock(now_khz, 1_500_000, governor, driver)
    found = seen(tree)
    assert (found.slowed, found.sources) == (slowed, ("cpufreq",) if known else ())


def test_a_machine_that_tells_nothing_is_unknown_and_not_well(tree: BoardTree) -> None:
    tree.write("sys/devices/platform/soc/soc:firmware/get_throttled", "nonsense")
    assert seen(tree) == Throttling()


def test_vcgencmd_is_started_once_in_five_seconds_and_only_when_it_is_named(
    tree: BoardTree, firmware_program: Path, tmp_path: Path
) -> None:
    (tmp_path / "answer").write_text("throttled=0x4\n")
    command = (str(firmware_program), "get_throttled")
    assert read_all(find_sources(tree.root / "sys", "kernel", command=command), 0.0).sources == ()
    assert not (tmp_path / "asked").exists()
    sources = find_sources(tree.root / "sys", "vcgencmd", command=command)
    assert read_all(sources, 100.0).slowed_by_heat
    (tmp_path / "answer").write_text("throttled=0x40000\n")
    assert read_all(sources, 100.0 + VCGENCMD_EVERY_S - 0.1).slowed_by_heat
    found = read_all(sources, 100.0 + VCGENCMD_EVERY_S)
    assert (found.now, found.earlier) == (Bits(0), Bits.THROTTLED)
    assert (tmp_path / "asked").read_text() == "x\n" * 2


@pytest.mark.parametrize("answer", ['error=1 error_msg="Command not registered"\n', "", "VCHI initialization failed\n"])
def test_a_firmware_that_does_not_answer_is_unknown(firmware_program: Path, tmp_path: Path, answer: str) -> None:
    (tmp_path / "answer").write_text(answer)
    assert vcgencmd((str(firmware_program), "get_throttled")) is None
    assert vcgencmd((str(firmware_program), "other")) is None
    assert vcgencmd((str(tmp_path / "not-there"), "get_throttled")) is None


def test_none_asks_nobody(tree: BoardTree) -> None:
    tree.firmware(0xF)
    assert find_sources(tree.root / "sys", "none") == []
