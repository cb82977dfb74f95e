"""Which temperature counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_tree import BoardTree

from edge_runtime.health.thermal import EDGE_TPU_LIMIT_C, EdgeTpuHeat, Thermometer


@pytest.fixture
def tree(tmp_path: Path) -> BoardTree:
    return BoardTree(tmp_path)


def cpu_c(tree: BoardTree) -> float | None:
    return Thermometer(tree.root / "sys").read_c()


@pytest.mark.parametrize("name", ["cpu-thermal", "bcm2835_thermal", "cpu_thermal", "soc-thermal", "x86_pkg_temp"])
def test_the_processor_is_found_among_others(tree: BoardTree, name: str) -> None:
    tree.zone(91.0, "gpu-thermal", 0)
    tree.zone(55.5, name, 1)
    tree.zone(99.0, "iwlwifi_1", 2)
    assert cpu_c(tree) == 55.5


def test_of_big_and_little_cores_the_hottest_counts(tree: BoardTree) -> None:
    tree.zone(61.0, "cpu-big-thermal", 0)
    tree.zone(48.25, "cpu-little-thermal", 1)
    assert cpu_c(tree) == 61.0


def test_a_zone_of_an_unknown_name_counts_when_no_processor_is_named(tree: BoardTree) -> None:
    tree.zone(44.0, "acpitz", 0)
    tree.zone(70.0, "nvme-thermal", 1)
    assert cpu_c(tree) == 44.0


@pytest.mark.parametrize("text", ["", "hot", "-274000", "999000"])
def test_what_is_no_temperature_is_unknown(tree: BoardTree, text: str) -> None:
    tree.zone(40.0)
    thermometer = Thermometer(tree.root / "sys")
    tree.write("sys/class/thermal/thermal_zone0/temp", text)
    assert thermometer.read_c() is None
    tree.zone(41.0)
    assert thermometer.read_c() == 41.0


def test_a_machine_without_zones_or_edge_tpu_has_no_temperature(tree: BoardTree) -> None:
    assert cpu_c(tree) is None
    assert EdgeTpuHeat(tree.root / "sys").read_c() is None


def test_an_edge_tpu_on_pcie_has_its_own_temperature_and_limit(tree: BoardTree) -> None:
    tree.apex(67.8)
    assert (EdgeTpuHeat(tree.root / "sys").read_c(), EdgeTpuHeat(tree.root / "sys").limit_c) == (67.8, EDGE_TPU_LIMIT_C)
    tree.apex(67.8, trip_c=70.0)
    assert EdgeTpuHeat(tree.root / "sys").limit_c == 70.0
