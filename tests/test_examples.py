"""The scripts of examples/ run, and the page of stable names names all of them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import coordinator.api
import coordinator.extending
import edge_runtime.api
import edge_runtime.extending
import protos.extending
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


@pytest.fixture
def sensor(tmp_path: Path) -> Iterator[str]:
    """A simulated bridge on a pseudo-terminal."""
    link = tmp_path / "ttyINA"
    with contextlib.ExitStack() as stack:
        stack.enter_context(Bench([SimulatedBridge(BridgeSpec(link=link, load="constant:4.0"))]))
        yield f"serial:{link}"


def example(name: str, *words: object) -> str:
    """What an example prints."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), *map(str, words)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_joules_of_a_piece_of_a_program(sensor: str) -> None:
    window, net = example("measure_inference.py", sensor).splitlines()
    assert re.fullmatch(r"infer: [\d.]+ J ± [\d.]+ J \(95 %\) in [\d.]+ s, measured", window)
    assert re.fullmatch(r"beyond rest: -?[\d.e-]+ J, -?[\d.e-]+ J a batch", net)
    assert "estimated" in example("measure_inference.py")


def test_a_decorated_function_in_threads(sensor: str) -> None:
    whole, total = example("measure_threads.py", sensor).splitlines()
    assert whole.startswith("all: ")
    assert "overlapping" in total
    assert "in 8 windows" in total


def test_a_program_runs_again_on_its_recording(sensor: str, tmp_path: Path) -> None:
    file = tmp_path / "run.ejr"
    live = example("record_and_replay.py", sensor, file).splitlines()
    again = example("record_and_replay.py", f"replay:{file}").splitlines()
    assert [line.replace(" (replayed)", "") for line in again] == live
    assert len(live) == 4


def test_an_outcome_becomes_a_table(tmp_path: Path) -> None:
    device = {
        "device_id": "a", "outcome": "accepted", "stop_reason": None, "steps_planned": 1, "steps_done": 1,
        "examples": 1, "embedded": 0, "weight": 1.0, "budget_j": None, "bytes_up": 1, "bytes_down": 1, "energy": {},
    }  # fmt: skip
    one = {"round": 1, "state": "closed", "accuracy": 0.5, "loss": 1.0, "bytes_up": 1, "bytes_down": 1}
    run = {"run_id": "r", "name": "n", "state": "finished", "reason": "", "rounds": [one | {"devices": [device]}]}
    file = tmp_path / "outcome.json"
    file.write_text(json.dumps(run))
    (row,) = csv.DictReader(io.StringIO(example("outcome_to_csv.py", file)))
    assert (row["device_id"], row["outcome"], row["energy_j"]) == ("a", "accepted", "")


def test_every_example_is_run_here_and_listed() -> None:
    here, listed = Path(__file__).read_text(), (ROOT / "examples/README.md").read_text()
    assert [name for name in EXAMPLES if f'"{name}"' not in here or f"({name})" not in listed] == []


@pytest.mark.parametrize(
    ("page", "module"),
    [("python.md", edge_runtime.api), ("python.md", coordinator.api)],
    ids=["device", "coordinator"],
)
def test_the_page_has_every_stable_name(page: str, module: object) -> None:
    text = (ROOT / "docs" / page).read_text()
    names = [name for name in module.__all__ if not re.search(rf"\b{name}\b", text)]  # type: ignore[attr-defined]
    assert names == []


@pytest.mark.parametrize("module", [protos.extending, edge_runtime.extending, coordinator.extending])
def test_every_name_for_packages_is_there_and_said_to_stay(module: object) -> None:
    assert all(hasattr(module, name) for name in module.__all__)  # type: ignore[attr-defined]
    assert "names here stay" in " ".join(str(module.__doc__).split())


def test_public_names_have_types_and_docstrings() -> None:
    for module in (edge_runtime.api, coordinator.api):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing) and thing.__module__ in (module.__name__, "coordinator.operator.status"):
                assert thing.__doc__, name
