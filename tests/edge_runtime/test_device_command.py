"""The command as a process: bad input and its exit codes, what it imports, and the doctor."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_command import ENVIRON, run
from striped_data import write_data

pytestmark = pytest.mark.processes


def one_line(done: subprocess.CompletedProcess[str], code: int, *needles: str) -> None:
    lines = [line for line in done.stderr.splitlines() if line.startswith("edge-runtime: ")]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for needle in needles:
        assert needle in lines[0]


def test_every_bad_input_is_one_line_with_its_own_exit_code(tmp_path: Path, data: Path, bundle_path: Path) -> None:
    def with_file(name: str, **changes: Any) -> Path:
        return write_data(tmp_path / name, **changes)

    def with_bundle(name: str, change: Callable[[Path], object]) -> Path:
        target = tmp_path / name
        shutil.copytree(bundle_path, target)
        change(target)
        return target

    state = tmp_path / "state"

    def outcome(code: int, *needles: str, **options: object) -> None:
        given = {"data": data, "state": state, "coordinator": "127.0.0.1:9", "wait-for-coordinator": 0, **options}
        flags = [part for name, value in given.items() for part in (f"--{name}", value)]
        one_line(run("run", *flags), code, *needles)

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-7])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    outcome(5, "127.0.0.1:9", "coordinator serve")
    outcome(7, "head.tflite", bundle=with_bundle("cut", lambda path: cut(path / "head.tflite")))
    outcome(7, "backbone.tflite", bundle=with_bundle("flip", lambda path: flip(path / "backbone.tflite")))
    outcome(6, "manifest", bundle=with_bundle("json", lambda path: cut(path / "manifest.json")))
    outcome(6, "no such bundle", bundle=tmp_path / "no-bundle")
    outcome(2, "volts", sensor="volts")
    outcome(16, "certificates", coordinator="10.0.0.1:50461")
    outcome(4, "threads", threads="many")
    bad = tmp_path / "bad.toml"
    bad.write_text("devise_id = 'x'")
    one_line(run("run", "--config", bad), 4, "device_id")
    one_line(run("run", "--state", state), 4, "--data")
    assert [path.name for path in (state / "outbox").iterdir()] == []


def test_data_and_a_sensor_that_are_not_there_or_not_right_are_said_and_end_nothing(
    tmp_path: Path, data: Path, bundle_path: Path
) -> None:
    """What ends this daemon is that its coordinator is away."""

    def said(*needles: str, **options: object) -> None:
        given = {"data": data, "state": tmp_path / "state", "coordinator": "127.0.0.1:9", "wait-for-coordinator": 0}
        flags = [part for name, value in {**given, **options}.items() for part in (f"--{name}", value)]
        done = run("run", *flags)
        assert done.returncode == 5, done.stderr
        assert "Traceback" not in done.stderr
        lines = [line for line in done.stderr.splitlines() if all(needle in line for needle in needles)]
        assert len(lines) == 1, done.stderr

    def with_file(name: str, **changes: Any) -> Path:
        return write_data(tmp_path / name, **changes)

    nan = np.zeros((90, 8, 8, 1), np.float32)
    nan[17] = np.nan
    said("nowhere.npz", "no such file", data=tmp_path / "nowhere.npz")
    said("example 17", **{"data": with_file("nan.npz", x=nan), "bad-examples": 0})
    said("label 5", data=with_file("label.npz", y=np.full(90, 5)), bundle=bundle_path)
    said("ghost", data=with_file("own.npz", device=np.array(["a", "b"] * 45)), shard="ghost")
    said("has no example", data=with_file("test.npz", is_test=np.ones(90, np.bool_)))
    said("[9, 8, 1]", data=with_file("shape.npz", x=np.zeros((90, 9, 8, 1), np.uint8)), bundle=bundle_path)
    said("/dev/ttyNOWHERE", "energy is unknown", sensor="serial:/dev/ttyNOWHERE")


def test_the_daemon_imports_only_what_a_device_has() -> None:
    heavy = ["tensorflow", "keras", "rich", "sqlalchemy", "PIL", "sklearn", "scipy", "matplotlib", "coordinator"]
    code = (
        "import sys, edge_runtime.daemon.process, edge_runtime.cli, edge_runtime.doctor.examination; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRON, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_answers_without_numpy_or_grpc() -> None:
    code = "import sys, edge_runtime.cli; print([n for n in ('numpy', 'grpc', 'google.protobuf') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRON, check=True)
    assert done.stdout.strip() == "[]"


def test_the_doctor_measures_a_fresh_process(tmp_path: Path, data: Path, bundle_path: Path) -> None:
    done = run("doctor", "--json", "--data", data, "--bundle", bundle_path, "--state", tmp_path / "state",
               "--sensor", "estimate:pi4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ready_s"] > 0
    assert 0 < found["rss_ready_mb"] <= found["rss_mb"] < 120.0
    assert (found["steps"], found["embedded"], found["error"]) == (20, 81, None)
    assert (found["ready_limit_s"], found["rss_limit_mb"]) == (2.0, 120.0)
    assert found["ok"]
    assert all(bool(check["fix"]) == (check["verdict"] != "ok") for check in found["checks"])
    assert done.stderr == ""
    assert {check["verdict"] for check in found["checks"]} <= {"ok", "warn"}
    assert not (tmp_path / "state").exists()


def test_the_doctor_fails_with_the_way_to_mend_it(tmp_path: Path) -> None:
    broken = ("--sensor", "serial:/dev/ttyNOWHERE", "--data", tmp_path / "no.npz", "--state", tmp_path / "state")
    done = run("doctor", *broken)
    assert done.returncode == 3
    assert "FAIL  sensor: /dev/ttyNOWHERE is not there" in done.stdout
    assert "FAIL  fresh start:" in done.stdout
    assert "no such file" in done.stdout
    assert "\033[" not in done.stdout
