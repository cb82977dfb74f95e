"""The first failure is kept: what the bench was, what was heard, what was recorded, what the test said."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hw_tests.bench.bench import Bench
from hw_tests.plugin.options import artifacts_folder, environment_of
from hw_tests.plugin.selection import is_of_a_bench
from protos.errors import EdgejouleError

__all__ = ["FIRST_FAILURE", "Keeps", "has_failed", "keeps_of"]

FIRST_FAILURE = "first-failure"


@dataclass
class Keeps:
    """What there is to keep.

    Args:
        bench: the one of this session while it is open.
        files: folder of the running test.
        failed: the first test that failed.
        waiting: its folder still has to be filled with the test's files, which are whole after its teardown.
    """

    bench: Bench | None = None
    files: Path | None = None
    failed: str | None = None
    waiting: Path | None = None


_KEEPS = pytest.StashKey[Keeps]()


def keeps_of(config: pytest.Config) -> Keeps:
    """What this session keeps."""
    return config.stash.setdefault(_KEEPS, Keeps())


def has_failed(config: pytest.Config) -> bool:
    """Whether a test of this session has failed on the bench."""
    return keeps_of(config).failed is not None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    keeps = keeps_of(item.config)
    if report.failed and keeps.failed is None and environment_of(item.config) is not None and is_of_a_bench(item):
        keeps.failed = item.nodeid
        with contextlib.suppress(OSError, EdgejouleError):  # a full disk must not hide the failure
            keeps.waiting = _keep(artifacts_folder(item.config) / FIRST_FAILURE, keeps.bench, report)
            report.sections.append(("bench", f"kept in {keeps.waiting}"))
    if call.when == "teardown":
        if keeps.waiting is not None:
            with contextlib.suppress(OSError):
                _take_files(keeps.files, keeps.waiting)
            keeps.waiting = None
        keeps.files = None
    return report


def _keep(folder: Path, bench: Bench | None, report: pytest.TestReport) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier session
    folder.mkdir(parents=True)
    (folder / "test.txt").write_text(f"{report.nodeid}\n{report.when}\n\n{report.longreprtext}\n{report.caplog}\n")
    if bench is not None:  # tests of the board alone do not open the bridge's port
        bench.keep(folder)
    return folder


def _take_files(files: Path | None, folder: Path) -> None:
    """Copy recordings and logs of the test: later sessions clear the folder that they are in."""
    if files is not None and files.is_dir():
        for file in files.iterdir():
            if file.is_file():
                shutil.copy2(file, folder / file.name)
