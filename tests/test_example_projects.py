"""The projects of examples/projects run from data to joules: small ones here, whole ones as their pages say."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from warm_tensorflow import WarmTensorFlow

from coordinator.api import load_outcome
from coordinator.cli import main as coordinator

ROOT = Path(__file__).resolve().parents[1]
PROJECTS = ROOT / "examples" / "projects"
TRAINED = ("keyword_spotting", "image_sorter", "gesture", "machine_sound")
Play = Callable[..., str]


@pytest.fixture
def play(
    tensorflow: WarmTensorFlow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Play]:
    """Run a project small in this process; what it prints. Its commands are the real ones, without their starts."""
    monkeypatch.syspath_prepend(str(PROJECTS))
    before = set(sys.modules)

    def command(program: str, *words: str | Path) -> str:
        if program == "firmware-tools":
            done = tensorflow.call(*words)
            assert done.code == 0, done.stderr
            return done.stdout
        assert coordinator([str(word) for word in words]) == 0
        return ""

    def script(path: Path, folder: Path) -> None:
        tensorflow.script(path.read_text(), folder)

    def played(name: str) -> str:
        monkeypatch.syspath_prepend(str(PROJECTS / name))
        import journey  # type: ignore[import-not-found]

        monkeypatch.setattr(journey, "command", command)
        monkeypatch.setattr(journey, "script", script)
        monkeypatch.setattr(sys, "argv", ["run.py", "--small", "-o", str(tmp_path / "out")])
        _loaded(PROJECTS / name / "run.py").main()
        return capsys.readouterr().out

    try:
        yield played
    finally:
        for name in set(sys.modules) - before:
            if str(PROJECTS) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"project_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _judged(printed: str, folder: Path) -> tuple[float, float]:
    """Its figure before and after; and that the line at the end is what the outcome says."""
    found = re.search(
        r"^(?:accuracy|auc) ([\d.]+) -> ([\d.]+) in \d+ round\(s\), \d+ reports: ([\d.]+) J", printed, re.M
    )
    assert found is not None, printed
    run = load_outcome(folder / "run").run
    assert float(found[3]) == pytest.approx(run["energy_j"], abs=1e-3)
    assert run["energy_j"] > 0
    return float(found[1]), float(found[2])


@pytest.mark.workshop
@pytest.mark.reference_data
@pytest.mark.parametrize("name", ["keyword_spotting", "image_sorter", "machine_sound"])
def test_a_project_runs_on_published_models_and_data(
    name: str, play: Play, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEJOULE_REFERENCE_DATA", str(reference))
    printed = play(name)
    assert "stand" not in printed
    first, last = _judged(printed, tmp_path / "out")
    if name == "keyword_spotting":
        # What the published layer knows is kept.
        assert first > 0.85
        assert last > first - 0.02


@pytest.mark.workshop
@pytest.mark.parametrize("name", TRAINED[:1] + TRAINED[2:])
def test_a_project_runs_without_them_and_says_what_stands_in(
    name: str, play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEJOULE_REFERENCE_DATA", str(tmp_path))
    printed = play(name)
    assert re.search(r"stands? in|synthesised", printed)
    first, last = _judged(printed, tmp_path / "out")
    assert last > (first + 0.02 if name != "machine_sound" else 0.5)


@pytest.mark.processes
def test_the_audit_finds_the_joules_of_each_part(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    done = _run("energy_audit", "--small", "-o", folder)
    rows = {row["part"]: row for row in json.loads((folder / "audit.json").read_text())}
    assert set(rows) == {"wait", "read", "smooth", "model", "read, leaner"}
    assert all(row["method"] == "measured" and row["energy_j"] > row["uncertainty_j"] > 0 for row in rows.values())
    assert all(name in done for name in rows)
    assert (folder / "audit.ejr").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.workshop
@pytest.mark.parametrize("name", [*TRAINED, "energy_audit"])
def test_a_project_runs_whole_as_its_page_says(name: str, tmp_path: Path) -> None:
    printed = _run(name, "-o", tmp_path / "out")
    if name != "energy_audit":
        _judged(printed, tmp_path / "out")


def test_every_project_has_a_page_a_script_and_a_row() -> None:
    listed = (ROOT / "docs/projects.md").read_text()
    folders = {path.parent.name for path in PROJECTS.glob("*/run.py")}
    assert folders == {*TRAINED, "energy_audit"}
    for name in folders:
        assert f"examples/projects/{name}/run.py" in (PROJECTS / name / "README.md").read_text()
        assert f"projects/{name}/README.md" in listed


def _run(name: str, *words: str | Path) -> str:
    command = [sys.executable, "-W", "error", str(PROJECTS / name / "run.py"), *map(str, words)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
