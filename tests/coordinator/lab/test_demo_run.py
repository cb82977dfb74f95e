"""The demo for real: programs on loopback, serial over pseudo-terminals, six rounds, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from protos.model.engine import open_interpreter

pytestmark = [pytest.mark.workshop, pytest.mark.processes]

WAIT_S = 240


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "coordinator.cli", "demo", *words]


def programs_of(folder: Path) -> list[str]:
    """Command lines of processes that name a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = subprocess.run(command("--output", str(folder)), capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    yield folder, json.loads((folder / "outcome.json").read_text())
    assert programs_of(folder) == []


def test_six_rounds_gain_ten_points(outcome: tuple[Path, dict[str, Any]]) -> None:
    _, result = outcome
    assert [this_round["round"] for this_round in result["rounds"]] == list(range(7))
    assert result["final_accuracy"] >= result["initial_accuracy"] + 0.10


def test_every_device_has_measured_joules_for_every_phase(outcome: tuple[Path, dict[str, Any]]) -> None:
    _, result = outcome
    assert len(result["joules"]) == 4
    for this_round in result["rounds"][1:]:
        for device, phases in this_round["energy"].items():
            for phase in ("embed", "train", "encode", "send"):
                record = phases[phase]
                assert record["method"] == "measured", (this_round["round"], device, phase)
                assert record["energy_j"] is not None, (this_round["round"], device, phase, record)
    assert all(share >= 0.99 for phases in result["coverage"].values() for share in phases.values())


def test_the_poorest_device_is_cut_short_and_still_contributes(outcome: tuple[Path, dict[str, Any]]) -> None:
    _, result = outcome
    budgets = dict(zip(sorted(result["joules"]), result["settings"]["budgets_j"], strict=True))
    poorest = min(budgets, key=lambda name: budgets[name])
    assert result["cut_short"][poorest] >= 1
    mine = [this_round["devices"][poorest] for this_round in result["rounds"][1:]]
    assert sum(row["steps_done"] for row in mine) > 0
    assert all(row["weight"] > 0 for row in mine if row["outcome"] == "accepted" and row["steps_done"])


def test_one_device_and_no_other_is_cut_short(outcome: tuple[Path, dict[str, Any]]) -> None:
    folder, result = outcome
    assert set(result["cut_short"]) == {"device-2"}
    measured = result["settings"]["measured"]
    for name, budget_j in zip(sorted(measured), result["settings"]["budgets_j"], strict=True):
        assert name == "device-2" or budget_j > 5 * measured[name]["most_train_j"]
    # The plan that ran is written with the joules that were measured, so that it can be started again.
    assert f"device-2 = {result['settings']['budgets_j'][1]:g}" in (folder / "plan.toml").read_text()


# Each optimiser step burns a millisecond more of the processor: a machine that is many times slower.
_SLOW = """
import time
from protos.model.head import Head
quick = Head.train_step
def slow(self, *words, **more):
    end_s = time.thread_time() + 0.001
    while time.thread_time() < end_s:
        pass
    return quick(self, *words, **more)
Head.train_step = slow
"""
_BUSY = "while True: pass"


def test_the_story_is_the_same_on_a_slow_machine_under_foreign_load(
    outcome: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    made, quick = outcome
    (tmp_path / "sitecustomize.py").write_text(_SLOW)
    folder = tmp_path / "out"
    words = ["--bundle", str(made / "bundle"), "--data", str(made / "example" / "fleet.npz"), "--rounds", "2"]
    words += ["--budget-j", "24x,0.25x,16x,10x", "--epochs", "100", "--rate", "0.1", "--output", str(folder)]
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    foreign = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(3)]
    try:
        done = subprocess.run(
            command(*words), env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True, timeout=WAIT_S
        )
    finally:
        for process in foreign:
            process.kill()
            process.wait()
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "outcome.json").read_text())
    assert set(result["cut_short"]) == {"device-2"}
    # It was slow indeed: a step costs what a millisecond of a board does, which fixed budgets do not know.
    step_j = {
        name: result["settings"]["measured"][name]["least_train_j"]
        / result["rounds"][1]["devices"][name]["steps_planned"]
        for name in result["cut_short"]
    }
    quick_j = (
        quick["settings"]["measured"]["device-2"]["least_train_j"]
        / quick["rounds"][1]["devices"]["device-2"]["steps_planned"]
    )
    assert step_j["device-2"] > 2 * quick_j


