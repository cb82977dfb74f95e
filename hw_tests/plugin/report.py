"""What a session leaves behind: measurements of each test, all of them in one file, and a table at the end."""

from __future__ import annotations

import os
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hw_tests.bench.bench import Disturbed
from hw_tests.measurements import Measure, Measurement, Measurements, file_name, table, write_rows
from hw_tests.plugin.options import artifacts_folder, environment_of

__all__ = ["add_facts", "measure"]

_ROWS = pytest.StashKey[Measurements]()
_SESSION = pytest.StashKey["_Session"]()
FILE = "measurements.json"


class _Session:
    """Facts of the session, and every row of it."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"begun": datetime.now(UTC).isoformat(timespec="seconds")}
        self.rows: list[Measurement] = []


@pytest.fixture
def measure(request: pytest.FixtureRequest) -> Measure:
    """``measure(name, value, unit, limit=None, uncertainty=None)``: note a value, and fail if it is beyond its limit.

    The test fails when its body has ended. See :mod:`hw_tests.measurements`.
    """
    node: pytest.Item = request.node
    book = Measurements(node.nodeid)
    node.stash[_ROWS] = book
    return book


def add_facts(config: pytest.Config, facts: dict[str, Any]) -> None:
    """Put something of the bench into the session's header."""
    config.stash[_SESSION].facts.update(facts)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SESSION] = _Session()


def pytest_report_header(config: pytest.Config) -> str:
    environment = environment_of(config)
    if environment is None:
        return "bench: none, its tests are skipped"
    kind = "simulated" if environment.simulated else f"real, {environment.port}"
    return f"bench: {environment.name} ({kind}); artifacts: {artifacts_folder(config)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    try:
        yield
    except Disturbed as reason:
        # Who reads a table sees that it says nothing; continuous integration reads no tables.
        if os.environ.get("CI", "").lower() not in ("", "0", "false", "no"):
            pytest.fail(f"must not be skipped here: {reason}", pytrace=False)
        pytest.skip(str(reason))
    book = item.stash.get(_ROWS, None)
    if book is not None and (verdict := book.verdict()):
        pytest.fail(verdict, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    book = item.stash.get(_ROWS, None)
    if book is None or not book.rows:
        return
    session = item.config.stash[_SESSION]
    session.rows += book.rows
    for row in book.rows:
        # JUnit has them as properties of the test; they are valid in junit_family=xunit1.
        item.user_properties.append((f"{row.name} [{row.unit}]", row.value))
    folder = artifacts_folder(item.config) / "tests"
    write_rows(folder / f"{file_name(item.nodeid)}.json", session.facts, book.rows)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ours = session.config.stash[_SESSION]
    if ours.rows or "bench" in ours.facts:
        ours.facts["ended"] = datetime.now(UTC).isoformat(timespec="seconds")
        ours.facts["exit_status"] = int(exitstatus)
        write_rows(artifacts_folder(session.config) / FILE, ours.facts, ours.rows)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    ours = config.stash[_SESSION]
    if not ours.rows:
        return
    failures = sum(row.passed is False for row in ours.rows)
    terminalreporter.section(f"{len(ours.rows)} measurements, {failures} beyond their limits")
    for line in table(ours.rows):
        terminalreporter.write_line(line, red=line.endswith("FAIL"))
    terminalreporter.write_line(f"in {_shown(artifacts_folder(config) / FILE)}")


def _shown(path: Path) -> str:
    """A path, relative where that is shorter to read."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
