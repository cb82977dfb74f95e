"""A whole lab of hosts over SSH, from an inventory to results taken home: `make lab-sim`, as a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lab_sim

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(lab_sim.why_not() is not None, reason=lab_sim.why_not() or ""),
]


def test_a_lab_is_imported_deployed_run_and_taken_home(tmp_path: Path) -> None:
    rows = lab_sim.play(tmp_path, 8)
    assert rows[-1]["step"] == "testbed down, release"
