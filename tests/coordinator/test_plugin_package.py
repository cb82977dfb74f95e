"""The example package, installed for real, in a real run: coordinator and devices are programs, on loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[2]
PLAN = """
[run]
bundle = "{bundle}"
rounds = 2
seed = 7
[round]
devices = 3
quorum = 0.5
deadline_s = 120
[train]
steps = 5
[update]
codec = "ternary"
clip = 3.0
[aggregate]
weight = ["by_root_examples"]
normalise = "median"
[evaluate]
data = "{data}"
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip made of the example package."""
    folder = tmp_path_factory.mktemp("plugin")
    # setuptools builds where the sources are; a copy keeps the checkout as it was.
    shutil.copytree(ROOT / "examples/plugin", folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "site")]
    done = subprocess.run([*pip, *options, str(folder / "source")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def environ(*more: Path) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *more)))}


def run(*words: object, env: Mapping[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(log, words, env)`: a program that writes to `log`; killed at the end."""
    running: list[subprocess.Popen[str]] = []

    def begin(log: Path, *words: object, env: Mapping[str, str]) -> subprocess.Popen[str]:
        with log.open("w") as file:
            command = [sys.executable, "-m", *map(str, words)]
            running.append(subprocess.Popen(command, env=env, cwd=tmp_path, stdout=file, stderr=file, text=True))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def plan(digits: Path, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(bundle=digits / "digits", data=digits / "digits.npz"))
    return path


def test_codec_sensor_weight_and_rule_of_a_package_do_a_federated_run(
    site: Path, digits: Path, plan: Path, start: Start, tools: Any, tmp_path: Path
) -> None:
    (tmp_path / "watts").write_text("4.2\n")
    ready = tmp_path / "ready"
    start(tmp_path / "serve.log", "coordinator.cli", "serve", "--state", tmp_path / "state", "--listen", "127.0.0.1:0",
          "--ready-file", ready, env=environ(site))  # fmt: skip
    tools.until(ready.exists, "the server")
    address = ready.read_text().strip()

    def device(name: str, number: int, env: Mapping[str, str]) -> Path:
        log = tmp_path / f"{name}.log"
        start(log, "edge_runtime.cli", "run", "--coordinator", address, "--device-id", name, "--data",
              digits / "digits.npz", "--shard", f"{number}/3", "--sensor", f"wattfile:{tmp_path / 'watts'}?rate=50",
              "--state", tmp_path / name, env=env)  # fmt: skip
        return log

    device("with-1", 1, environ(site))
    device("with-2", 2, environ(site))
    # It has the sensor, and so must have the package: its codec is taken away by another that has none.
    bare = tmp_path / "bare"
    shutil.copytree(site, bare)
    (points,) = bare.glob("*.dist-info/entry_points.txt")
    points.write_text("[edgejoule.sensors]\nwattfile = edgejoule_example.sensor:wattfile\n")
    without = device("without", 3, environ(bare))
    with Operator(address) as operator:
        run_id = operator.start_run(plan.read_text(), tmp_path)
        tools.until(lambda: "cannot be done" in without.read_text(), "the decline")
        said = without.read_text()
        assert "no codec is called 'ternary'" in said
        assert "install the package that has it on this machine" in said
        assert "Traceback" not in said
        status = tools.finished(operator, run_id)
        (first, *_) = [each_device for each_device in operator.devices() if each_device.device_id == "with-1"]
    assert status.state == "finished", status.reason
    # A device's card names its sensor without the folders of its machine.
    assert (first.meter.method, first.meter.sensor) == ("measured", "wattfile:watts")
    for this_round in status.rounds[1:]:
        accepted = [each for each in this_round.devices if each.outcome == "accepted"]
        assert {each.device_id for each in accepted} == {"with-1", "with-2"}
        assert [each.weight for each in accepted] == pytest.approx([0.5, 0.5], abs=0.01)
        assert {each.outcome for each in this_round.devices if each.device_id == "without"} <= {"missing"}
        # Two bits a coordinate, and what a report weighs besides.
        assert all(each.bytes_up < 2200 for each in accepted)
    server = (tmp_path / "serve.log").read_text()
    assert "no codec is called 'ternary'" in server
    assert "Traceback" not in server


