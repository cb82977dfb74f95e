"""Real devices and a real coordinator on loopback: coded heads down, signs with error feedback up, restarts between."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running_daemon import RunningDaemon

from coordinator.operator.client import Operator
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import device_heads as shown
from edge_runtime.config import resolve
from edge_runtime.round.tree_file import read_tree
from protos.update.trees import Tree, version

pytestmark = pytest.mark.workshop
ROUNDS = 6


def plan(bundle: Path, data: Path, downlink: str) -> str:
    return (
        f'[run]\nbundle = "{bundle}"\nname = "both"\nrounds = {ROUNDS}\nseed = 3\n'
        "[round]\ndevices = 2\nquorum = 1.0\ndeadline_s = 120\n[train]\nepochs = 2\nrate = 0.1\n"
        f'[update]\ncodec = "sign"\n[downlink]\n{downlink}\n[evaluate]\ndata = "{data}"\n'
    )


def split(data: Path, folder: Path, parts: int) -> list[Path]:
    with np.load(data) as whole:
        x, y, is_test = whole["x"], whole["y"], whole["is_test"]
    files = []
    for part in range(parts):
        chosen = np.flatnonzero(~is_test)[part::parts][:200]
        files.append(folder / f"part-{part}.npz")
        np.savez(files[-1], x=x[chosen], y=y[chosen])
    return files


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Callable[..., RunningDaemon]]:
    started: list[RunningDaemon] = []

    def start(address: str, name: str, data: Path, **changes: Any) -> RunningDaemon:
        flags = {"device_id": name, "data": str(data), "state": str(tmp_path / name), "sensor": "estimate:pi4"}
        flags |= {"coordinator": address, "exit_when_idle_s": "30"}
        settings = resolve(flags, {}, None).settings
        started.append(RunningDaemon(dataclasses.replace(settings, **changes)))
        return started[-1]

    yield start
    for one in started:
        one.stopping.request("end of test")
        one.join()
        one.stopping.close()


def on_record(state: Path, run_id: str) -> Tree:
    db = Database(sqlite_url(state / "coordinator.db"))
    with db.reading() as connection:
        found = shown.get(connection, run_id)
    db.close()
    assert found is not None
    return found[0]


def held(folder: Path) -> Tree:
    newest = max((folder / "heads").glob("*.tree"), key=lambda path: path.stat().st_mtime_ns)
    return read_tree(newest)


@pytest.mark.parametrize("downlink", ['codec = "entropy_coded_mmse"\nbits = 2', 'codec = "sign"'])
def test_real_devices_learn_from_coded_heads_and_hold_what_is_on_record(
    digits: Path, address: str, device: Callable[..., RunningDaemon], tools: Any, tmp_path: Path, downlink: str
) -> None:
    data = split(digits / "digits.npz", tmp_path, 2)
    with Operator(address) as operator:
        run_id = operator.start_run(plan(digits / "digits", digits / "digits.npz", downlink), tmp_path)
        # The second device stops after two rounds and starts again, so that it must have kept head and memory.
        first = device(address, "a", data[0], max_rounds=ROUNDS)
        second = device(address, "b", data[1], max_rounds=2)
        second.end()
        memory = list((tmp_path / "b" / "memory").glob("*.tree"))
        assert len(memory) == 1
        owed = read_tree(memory[0])
        assert any(array.any() for array in owed.values())
        second = device(address, "b", data[1], max_rounds=ROUNDS - 2)
        first.end()
        second.end()
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    accuracies = [this_round.accuracy for this_round in status.rounds]
    assert accuracies[-1] > accuracies[0] + 0.05
    # Once both are back, each asks for a round's order once.
    whole = 4 * sum(array.size for array in held(tmp_path / "a").values())
    down = [
        [each_device.bytes_down for each_device in status.rounds[number].devices] for number in range(1, ROUNDS + 1)
    ]
    assert all(size < whole for row in down[-2:] for size in row)
    assert list((tmp_path / "a" / "outbox").glob("*.report")) == []
    # The last round moved on once more; what the devices trained last is one difference behind.
    record = on_record(tmp_path / "state", run_id)
    assert version(held(tmp_path / "a")) == version(held(tmp_path / "b")) != version(record)
