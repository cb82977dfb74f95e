"""Generators of models and data write where they are told, and nowhere else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks/foreign_models"


def given(script: str, here: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, FOLDER / script, *words]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)


@pytest.mark.processes
@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), ([], 2)])
@pytest.mark.parametrize("script", ["make_data.py", "make_models.py"])
def test_a_generator_that_is_asked_for_help_or_told_no_folder_writes_nothing(
    script: str, words: list[str], code: int, tmp_path: Path
) -> None:
    if script == "make_models.py":
        pytest.importorskip("tensorflow", reason="needs TensorFlow: the extra workshop")
    done = given(script, tmp_path, *words)
    assert done.returncode == code, done.stderr
    assert "FOLDER" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.processes
def test_data_are_made_in_the_folder_that_is_named(tmp_path: Path) -> None:
    here, pictures = tmp_path / "here", tmp_path / "image.npz"
    here.mkdir()
    y = np.arange(80) % 4
    np.savez(pictures, x=np.random.default_rng(0).integers(0, 255, (80, 12, 12, 3)).astype(np.uint8), y=y)
    done = given("make_data.py", here, tmp_path / "made", "--pictures", pictures)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/column.npz").exists()
    assert not list(here.iterdir())
