"""Our codecs, strategies and joules in Flower itself, which has an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unmet import unmet

ROOT = Path(__file__).resolve().parents[2]
_NAMED = "EDGEJOULE_FLOWER_PYTHON"


@pytest.fixture(scope="session")
def flower() -> str:
    """A Python that has Flower: of the variable, or this one."""
    named = os.environ.get(_NAMED)
    if named and not Path(named).exists():
        unmet(f"{_NAMED}={named} is no program", required=True)
    if not named and importlib.util.find_spec("flwr") is None:
        pytest.skip(f"needs Flower: name the Python of an environment with flwr[simulation]==1.42.0 in {_NAMED}")
    return named or sys.executable


def _made(flower: str, what: str, tmp_path: Path) -> dict[str, Any]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    environ["HOME"] = environ["FLWR_HOME"] = str(tmp_path)
    # Else Ray's workers let every other program go first, and a busy machine never comes to them.
    environ["RAY_worker_niceness"] = "0"
    done = subprocess.run(
        [flower, str(Path(__file__).with_name("flower_run.py")), what],
        capture_output=True, text=True, check=False, timeout=3600, env=environ, cwd=tmp_path,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("MADE ")]
    assert lines, done.stdout[-2000:] + done.stderr[-4000:]
    found: dict[str, Any] = json.loads(lines[-1][5:])
    return found


@pytest.mark.processes
def test_strategies_by_themselves(flower: str, tmp_path: Path) -> None:
    made = _made(flower, "alone", tmp_path)
    # By every set that chance may ask: exactly the mean of all.
    assert made["unbiased"]["mean"] == pytest.approx(made["unbiased"]["whole"], abs=1e-12)
    asked = made["asked"]
    assert asked["first"] == 1.0
    assert asked["cheap"] == 400
    # A quarter of 400 rounds, within four standard deviations of such a draw.
    assert abs(asked["dear"] - 100) <= 4 * np.sqrt(400 * 0.25 * 0.75)
    assert made["weighted"] == pytest.approx([0.75, 2.0, 0.5, 0.5])
    assert made["packed"]
    assert all(made["packed"].values()), made["packed"]
    assert made["spoilt"] == [1.0, 1.0]
    assert "has a memory" in made["refused"]


@pytest.mark.slow
@pytest.mark.processes
def test_a_simulation_of_flower_codes_meters_and_weighs(flower: str, tmp_path: Path) -> None:
    made = _made(flower, "simulated", tmp_path)
    plain, lossless, coded = made["plain"], made["lossless"], made["coded"]
    assert plain["accuracy"] > 0.8
    # Differences without loss, added to what was sent, are the weights up to float32's rounding.
    assert np.allclose(plain["kernel"], lossless["kernel"], atol=1e-6)
    for name in ("coded", "unbiased"):
        assert made[name]["accuracy"] > plain["accuracy"] - 0.05, name
        assert made[name]["types"] == {"kernel": "float32", "bias": "float32", "seen": "int64"}
        assert max(made[name]["bytes"]) < min(plain["bytes"])
    assert len(coded["joules"]) == 3
    assert all(one > 0 for one in coded["joules"].values())
