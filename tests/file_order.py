"""Files of tests that take longest, a quarter of a minute and more: they begin first, so that no worker is left with
one when the others have ended.

The times are those of `--durations` on two cores, without other work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LONGEST_FIRST = (
    "firmware_tools/convert/test_convert_any_model.py",
    "coordinator/simulation/test_simulation.py",
    "firmware_tools/convert/test_convert_refusals.py",
    "firmware_tools/convert/test_beyond_the_head.py",
    "edge_runtime/test_field_faults.py",
    "firmware_tools/convert/test_convert_models.py",
    "firmware_tools/convert/test_head_objectives.py",
    "edge_runtime/service/test_service_upgrade.py",
    "edge_runtime/test_field_soak.py",
    "test_first_hour.py",
    "firmware_tools/prune/test_prune_command.py",
    "coordinator/lab/test_demo_run.py",
    "coordinator/lab/test_demo_tasks.py",
    "coordinator/test_plugin_package.py",
    "coordinator/test_statistics_rounds.py",
    "coordinator/trust/test_fleet_with_certificates.py",
    "golden/test_versions_together.py",
    "network/test_over_a_network.py",
    "firmware_tools/bridge/test_flash_machine.py",
    "edge_runtime/test_device_idles.py",
    "coordinator/simulated/test_simulated_runs.py",
    "edge_runtime/test_memory_benchmark.py",
    "firmware_tools/convert/test_integers_trained_on.py",
    "edge_runtime/service/test_offered_upgrades.py",
    "test_played_pages.py",
    "firmware_tools/convert/test_quantisation_quality.py",
    "coordinator/trust/test_upgrades_to_boards.py",
    "coordinator/test_tree_of_sites.py",
    "test_benchmark_generators.py",
    "firmware_tools/convert/test_further_models.py",
    "edge_runtime/test_diffusion_rounds.py",
    "coordinator/test_database_that_stalls.py",
    "coordinator/test_killed_anywhere.py",
    "coordinator/test_serve_process.py",
    "coordinator/test_downlink_rounds.py",
    "firmware_tools/convert/test_convert_tflite.py",
    "firmware_tools/convert/test_convert_reference.py",
    "firmware_tools/convert/test_no_scalar_inputs.py",
    "hw_tests/test_hw_suite_bites.py",
    "edge_runtime/test_field_benchmark.py",
    "edge_runtime/test_device_command.py",
    "firmware_tools/prune/test_surgery.py",
    "firmware_tools/bridge/test_bridge_verbs.py",
)


def longest_first(items: list[pytest.Item]) -> None:
    """Put the tests of these files before all others, which stay as they are."""
    turn = {HERE / name: at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: turn.get(item.path, len(turn)))


def missing(names: Sequence[str] = LONGEST_FIRST) -> list[str]:
    """Names that are no files any more."""
    return [name for name in names if not (HERE / name).is_file()]