def test_check_plan_and_doctor_say_what_is_installed(site: Path, plan: Path, tmp_path: Path) -> None:
    checked = run("coordinator.cli", "check-plan", plan, env=environ(site), cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("plugins")]
    for word in ("codec 'ternary'", "aggregation rule 'median'", "weight factor 'by_root_examples'"):
        assert f"{word} of edgejoule-example 0.1.0" in line
    shown = json.loads(run("coordinator.cli", "check-plan", plan, "--json", env=environ(site), cwd=tmp_path).stdout)
    assert len(shown["plugins"]) == 3
    trial = shown["codec_trial"]
    # Unbiased: the mean of eight codings is eight times nearer.
    assert 2 < trial["bits"] < 6
    assert trial["error_of_mean"] == pytest.approx(trial["error"] / 8, rel=0.2)
    missing = run("coordinator.cli", "check-plan", plan, env=environ(), cwd=tmp_path)
    assert missing.returncode == 12
    assert "no codec is called 'ternary'" in missing.stderr
    # Another package takes a name of ours, and one is broken.
    odd = tmp_path / "odd"
    (odd / "odd-2.0.dist-info").mkdir(parents=True)
    (odd / "odd-2.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 2.0\n")
    points = "[edgejoule.codecs]\neden = odd:EDEN\nlost = odd_is_not_here:LOST\n"
    (odd / "odd-2.0.dist-info/entry_points.txt").write_text(points)
    clash = run("coordinator.cli", "check-plan", plan, env=environ(site, odd), cwd=tmp_path)
    assert clash.returncode == 0
    assert "codec 'eden' of odd 2.0: the name is one of ours" in clash.stderr
    env = environ(site, odd)
    doctor = run("edge_runtime.cli", "doctor", "--json", "--state", tmp_path / "s", "--sensor", f"wattfile:{plan}",
                 env=env, cwd=tmp_path)  # fmt: skip
    checks = json.loads(doctor.stdout)["checks"]
    found = [(check["verdict"], check["what"], check["fix"]) for check in checks if check["check"] == "plugins"]
    assert [verdict for verdict, _, _ in found] == ["warn", "warn", "ok"]
    assert found[0][1:] == ("codec 'eden' of odd 2.0: the name is one of ours", "give it another name")
    assert "cannot be loaded from odd_is_not_here:LOST (ModuleNotFoundError" in found[1][1]
    assert found[1][2] == "mend or uninstall odd"
    for word in ("codec 'ternary'", "sensor 'wattfile'", "training objective 'lasso'", "aggregation rule 'median'"):
        assert word in found[2][1]
    (sensor,) = [check for check in checks if check["check"] == "sensor"]
    # The plan is no number of watts; whose sensor that is, is said.
    assert (sensor["verdict"], "wattfile" in sensor["what"]) == ("fail", True)


@pytest.mark.workshop
def test_a_head_is_compiled_with_the_objective_of_a_package(site: Path, digits: Path, tmp_path: Path) -> None:
    words = ("firmware_tools.cli", "convert", digits / "digits.keras", "--eval", digits / "digits.npz")
    done = run(*words, "--objective", "lasso", "-o", tmp_path / "b", "--json", env=environ(site), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    assert manifest["head"]["objective"] == "lasso"
    assert "l1" in json.dumps(manifest["head"])
    unknown = run(*words, "--objective", "lasso", "-o", tmp_path / "c", env=environ(), cwd=tmp_path)
    assert unknown.returncode == 2
    assert "no objective is called 'lasso'" in unknown.stderr
