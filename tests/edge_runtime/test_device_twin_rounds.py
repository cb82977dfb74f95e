"""Rounds with an Edge TPU twin and a stand-in for the chip: daemons over real gRPC, in threads and as a process."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_tpu_standin import Layer, build_library, with_layer
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from protos.errors import RefusedError
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle

LAYER = Layer.drawn((8, 8, 1), 16)
TRAIN_EXAMPLES = 81
Start = Callable[..., RunningDaemon]


@pytest.fixture
def twinned(bundle_path: Path, tmp_path: Path) -> Bundle:
    return open_bundle(with_layer(bundle_path, tmp_path / "twinned", LAYER, twin=LAYER.twin()))


@pytest.fixture
def plain(bundle_path: Path, tmp_path: Path) -> Bundle:
    return open_bundle(with_layer(bundle_path, tmp_path / "plain", LAYER))


@pytest.fixture
def fleet(twinned: Bundle) -> Iterator[PeerCoordinator]:
    coordinator = PeerCoordinator(twinned)
    yield coordinator
    coordinator.stop()


def library(tmp_path: Path, *defines: str) -> str:
    """A library of this test alone: it counts inferences as long as its process lives."""
    return str(build_library(tmp_path, *defines))


def cached(tmp_path: Path) -> list[Any]:
    """Embeddings on disk that are complete."""
    found = []
    for progress in (tmp_path / "state/embeddings").glob("*/progress.json"):
        if json.loads(progress.read_text())["rows"] == TRAIN_EXAMPLES:
            found.append(np.load(progress.with_name("embeddings.npy")))
    return found


def on_cpu(bundle: Bundle, data: Path) -> Any:
    with np.load(data) as arrays:
        return Backbone(bundle).embed(arrays["x"][~arrays["is_test"]])


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_round_runs_on_the_edge_tpu_and_says_so_to_the_coordinator(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path, data: Path
) -> None:
    fleet.orders.append(order(twinned))
    started(fleet, max_rounds=1, edgetpu_library=library(tmp_path)).end()
    assert fleet.twins_asked == [True]
    assert [join.engine.accelerator for join in fleet.joins] == ["edgetpu"]
    report = fleet.read()
    assert (report.engine.accelerator, report.embedded, report.steps_done) == ("edgetpu", TRAIN_EXAMPLES, 12)
    (embeddings,) = cached(tmp_path)
    np.testing.assert_array_equal(embeddings, on_cpu(twinned, data))


def test_both_engines_of_equal_bits_train_the_same_head(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path
) -> None:
    fleet.orders.extend([order(twinned), order(twinned)])
    started(fleet, max_rounds=1, edgetpu_library=library(tmp_path)).end()
    started(fleet, max_rounds=1, edgetpu="off", state=tmp_path / "other").end()
    first, second = fleet.read(0), fleet.read(1)
    assert (first.engine.accelerator, second.engine.accelerator) == ("edgetpu", "")
    assert first.update == second.update


@pytest.mark.parametrize("fault", ["REFUSES", "CRASHES", "FAIL_AT=3", "WRONG"])
def test_what_does_not_work_at_the_start_leaves_the_round_to_the_cpu(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path, data: Path, fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    fleet.orders.extend([order(twinned, 1), order(twinned, 2)])
    started(fleet, max_rounds=2, edgetpu_library=library(tmp_path, fault)).end()
    assert [fleet.read(index).engine.accelerator for index in (0, 1)] == ["", ""]
    assert fleet.joins[-1].engine.accelerator == ""
    (embeddings,) = cached(tmp_path)
    np.testing.assert_array_equal(embeddings, on_cpu(twinned, data))
    (said,) = warnings_of(caplog)
    assert "the backbone runs on the CPU" in said


def test_other_bits_are_used_and_stay_in_a_cache_of_their_own(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path, data: Path
) -> None:
    fleet.orders.extend([order(twinned, 1), order(twinned, 2)])
    started(fleet, max_rounds=1, edgetpu_library=library(tmp_path, "OFF_BY=1")).end()
    started(fleet, max_rounds=1, edgetpu="off").end()
    assert [fleet.read(index).embedded for index in (0, 1)] == [TRAIN_EXAMPLES, TRAIN_EXAMPLES]
    cpu = on_cpu(twinned, data)
    tables = cached(tmp_path)
    assert len(tables) == 2
    assert sorted(int(np.abs(table.astype(int) - cpu).max()) for table in tables) == [0, 1]


def test_another_version_of_the_library_embeds_anew(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path
) -> None:
    fleet.orders.extend([order(twinned, number) for number in (1, 2, 3)])
    for define in ("RUNTIME=13", "RUNTIME=14", "RUNTIME=13"):
        started(fleet, max_rounds=1, edgetpu_library=library(tmp_path, define)).end()
    assert [fleet.read(index).embedded for index in (0, 1, 2)] == [TRAIN_EXAMPLES, TRAIN_EXAMPLES, 0]


def test_a_device_that_is_unplugged_at_work_is_given_up_and_all_is_embedded_anew(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path, data: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    fleet.orders.extend([order(twinned, number) for number in (1, 2, 3)])
    # Off by one before it fails, so that a row which it left behind in the CPU's cache would show.
    started(fleet, max_rounds=2, edgetpu_library=library(tmp_path, "FAIL_AT=20", "OFF_BY=1")).end()
    first, second = fleet.read(0), fleet.read(1)
    assert (first.engine.accelerator, first.steps_done) == ("", 12)
    assert first.embedded == 16 + TRAIN_EXAMPLES, "two whole blocks of eight in vain, then all"
    assert (second.engine.accelerator, second.embedded) == ("", 0)
    assert [join.engine.accelerator for join in fleet.joins] == ["edgetpu", ""]
    assert len({join.session for join in fleet.joins}) == 1
    (embeddings,) = cached(tmp_path)
    np.testing.assert_array_equal(embeddings, on_cpu(twinned, data))
    (said,) = warnings_of(caplog)
    assert "the Edge TPU is lost" in said
    assert "device is gone" in said
    started(fleet, max_rounds=1, edgetpu="off").end()
    assert fleet.read().embedded == 0, "the cache is that of the CPU"


def test_required_and_lost_at_work_declines_the_order_and_trains_nothing(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path
) -> None:
    fleet.orders.append(order(twinned, 1))
    running = started(fleet, edgetpu="require", edgetpu_library=library(tmp_path, "FAIL_AT=20"))
    fleet.until(lambda: len(fleet.joins) == 2)
    running.stop()
    assert fleet.reports == []
    assert "is required and does not work" in fleet.leaves[0]
    assert cached(tmp_path) == []


def test_required_and_not_there_does_not_start(fleet: PeerCoordinator, started: Start, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="it finds no Edge TPU"):
        started(fleet, edgetpu="require", edgetpu_library=library(tmp_path, "REFUSES")).end()
    assert fleet.joins == []


def test_a_device_without_an_edge_tpu_fetches_no_twin_and_one_that_gets_it_fetches_it_then(
    fleet: PeerCoordinator, started: Start, twinned: Bundle, tmp_path: Path
) -> None:
    fleet.orders.extend([order(twinned, 1), order(twinned, 2), order(twinned, 3)])
    kept = tmp_path / "state/bundles" / twinned.bundle_id.removeprefix("sha256:")
    started(fleet, max_rounds=1, edgetpu="off").end()
    assert fleet.twins_asked == [False]
    assert not (kept / "twin.tflite").exists()
    started(fleet, max_rounds=1, edgetpu_library=library(tmp_path)).end()
    assert fleet.twins_asked == [False, True]
    assert (kept / "twin.tflite").is_file()
    assert fleet.read().engine.accelerator == "edgetpu"
    started(fleet, max_rounds=1, edgetpu="off").end()
    assert fleet.fetches == 2, "a twin that is not needed does no harm"


def test_a_bundle_without_a_twin_runs_on_the_cpu_of_a_device_that_has_an_edge_tpu(
    started: Start, plain: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    coordinator = PeerCoordinator(plain)
    try:
        coordinator.orders.append(order(plain))
        started(coordinator, max_rounds=1, edgetpu_library=library(tmp_path)).end()
    finally:
        coordinator.stop()
    assert [join.engine.accelerator for join in coordinator.joins] == ["edgetpu"]
    assert coordinator.read().engine.accelerator == ""
    assert warnings_of(caplog) == []


@pytest.mark.processes
@pytest.mark.parametrize("fault", [None, "CRASHES"])
def test_a_daemon_as_a_process_says_what_it_runs_on(
    fleet: PeerCoordinator, twinned: Bundle, tmp_path: Path, data: Path, fault: str | None
) -> None:
    fleet.orders.append(order(twinned))
    defines = [fault] if fault else []
    command = [
        sys.executable, "-m", "edge_runtime.cli", "run", "--coordinator", fleet.address, "--device-id", "coral-1",
        "--data", str(data), "--sensor", "estimate:pi4", "--state", str(tmp_path / "state"), "--max-rounds", "1",
        "--bundle", str(twinned.path), "--edgetpu-library", library(tmp_path, *defines), "--edgetpu-device", "usb",
    ]  # fmt: skip
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGEJOULE_")}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (ready,) = [line for line in done.stderr.splitlines() if "ready:" in line]
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert fleet.read().steps_done == 12
    if fault is None:
        assert ", edgetpu)" in ready
        assert warnings == []
        assert fleet.read().engine.accelerator == "edgetpu"
    else:
        assert "edgetpu" not in ready
        assert len(warnings) == 1
        assert "SIGSEGV" in warnings[0]
        assert fleet.read().engine.accelerator == ""