def test_measured_joules_agree_with_what_the_simulated_boards_drew(outcome: tuple[Path, dict[str, Any]]) -> None:
    folder, result = outcome
    truth = json.loads((folder / "true-joules.json").read_text())
    bridges = {Path(bridge["link"]).parent.name: bridge for bridge in truth["bridges"]}
    for device, by_phase in result["joules"].items():
        spent = sum(value for value in by_phase.values() if value is not None)
        # The board drew all of this and idled besides; a meter that invents joules would exceed it.
        assert 0 < spent < bridges[device]["energy_j"] * 1.02


def test_the_exported_model_is_integer_and_runs(outcome: tuple[Path, dict[str, Any]]) -> None:
    folder, result = outcome
    interpreter = open_interpreter(folder / "model.tflite")
    interpreter.allocate_tensors()
    kinds = {str(detail["dtype"].__name__) for detail in interpreter.get_tensor_details()}
    assert kinds <= {"int8", "int32"}
    assert result["exported_accuracy"] >= result["exported_float_accuracy"] - 0.01


def test_a_run_whose_export_is_refused_is_kept_and_exported_after_all(
    outcome: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    made, _ = outcome
    folder, copy = tmp_path / "out", tmp_path / "copy.json"
    words = ["--bundle", str(made / "bundle"), "--data", str(made / "example" / "fleet.npz"), "--rounds", "1"]
    words += ["--steps", "5", "--devices", "1", "--json", str(copy), "--output", str(folder)]
    # The real demo, with an export that is refused.
    refusing = (
        "import sys\nfrom coordinator import cli\nfrom coordinator.operator.client import Operator\n"
        "from protos.errors import CheckFailed\n"
        "def refuse(*_, **__): raise CheckFailed('more than 1.00% apart')\n"
        "Operator.export = refuse\nsys.exit(cli.main(sys.argv[1:]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", refusing, "demo", *words], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.returncode == 3, done.stderr
    kept = json.loads((folder / "outcome.json").read_text())
    assert kept == json.loads(copy.read_text())
    assert (kept["state"], kept["export_problem"], kept["output"]["model"]) == (
        "finished",
        "more than 1.00% apart",
        None,
    )
    assert len(kept["rounds"]) == 2
    assert "model      none: more than 1.00% apart" in done.stdout
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("coordinator demo:")]
    assert f"--state {folder / 'coordinator'}" in line
    assert not (folder / "model.tflite").exists()
    ready = tmp_path / "address"
    serve = ["serve", "--state", str(folder / "coordinator"), "--listen", "127.0.0.1:0", "--ready-file", str(ready)]
    again = subprocess.Popen([sys.executable, "-m", "coordinator.cli", *serve], stderr=subprocess.DEVNULL)
    try:
        end_s = time.monotonic() + WAIT_S
        while not ready.exists() and time.monotonic() < end_s:
            time.sleep(0.1)
        with Operator(ready.read_text().strip()) as operator:
            operator.export(kept["run_id"], folder / "model.tflite", max_drop=0.05)
        open_interpreter(folder / "model.tflite")
    finally:
        again.terminate()
        again.wait(WAIT_S)
    assert programs_of(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_behind(
    number: int, outcome: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    made, _ = outcome
    folder = tmp_path / "out"
    words = ["--bundle", str(made / "bundle"), "--data", str(made / "example" / "fleet.npz"), "--rounds", "10000"]
    process = subprocess.Popen(
        command("--output", str(folder), *words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    end_s = time.monotonic() + WAIT_S
    while len(programs_of(folder)) < 7 and time.monotonic() < end_s:  # the demo, a coordinator, bridges, 4 devices
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    assert programs_of(folder) == []
