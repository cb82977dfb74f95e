"""The suite itself, on a bench that is right and on one that is not: a test that cannot fail is none.

To the plugin the bench is a real one; behind its port runs the bridge's firmware in the simulated machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from unmet import unmet

from hw_tests.bench.lock import lock_path

pytestmark = pytest.mark.processes
ROOT = Path(__file__).resolve().parents[2]
CONSTANT = "hw_tests/test_hw_accuracy.py::test_a_constant_load_is_right"


@pytest.fixture
def suite(tmp_path):
    """Run tests of the suite; their outcome, by what they measured."""
    artifacts = tmp_path / "artifacts"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HW_", "LG_", "PYTEST_"))}

    def run(test: str, *options: object) -> tuple[int, str, dict[str, bool | None]]:
        words = [
            sys.executable,
            "-m",
            "pytest",
            test,
            "-rs",
            "-p",
            "no:cacheprovider",
            "--hw-artifacts",
            artifacts,
            *options,
        ]
        done = subprocess.run(
            map(str, words), cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        file = artifacts / "measurements.json"
        rows = json.loads(file.read_text())["measurements"] if file.exists() else []
        return done.returncode, done.stdout + done.stderr, {row["name"]: row["passed"] for row in rows}

    return run


@pytest.fixture
def bench(environment_file):
    """Environment of a bench of its own name, with changes."""
    names = []

    def write(*changes, **fields):
        names.append(f"bites-{os.getpid()}-{time.monotonic_ns()}")
        return environment_file(*changes, name=names[-1], **fields)

    yield write
    for name in names:
        lock_path(name).unlink(missing_ok=True)


def undisturbed(machine, run):
    """What ``run`` gives while the machine kept real time: a computer that is too slow says nothing of the suite."""
    for _ in range(5):
        before = machine.status()["slips"]
        outcome = run()
        if machine.status()["slips"] == before:
            return outcome
    unmet("this computer was too slow five times")


def test_a_good_bench_passes_and_a_wrong_reference_does_not(suite, bench, serve):
    machine = serve()
    narrow = ("constant_relative: 0.5", "constant_relative: 0.0025")
    good, wrong = (bench(narrow, port=str(machine.link), watts=watts) for watts in (2.5, 2.53))
    code, said, passed = undisturbed(machine, lambda: suite(CONSTANT, "--hw-env", good))
    assert code == 0, said
    assert passed["error of 2.5 W"] is True
    code, said, passed = undisturbed(machine, lambda: suite(CONSTANT, "--hw-env", wrong))
    assert code == 1, said
    assert passed["error of 2.53 W"] is False
    assert passed["coverage of 2.53 W"] is True
    assert "error of 2.53 W is -0.0118" in said


def test_a_sensor_too_quick_and_a_line_that_loses_are_told(suite, bench, serve):
    machine = serve(oscillator=0.4)
    machine.fault("to-host-drop", on=2e-3)
    path = bench(("{phase_s: 0.5}", "{stream_s: 2.2}"), port=str(machine.link))
    words = ("hw_tests/test_hw_stream.py", "-k", "balanced", "--hw-env", path)
    code, said, passed = undisturbed(machine, lambda: suite(*words))
    assert code == 1, said
    assert passed["samples a second"] is False
    assert passed["batches lost"] is False
    assert passed["damaged frames"] is False
    assert passed["errors on I2C"] is True


def test_the_simulated_bench_can_do_what_a_bench_must(suite):
    """The shortest tests of the suite that move its switch and its clock."""
    silent = "hw_tests/test_hw_recovery.py::test_without_supply_the_bench_is_silent_and_with_it_starts_anew"
    code, said, passed = suite(silent, "hw_tests/test_hw_handshake.py", "--hw-sim")
    assert code == 0, said
    assert "4 passed" in said
    assert passed == {"until HELLO": True, "seconds until HELLO": True, "sensors": True}
