"""A run goes on by what happens, and not by the next look at the clock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.server import run_scheduler

Fleet = Callable[..., Any]


def test_rounds_follow_each_other_without_waiting_for_the_clock(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_scheduler, "TICK_S", 3600.0)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        device = fleet(address, "a")
        device.join()
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3), tmp_path)
        for number in (1, 2, 3):
            device.send(device.answer(device.order(round=number), 1.0))
        assert tools.finished(operator, run_id).state == "finished"
