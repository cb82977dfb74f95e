"""kill -9 at system calls on a busy day: a buffer, late reports, runs beside each other, a pause, another plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_anywhere import Point, WithStandby, missing
from killed_busy import play_day
from warm_coordinator import WarmCoordinators

pytestmark = pytest.mark.processes
# Two lives, each with the writes of a few rounds.
POINTS = {
    "sqlite": (Point("fdatasync", 12), Point("pwrite64", 30)),
    "postgresql": (Point("sendto", 150), Point("recvfrom", 120)),
}


@pytest.fixture(scope="module")
def warm() -> Iterator[WarmCoordinators]:
    if (why := missing()) is not None:
        pytest.skip(why)
    made = WarmCoordinators()
    yield made
    made.close()


def test_a_busy_day_on_which_others_take_over_is_explained_by_its_books(
    warm: WarmCoordinators, plain_bundle: Path, tmp_path: Path, fresh_database: Callable[[], str]
) -> None:
    points = (Point("sendto", 150), Point("recvfrom", 120))
    day = play_day(warm, tmp_path / "day", plain_bundle, fresh_database(), points, kind=WithStandby)
    assert day.wrong == []
    assert day.died >= 1


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def test_a_busy_day_with_deaths_in_it_is_explained_by_its_books(
    warm: WarmCoordinators, plain_bundle: Path, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    make: Callable[[], Any] = (lambda: None) if kind == "sqlite" else request.getfixturevalue("fresh_database")
    day = play_day(warm, tmp_path / "day", plain_bundle, make(), POINTS[kind])
    assert day.wrong == []
    assert day.died >= 1
