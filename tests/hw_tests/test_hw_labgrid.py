"""Our environment files in labgrid itself, which has an environment of its own: ``make hw-labgrid``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from firmware_tools.bridge.client.wiretap import decode_capture
from hw_tests.environment.environment import SIMULATED

PYTHON = os.environ.get("EDGEJOULE_LABGRID_PYTHON", "")
READER = Path(__file__).with_name("labgrid_reader.py")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not Path(PYTHON).is_file(), reason="needs labgrid in an environment of its own: make hw-labgrid"
    ),
]


def read(path: Path, *more: str) -> dict:
    done = subprocess.run([PYTHON, READER, path, *more], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_example_is_a_target_of_labgrid():
    told = read(SIMULATED.with_name("bench.example.yaml"))
    assert {"ina219-bridge", "power-switch", "flash"} <= set(told["features"])
    assert told["resources"] == ["NetworkService", "RawSerialPort"]
    assert told["drivers"] == ["SerialDriver"]


def test_the_simulated_bench_is_one_too():
    told = read(SIMULATED)
    assert "simulated" in told["features"]
    assert told["resources"] == []


def test_labgrid_reads_the_bridge_through_our_file(environment_file, port):
    told = read(environment_file(port=port), "listen")
    messages, _ = decode_capture(bytes.fromhex(told["heard"]))
    batches = [message for message in messages if message["type"] == "samples"]
    assert len(batches) > 5
    assert all(set(batch["shunt"]) <= {999, 1000, 1001} for batch in batches), "2.5 W of 5 V through 0.02 ohm"
