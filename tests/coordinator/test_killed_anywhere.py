"""kill -9 of a real coordinator at random system calls: nothing that was acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from killed_anywhere import Point, missing, play

pytestmark = pytest.mark.processes
SHORT = 3


def _points(tmp_path: Path, bundle: Path, tools: Any, database: Any, seeds: range) -> int:
    """Play these points, each with a database of its own; returns how many were reached."""
    server = database is not None
    calm = play(tmp_path / "calm", bundle, tools.plan, database() if server else None, None)
    assert not calm.died
    assert calm.lost == []
    reached = 0
    for seed in seeds:
        point = Point.drawn(seed, server=server)
        found = play(tmp_path / f"{seed}", bundle, tools.plan, database() if server else None, point)
        assert found.heads == calm.heads, f"seed {seed}, {point}"
        assert found.lost == [], f"seed {seed}, {point}"
        reached += found.died
        shutil.rmtree(tmp_path / f"{seed}")
    print(f"{reached} of {len(seeds)} points reached: 0 lost, 0 double")
    return reached


@pytest.fixture(autouse=True)
def _strace() -> None:
    if (why := missing()) is not None:
        pytest.skip(why)


def test_killed_at_a_system_call_nothing_is_lost_or_counted_twice(
    plain_bundle: Path, tools: Any, tmp_path: Path
) -> None:
    assert _points(tmp_path, plain_bundle, tools, None, range(SHORT)) >= 1


def test_killed_at_a_system_call_beside_a_server_nothing_is_lost_or_counted_twice(
    plain_bundle: Path, tools: Any, tmp_path: Path, fresh_database: Any
) -> None:
    assert _points(tmp_path, plain_bundle, tools, fresh_database, range(SHORT)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_killed_at_many_system_calls(
    plain_bundle: Path, tools: Any, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    count = int(os.environ.get("POINTS", "100"))
    database = None if kind == "sqlite" else request.getfixturevalue("fresh_database")
    _points(tmp_path, plain_bundle, tools, database, range(1000, 1000 + count))
