"""The benchmark of memory: a real daemon in it, its table, and that it fails above the limit."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.fixture
def memory() -> ModuleType:
    spec = importlib.util.spec_from_file_location("memory_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("peak_mb", "code"), [(149.9, 0), (150.1, 1)])
def test_the_highest_phase_decides(
    memory: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], peak_mb: float, code: int
) -> None:
    rows = [memory.Row("cached", "training", peak_mb, 30.0), memory.Row("cached", "encoding", 80.0, 30.0)]
    monkeypatch.setattr(memory, "measure", lambda folder, examples: iter(rows))
    monkeypatch.setattr(sys, "argv", ["memory.py"])
    assert memory.main() == code
    printed = capsys.readouterr()
    assert f"highest {peak_mb:.1f} MB, limit 150 MB" in printed.out
    assert ("over the limit" in printed.err) == bool(code)


@pytest.mark.processes
@pytest.mark.workshop
def test_it_measures_each_phase_of_a_real_daemon(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs TensorFlow: the workshop extra")
    out = tmp_path / "memory.json"
    command = [sys.executable, str(BENCHMARK), "--quick", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    phases = {start: [row["phase"] for row in found["rows"] if row["start"] == start] for start in ("first", "cached")}
    for start in ("first", "cached"):
        assert phases[start][:3] == ["start, everything imported", "engine loaded", "opening, joining, fetching"]
        assert {"embedding", "training", "encoding", "sending"} <= set(phases[start])
    peaks = [row["peak_mb"] for row in found["rows"]]
    # A Python with numpy and grpc holds 30 MB at least; less would mean that nothing was read.
    assert all(30.0 < peak <= found["highest_mb"] for peak in peaks)
    assert found["highest_mb"] == max(peaks) <= found["limit_mb"] == 150.0
    assert all(0.0 < row["anonymous_mb"] <= row["peak_mb"] for row in found["rows"])
