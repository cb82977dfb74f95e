"""A day of a board's life, drawn together; whole by `make test-slow`, eight hours of it always."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.device import soak
from protos.model.bundle import Bundle


@pytest.mark.processes
@pytest.mark.parametrize("hours", [8, pytest.param(24, marks=pytest.mark.slow)])
def test_data_grow_bridges_come_and_go_coordinators_restart_and_clocks_jump(
    hours: int, bundle: Bundle, tmp_path: Path
) -> None:
    found = soak.lived(tmp_path / "day", bundle, hours)
    assert soak.beyond(found) == []
    assert found["restarts_of_the_coordinator"] == 2


def test_each_thing_that_must_hold_is_looked_at() -> None:
    good = {
        "hours": 6, "daemon_alive": True, "rounds_finished": 6, "reports_accepted": 6, "heads_of_the_rows": True,
        "joules_wrong": 0, "delivered": True, "more_rss_mb": 1.0, "more_files": 1, "more_state_mb": 0.1,
    }  # fmt: skip
    assert soak.beyond(good) == []
    for key, bad in (
        ("daemon_alive", False), ("rounds_finished", 5), ("reports_accepted", 5), ("heads_of_the_rows", False),
        ("joules_wrong", 1), ("delivered", False), ("more_rss_mb", 300.0), ("more_files", 90), ("more_state_mb", 99.0),
    ):  # fmt: skip
        assert len(soak.beyond({**good, key: bad})) == 1
