"""`coordinator simulate`: what it prints, what it writes, and what it never writes over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.api import load_outcome
from coordinator.cli import main


@pytest.fixture
def words(digits: Path, tmp_path: Path) -> list[str]:
    """A command on four boards and two rounds."""
    plan = tmp_path / "plan.toml"
    plan.write_text('[run]\nbundle = "nowhere"\nname = "few"\nrounds = 5\nseed = 3\n[train]\nrate = 0.2\nepochs = 1\n')
    data = ["--bundle", str(digits / "digits"), "--data", str(digits / "digits.npz")]
    return ["simulate", str(plan), "--devices", "4", *data, "--seed", "2", "--set", "run.rounds=2"]


def test_it_shows_progress_and_a_table_and_writes_what_can_be_read_again(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main([*words, "-o", str(folder), "--stragglers", "0.5"]) == 0
    shown = capsys.readouterr()
    assert [line for line in shown.err.splitlines() if "round 2" in line]
    assert "accuracy" in shown.out
    assert "pi-zero-2" in shown.out
    outcome = load_outcome(folder)
    assert [row["round"] for row in outcome.rounds] == [0, 1, 2]
    with np.load(folder / "arrays.npz") as arrays, np.load(folder / "head.npz") as head:
        assert arrays["steps"].shape == (2, 4)
        assert arrays["bytes_up"].sum() == outcome.run["bytes_up"]
        assert set(head) == {"out_bias", "out_kernel"}
    assert main([*words, "-o", str(folder)]) == 2
    assert "earlier simulation" in capsys.readouterr().err
    assert main([*words, "-o", str(folder), "--again", "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert printed["schema"] == "edgejoule.outcome/1"
    assert printed["simulated"]["engine"] == "exact"
    assert load_outcome(printed) == load_outcome(folder)


def test_it_never_writes_over_what_no_simulation_made(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "outcome.json").write_text("mine")
    assert main([*words, "-o", str(folder), "--again"]) == 2
    assert "no simulation made it" in capsys.readouterr().err
    assert (folder / "outcome.json").read_text() == "mine"


def test_a_mistake_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--dropout", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("coordinator simulate: dropout")
