"""A tree of sites and a flat fleet: real coordinators and daemons, the same bits; a site that is cut off catches up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from free_ports import free_port

from coordinator.lab.shards import divide
from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from protos.datafiles import dataset
from protos.datafiles.dataset import Dataset
from protos.energy.trace import Phase
from protos.errors import EdgejouleError, RefusedError
from protos.model.bundle import open_bundle
from protos.update.trees import Tree

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
DEVICES = 4
PLAN = """[run]
bundle = {bundle}
name = "tree"
rounds = 1
[round]
devices = {devices}
deadline_s = 120
[train]
method = {method}
rate = 0.1
[evaluate]
data = {held}
"""


class Programs:
    """Coordinators and daemons of a test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        log = (self._folder / f"log-{len(self._running)}").open("wb")
        with log:
            made = subprocess.Popen(
                [sys.executable, "-m", *map(str, words)], stdout=log, stderr=subprocess.STDOUT, env=environ, cwd=ROOT
            )
        self._running.append(made)
        return made

    def coordinator(self, name: str, *options: str, port: int = 0) -> tuple[subprocess.Popen[bytes], str]:
        """Started, or started again in the same state; its address."""
        ready = self._folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        words = ["serve", "--state", str(self._folder / name), "--listen", f"127.0.0.1:{port}"]
        made = self.start("coordinator.cli", *words, "--ready-file", str(ready), *options)
        _until(lambda: ready.exists() or made.poll() is not None, f"coordinator {name}")
        assert made.poll() is None, self.said()
        return made, ready.read_text().strip()

    def device(self, name: str, data: Path, address: str, home: str) -> None:
        state = self._folder / home / name
        self.start(
            "edge_runtime.cli", "run", "--coordinator", address, "--device-id", name, "--board", "pi4", "--data", data,
            "--state", state, "--sensor", "estimate:pi4", "--wait-for-coordinator", "120",
        )  # fmt: skip

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self._folder.glob("log-*")))

    def end(self) -> None:
        for process in reversed(self._running):
            process.terminate()
        for process in reversed(self._running):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    made = Programs(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def shards(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    """Data of each device, and held-out data."""
    folder = tmp_path_factory.mktemp("shards")
    made = divide(
        str(digits / "digits.npz"), open_bundle(digits / "digits").manifest, devices=DEVICES,
        scheme="dirichlet:1.0", seed=2, renames={},
    )  # fmt: skip
    paths = []
    for index, rows in enumerate(made.parts):
        train = made.train
        part = Dataset(
            train.x[rows], train.y[rows], np.zeros(len(rows), np.bool_), None, train.class_names, train.source
        )
        dataset.save(part, folder / f"{index}.npz")
        paths.append(folder / f"{index}.npz")
    dataset.save(made.test, folder / "held.npz")
    return paths, folder / "held.npz"


def _until(found: Callable[[], Any], what: str, timeout_s: float = 120.0) -> Any:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if value := found():
            return value
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come")


def _plan(digits: Path, held: Path, devices: int, method: str = "closed_form") -> str:
    values = {"bundle": str(digits / "digits"), "held": str(held), "method": method}
    return PLAN.format(devices=devices, **{name: json.dumps(value) for name, value in values.items()})


def _run_of(operator: Operator, which: str) -> RunStatus:
    (found,) = operator.status(which)
    return found


def _has(address: str, which: str) -> bool:
    with Operator(address) as operator:
        try:
            return bool(operator.status(which))
        except EdgejouleError:
            return False


def _over(operator: Operator, which: str) -> RunStatus | None:
    try:
        found = _run_of(operator, which)
    except EdgejouleError:
        return None
    return found if found.state not in ("waiting", "running") else None


def _head(state: Path, version: str) -> Tree:
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.reading() as connection:
            return heads.get(connection, version)
    finally:
        db.close()


def test_a_tree_gives_the_bits_of_a_flat_fleet_though_the_one_above_is_cut_off(
    programs: Programs, digits: Path, shards: tuple[list[Path], Path], tmp_path: Path
) -> None:
    parts, held = shards
    # Flat: four devices, one coordinator.
    _, flat = programs.coordinator("flat")
    for index, part in enumerate(parts):
        programs.device(f"device-{index}", part, flat, "flat-devices")
    with Operator(flat) as operator:
        run_id = operator.start_run(_plan(digits, held, DEVICES), tmp_path)
        whole = _until(lambda: _over(operator, run_id), "the flat run")
    assert whole.state == "finished", programs.said()

    # A tree: two sites with two devices each. The coordinator above dies as soon as both have begun what it ordered.
    port = free_port()
    above, address = programs.coordinator("above", port=port)
    sites = []
    for site in range(2):
        options = ["--upstream", address, "--site", f"site-{site}", "--site-devices", "2"]
        _, own = programs.coordinator(f"site-{site}", *options)
        sites.append(own)
    with Operator(address) as operator:
        run_id = operator.start_run(_plan(digits, held, 2), tmp_path)
        for index, part in enumerate(parts):
            programs.device(f"device-{index}", part, sites[index // 2], "tree-devices")
        for own in sites:
            _until(lambda own=own: _has(own, f"for {run_id}"), "the run of a site")
    above.send_signal(signal.SIGKILL)
    above.wait()
    # Sites go on with their own devices meanwhile.
    for own in sites:
        with Operator(own) as operator:
            _until(lambda operator=operator: _over(operator, f"for {run_id}"), "the run of a site")
    programs.coordinator("above", port=port)
    with Operator(address) as operator:
        tree = _until(lambda: _over(operator, run_id), "the run above")
    assert tree.state == "finished", programs.said()

    def last(run: RunStatus, state: Path) -> Tree:
        return _head(state, run.rounds[-1].head_version)

    one, other = last(whole, tmp_path / "flat"), last(tree, tmp_path / "above")
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert tree.rounds[-1].accuracy == whole.rounds[-1].accuracy > whole.rounds[0].accuracy
    devices = tree.rounds[-1].devices
    assert {device.device_id: device.examples for device in devices if device.outcome == "accepted"} == {
        f"site-{site}": sum(len(dataset.load(part).y) for part in parts[2 * site : 2 * site + 2]) for site in range(2)
    }
    for device in devices:
        told = {record.phase: record for record in device.energy}
        assert told[Phase.EMBED].energy_j > 0
        assert told[Phase.EMBED].sensor == f"site:{device.device_id}"
        assert told[Phase.EMBED].method == "estimated"


def test_what_has_no_exact_sum_is_declined_in_words(
    programs: Programs, digits: Path, shards: tuple[list[Path], Path], tmp_path: Path
) -> None:
    parts, held = shards
    _, address = programs.coordinator("above")
    _, own = programs.coordinator("site", "--upstream", address, "--site", "hall")
    programs.device("device-0", parts[0], own, "devices")
    with Operator(address) as operator:
        run_id = operator.start_run(_plan(digits, held, 1, "sgd"), tmp_path)
        told = _until(
            lambda: [device for device in operator.devices() if "have no sum" in device.reason],
            "the reason of the site",
        )
        operator.stop_run(run_id)
    assert told[0].device_id == "hall"


def test_a_site_speaks_to_loopback_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from coordinator.cli import main

    words = ["serve", "--state", str(tmp_path / "s"), "--listen", "127.0.0.1:0", "--upstream", "10.0.0.1:50461"]
    assert main(words) == RefusedError.exit_code
    assert "through a tunnel" in capsys.readouterr().err
    assert main(["serve", "--state", str(tmp_path / "s"), "--site", "hall"]) == 2
    assert "--upstream" in capsys.readouterr().err
