"""Whole daemons that mask their changes: what a user would start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from running_daemon import RunningDaemon

from coordinator.operator.client import Operator
from edge_runtime.config import Settings, resolve

pytestmark = [pytest.mark.workshop, pytest.mark.processes]
PLAN = """
[run]
bundle = "digits"
rounds = 3
[round]
devices = 4
quorum = 1.0
deadline_s = 120
[train]
steps = 40
rate = 0.2
[aggregate]
weight = []
normalise = "none"
[privacy]
masked = 1
clip = 5.0
[evaluate]
data = "digits.npz"
"""


def settings(home: Path, address: str, name: str, digits: Path, shard: str) -> Settings:
    return resolve(
        {
            "coordinator": address,
            "device_id": name,
            "state": str(home / name),
            "data": str(digits / "digits.npz"),
            "shard": shard,
            "pause_above_c": "0",
            "throttled_from": "none",
            "max_rounds": "3",
        },
        {},
        None,
    ).settings


def test_daemons_mask_their_changes_and_the_head_learns(digits: Path, address: str, tools: Any, tmp_path: Path) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(PLAN, digits)
        daemons = [RunningDaemon(settings(tmp_path, address, f"pi-{at}", digits, f"{at + 1}/4")) for at in range(4)]
        try:
            # They leave after their last round, and not before its sum was unmasked.
            status = tools.finished(operator, run_id)
        finally:
            for daemon in daemons:
                daemon.stop()
        assert status.state == "finished", status.reason
        closed = [this_round for this_round in status.rounds if this_round.state == "closed" and this_round.round]
        assert [one.round for one in closed] == [1, 2, 3]
        assert all(len([device for device in one.devices if device.outcome == "accepted"]) == 4 for one in closed)
        start, end = status.rounds[0].accuracy, closed[-1].accuracy
        assert start is not None
        assert end is not None
        assert end > start
        counts = operator.report_counts()
        assert counts == {"accepted": 12}
