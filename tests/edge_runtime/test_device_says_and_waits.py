"""What a daemon says of its rounds, in rows and lines, and that it waits before it asks again."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import Order, WaitOrder
from protos.v1 import edgejoule_pb2 as pb

Start = Callable[..., RunningDaemon]


class Timed(deque[Order]):
    """Orders, with when each was handed out."""

    def __init__(self, orders: Iterable[Order]) -> None:
        super().__init__(orders)
        self.at_s: list[float] = []

    def popleft(self) -> Order:
        self.at_s.append(time.monotonic())
        return super().popleft()

    def apart_s(self) -> list[float]:
        """From each to the next."""
        return [two - one for one, two in pairwise(self.at_s)]


def test_rows_and_lines_say_what_a_round_cost_and_any_answer_but_yes(
    peer: PeerCoordinator,
    started: Start,
    bundle: Bundle,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def late_the_second_time(context: Any) -> None:
        peer.verdict = pb.VERDICT_LATE if len(peer.reports) == 2 else pb.VERDICT_ACCEPTED  # type: ignore[assignment]

    caplog.set_level("INFO", "edgejoule.device")
    peer.before_verdict = late_the_second_time
    peer.orders.extend([order(bundle, 1), WaitOrder(0.3, "nothing to do"), order(bundle, 2)])
    started(peer, rows=True, max_rounds=2).end()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["round"], row["verdict"], row["steps_done"]) for row in rows] == [(1, "accepted", 12), (2, "late", 12)]
    for at, row in enumerate(rows):
        worked = {phase: value for phase, value in row["joules"].items() if phase != Phase.IDLE}
        assert row["energy_j"] == pytest.approx(sum(worked.values()))
        assert min(worked.values()) >= 0.0
        assert row["bytes_up"] == len(peer.reports[at])
        told = {phase_energy.phase: phase_energy.energy_j for phase_energy in peer.read(at).energy}
        told |= {
            phase_energy.phase: phase_energy.energy_j
            for sums in peer.settled
            if sums.round == at + 1
            for phase_energy in sums.energy
        }
        assert row["joules"] == pytest.approx({str(phase): value for phase, value in told.items()})
    assert rows[1]["joules"]["idle"] > 0.0, "and it is no part of the sum"
    assert rows[1]["energy_j"] < sum(rows[1]["joules"].values())
    lines = [record.getMessage() for record in caplog.records if "12/12 steps" in record.getMessage()]
    assert len(lines) == 2
    assert lines[0].endswith(f", {len(peer.reports[0])} B up")
    assert lines[1].endswith(f", {len(peer.reports[1])} B up, late")


def test_an_order_whose_report_was_answered_is_waited_out_longer_each_time(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders = orders = Timed([*[order(bundle, 1)] * 3, order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert [peer.read(index).round for index in range(len(peer.reports))] == [1, 2]
    # Steps of 1 and 2 s, each drawn from its upper half.
    _, first_s, second_s = orders.apart_s()
    assert first_s >= 0.5
    assert second_s >= 1.0


def test_a_coordinator_that_has_no_work_is_asked_again_when_it_said(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders = orders = Timed([WaitOrder(0.4, "soon"), WaitOrder(0.6, "soon"), order(bundle, 1)])
    started(peer, max_rounds=1).end()
    first_s, second_s = orders.apart_s()
    assert first_s >= 0.4
    assert second_s >= 0.6
