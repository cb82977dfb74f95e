"""A function in a child: its result, its error or its death comes back, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_tools.child import run_in_child
from protos.errors import LabelError, ModelError

_TARGETS = """
import os, signal, sys
from protos.errors import LabelError

def double(job, progress):
    progress("half way")
    print("chatter on stdout"); print("chatter on stderr", file=sys.stderr)
    return {"value": 2 * job["value"], "pid": os.getpid()}

def ours(job, progress):
    raise LabelError("label 9", where="data.npz", fix="number them")

def theirs(job, progress):
    raise ZeroDivisionError("first line\\nsecond line")

def killed(job, progress):
    os.kill(os.getpid(), signal.SIGSEGV)

def quits(job, progress):
    print("last words"); sys.stdout.flush()
    os._exit(5)
"""


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "child_targets.py").write_text(_TARGETS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "child_targets"


def _run(target: str, **job: object) -> dict[str, object]:
    return run_in_child(target, job, where="odd.h5", progress=lambda line: None)


def test_the_result_comes_back_with_progress_before_it(targets: str, capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    result = run_in_child(f"{targets}:double", {"value": 21}, where="odd.h5", progress=heard.append)
    assert result["value"] == 42
    assert heard == ["half way"]
    assert capfd.readouterr() == ("", "")


def test_our_own_errors_come_back_whole(targets: str) -> None:
    with pytest.raises(LabelError) as caught:
        _run(f"{targets}:ours")
    assert str(caught.value) == "data.npz: label 9; number them"


def test_any_other_exception_becomes_one_line(targets: str) -> None:
    with pytest.raises(ModelError) as caught:
        _run(f"{targets}:theirs", model="odd.h5")
    assert str(caught.value) == "odd.h5: ZeroDivisionError: first line"


def test_a_death_by_signal_names_the_file_and_the_signal(targets: str) -> None:
    with pytest.raises(ModelError, match=r"odd\.h5: the process that opened it died of SIGSEGV"):
        _run(f"{targets}:killed")


def test_an_exit_without_a_result_is_an_error(targets: str) -> None:
    with pytest.raises(ModelError, match=r"ended with code 5 \(last words\)"):
        _run(f"{targets}:quits")


def test_the_log_keeps_what_the_child_said(targets: str, tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    with pytest.raises(ModelError):
        run_in_child(f"{targets}:theirs", {}, where="odd.h5", progress=lambda line: None, log=log)
    assert "Traceback" in log.read_text()
    assert "second line" in log.read_text()
