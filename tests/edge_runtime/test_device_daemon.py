"""The daemon's loop against a real gRPC coordinator on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon
from striped_data import write_data

from edge_runtime.config import Settings
from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import StopReason
from protos.v1 import edgejoule_pb2 as pb

Make = Callable[..., Settings]
Start = Callable[..., RunningDaemon]


def phases_told(peer: PeerCoordinator, round: int) -> dict[Phase, float | None]:
    records = [one for settled in peer.settled if settled.round == round for one in settled.energy]
    return {record.phase: record.energy_j for record in records}


def test_rounds_are_done_and_the_energy_of_sending_follows(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    first, second = peer.read(0), peer.read(1)
    assert (first.round, first.steps_done, first.embedded) == (1, 12, 81)
    assert (second.round, second.steps_done, second.embedded) == (2, 12, 0)
    assert (first.device_id, first.head_version, first.bundle_id) == (
        "pi-1",
        order(bundle).head_version,
        bundle.bundle_id,
    )
    for round, report in ((1, first), (2, second)):
        joules = {phase_energy.phase: phase_energy.energy_j for phase_energy in report.energy} | phases_told(
            peer, round
        )
        assert {Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND, Phase.IDLE} == set(joules)
        assert all(value is not None and value >= 0 for value in joules.values())
        assert joules[Phase.SEND]
    assert peer.leaves == ["done"]
    assert list((tmp_path / "state" / "outbox").iterdir()) == []


def test_the_card_says_who_it_is(peer: PeerCoordinator, started: Start) -> None:
    started(peer, exit_when_idle_s=0.1, budget_j=3.0, board="bench-board").end()
    (card,) = peer.joins
    assert (card.device_id, card.board, card.budget_j) == ("pi-1", "bench-board", 3.0)
    assert (card.train_examples, card.test_examples) == (81, 9)
    assert card.meter.method == "estimated"
    assert card.engine.name in ("ai-edge-litert", "tflite-runtime")


def test_a_bundle_is_fetched_once_and_kept_over_a_restart(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    for round in (1, 2):
        peer.orders.append(order(bundle, round))
        started(peer, max_rounds=1).end()
    assert peer.fetches == 1
    assert [peer.read(index).embedded for index in (0, 1)] == [81, 0]
    assert peer.joins[0].session != peer.joins[1].session


def test_a_bundle_that_arrives_damaged_is_not_used_and_asked_for_again(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.damage = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    peer.orders.append(order(bundle))
    running = started(peer, max_rounds=1)
    peer.until(lambda: bool(peer.leaves))
    assert "damaged" in peer.leaves[0]
    assert list((tmp_path / "state" / "bundles").iterdir()) == []
    peer.damage = lambda data: data
    peer.orders.append(order(bundle))
    running.end()
    assert peer.read().steps_done == 12


def test_a_finished_round_that_is_ordered_again_is_not_trained_again(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders.extend([order(bundle, 1), order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert [peer.read(index).round for index in range(len(peer.reports))] == [1, 2]


def test_a_coordinator_that_goes_away_and_comes_back_is_joined_again(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    running = started(peer, max_rounds=1)
    peer.until(lambda: bool(peer.joins))
    peer.stop()
    again = PeerCoordinator(bundle, peer.address)
    try:
        again.orders.append(order(bundle))
        running.end()
        assert len(again.joins) == 1
        assert again.joins[0].session == peer.joins[0].session
        assert again.read().steps_done == 12
    finally:
        again.stop()


def test_a_coordinator_that_forgot_the_session_is_joined_again_and_told_the_energy(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    def forget(context: Any) -> None:
        peer.forget()

    peer.before_verdict = forget
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert len(peer.joins) >= 2
    assert Phase.SEND in phases_told(peer, 1)


def test_an_order_that_cannot_be_done_is_declined_with_the_reason(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders.extend([order(bundle, 1, inputs={"rat": 0.1}), order(bundle, 2)])
    started(peer, max_rounds=1).end()
    assert "did you mean 'rate'?" in peer.leaves[0]
    assert [peer.read(index).round for index in range(len(peer.reports))] == [2]


def test_a_budget_without_a_sensor_is_declined_and_nothing_is_trained(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders.append(order(bundle, 1, budget_j=1.0))
    running = started(peer, sensor="none")
    peer.until(lambda: len(peer.joins) == 2)
    running.stop()
    assert "no sensor" in peer.leaves[0]
    assert peer.reports == []


def test_data_that_do_not_fit_the_ordered_bundle_are_a_decline_until_they_change(
    peer: PeerCoordinator, started: Start, bundle: Bundle, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.daemon.serving._LOOK_EACH_S", 0.1)
    write_data(data, y=np.arange(90) % 4)
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1)
    peer.until(lambda: len(peer.joins) == 2)
    assert "label 3" in peer.leaves[0]
    assert "22 of 90 examples are bad" in peer.leaves[0]
    assert peer.joins[1].declined_run == "run-1"
    assert "label 3" in peer.joins[1].reason
    write_data(data)
    peer.until(lambda: len(peer.joins) == 3)
    assert (peer.joins[2].declined_run, peer.joins[2].reason) == ("", "")
    peer.orders.append(order(bundle))
    peer.until(lambda: len(peer.reports) == 1)
    assert peer.read().steps_done == 12


def test_a_stop_request_sends_what_was_trained_and_leaves(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders.extend([order(bundle, 1), order(bundle, 2, steps=10_000_000, deadline_s=600.0)])
    running = started(peer)
    peer.until(lambda: len(peer.reports) == 1)
    while peer.orders:
        running.stopping.wait(0.01)
    running.stopping.wait(0.5)
    running.stop()
    assert peer.leaves == ["test"]
    if len(peer.reports) == 2:
        last = peer.read()
        assert (last.round, last.stop_reason) == (2, StopReason.SHUTDOWN)
        assert 0 < last.steps_done < 10_000_000


def test_a_coordinator_that_goes_down_during_the_goodbye_is_no_error(peer: PeerCoordinator, started: Start) -> None:
    peer.goes_down = True
    running = started(peer)
    peer.until(lambda: len(peer.joins) == 1)
    running.stop()  # raises what ended the daemon
    assert peer.leaves == []


def test_a_coordinator_that_refuses_a_question_does_not_end_the_daemon(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.refusals = 2
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1).end()
    assert peer.refusals == 0
    assert peer.read().steps_done == 12


def test_waiting_for_a_run_to_begin_is_no_cost_of_that_run(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    peer.orders.append(order(bundle, 1))
    running = started(peer, max_rounds=2)
    peer.until(lambda: bool(peer.settled))
    running.stopping.wait(1.0)
    ordered_s = time.monotonic()
    peer.orders.append(order(bundle, 1, run_id="run-2"))
    running.end()
    ended_s = time.monotonic()
    told = [one for settled in peer.settled if settled.run_id == "run-2" for one in settled.energy]
    (idle,) = [phase_energy for phase_energy in told if phase_energy.phase is Phase.IDLE]
    assert idle.covered_s + idle.uncovered_s <= ended_s - ordered_s


@pytest.mark.parametrize("verdict", [pb.VERDICT_LATE, pb.VERDICT_REJECTED])
def test_an_order_of_a_further_attempt_is_done_and_the_same_order_is_not_done_twice(
    peer: PeerCoordinator, started: Start, bundle: Bundle, verdict: int
) -> None:
    def only_the_second(context: Any) -> None:
        peer.verdict = verdict if len(peer.reports) == 1 else pb.VERDICT_ACCEPTED  # type: ignore[assignment]

    peer.before_verdict = only_the_second
    peer.orders.extend([order(bundle, attempt=number) for number in (1, 1, 2, 2)])
    peer.orders.append(order(bundle, 2, attempt=1))
    started(peer, max_rounds=3).end()
    assert [(one.round, one.attempt) for one in map(peer.read, range(len(peer.reports)))] == [(1, 1), (1, 2), (2, 1)]
    sent = {(one.round, one.attempt) for one in peer.settled if any(e.phase is Phase.SEND for e in one.energy)}
    assert sent >= {(1, 1), (1, 2)}, "each attempt tells what it cost"
