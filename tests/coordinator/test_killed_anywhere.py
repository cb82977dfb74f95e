"""kill -9 of a real coordinator at random system calls: nothing that was acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_points import kill_at
from killed_anywhere import missing
from warm_coordinator import WarmCoordinators

pytestmark = pytest.mark.processes
SHORT = 3


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmCoordinators]:
    made = WarmCoordinators()
    yield made
    made.close()


def _points(warm: WarmCoordinators, tmp_path: Path, bundle: Path, database: Any, seeds: range, lives: int = 1) -> int:
    """Play these runs, each with a database of its own; returns how many points were reached."""
    rows = list(kill_at(warm, tmp_path, bundle, database or (lambda: None), seeds, lives))
    assert [row for row in rows if not row["good"]] == []
    return sum(row["reached"] for row in rows)


@pytest.fixture(autouse=True)
def _strace() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)


def test_killed_at_a_system_call_nothing_is_lost_or_counted_twice(
    warm: WarmCoordinators, plain_bundle: Path, tmp_path: Path
) -> None:
    assert _points(warm, tmp_path, plain_bundle, None, range(SHORT)) >= 1


def test_killed_at_a_system_call_beside_a_server_nothing_is_lost_or_counted_twice(
    warm: WarmCoordinators, plain_bundle: Path, tmp_path: Path, fresh_database: Any
) -> None:
    assert _points(warm, tmp_path, plain_bundle, fresh_database, range(SHORT)) >= 1


@pytest.mark.slow
def test_killed_again_while_it_recovers_nothing_is_lost_or_counted_twice(
    warm: WarmCoordinators, plain_bundle: Path, tmp_path: Path
) -> None:
    assert _points(warm, tmp_path, plain_bundle, None, range(100, 101), lives=3) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_at_many_system_calls(
    warm: WarmCoordinators, plain_bundle: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    count = int(os.environ.get("POINTS", "100"))
    database = None if kind == "sqlite" else request.getfixturevalue("fresh_database")
    reached = _points(warm, tmp_path, plain_bundle, database, range(1000, 1000 + count))
    print(f"{reached} of {count} points reached: 0 lost, 0 double")
