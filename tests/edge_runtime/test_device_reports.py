"""Reports whose answer is lost, late, a refusal, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from coordinator.operator.failures import metadata_of
from coordinator.server.services.uploads import OversizedError
from protos.model.bundle import Bundle
from protos.v1 import edgejoule_pb2 as pb

Start = Callable[..., RunningDaemon]


def test_a_lost_acknowledgement_is_repaired_by_the_same_bytes(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    def lose_two(context: Any) -> None:
        if len(peer.reports) <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone before the answer")

    peer.before_verdict = lose_two
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert len(peer.reports) == 4
    assert peer.reports[0] == peer.reports[1] == peer.reports[2]
    assert peer.read(3).round == 2


def test_the_sensor_is_told_in_the_card_and_its_port_in_no_report(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2, sensor="estimate:pi4").end()
    (card,) = peer.joins
    assert (card.meter.sensor, card.meter.method) == ("estimate:pi4", "estimated")
    assert card.meter.id
    for index in (0, 1):
        report = peer.read(index)
        assert {one.sensor for one in report.energy} == {""}
        assert report.meter_id == card.meter.id
        assert b"estimate:" not in peer.reports[index]
    told = [one for one in peer.settled if one.energy]
    assert told
    assert all(one.meter_id == card.meter.id and {record.sensor for record in one.energy} == {""} for one in told)


@pytest.mark.parametrize("verdict", [pb.VERDICT_LATE, pb.VERDICT_REJECTED, pb.VERDICT_DUPLICATE])
def test_any_answer_ends_the_matter(
    peer: PeerCoordinator, started: Start, bundle: Bundle, verdict: int, tmp_path: Path
) -> None:
    peer.verdict = verdict  # type: ignore[assignment]
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert len(peer.reports) == 2
    assert list((tmp_path / "state" / "outbox").iterdir()) == []


def test_reports_on_which_the_coordinator_fails_do_not_block_for_ever(
    peer: PeerCoordinator, started: Start, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("edge_runtime.daemon.delivery._MOST_FAILURES", 2)

    def fail_on_the_first(context: Any) -> None:
        if peer.read().round == 1:
            context.abort(grpc.StatusCode.INTERNAL, "a bug")

    peer.before_verdict = fail_on_the_first
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert [peer.read(index).round for index in range(len(peer.reports))] == [1, 1, 2]
    assert [path.name for path in (tmp_path / "state" / "outbox").iterdir()] == ["aside"]
    assert len(list((tmp_path / "state" / "outbox" / "aside").iterdir())) == 1


def test_a_report_that_is_refused_is_set_aside_with_the_reason_and_not_sent_again(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = OversizedError("declares 900 bytes, 800 at most", where="report", fix="install the same release")

    def too_large(context: Any) -> None:
        if peer.read().round == 1:
            context.set_trailing_metadata(metadata_of(refusal))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(refusal))

    peer.before_verdict = too_large
    peer.orders.extend([order(bundle, 1), order(bundle, 2)])
    started(peer, max_rounds=2).end()
    assert [peer.read(index).round for index in range(len(peer.reports))] == [1, 2]
    outbox = tmp_path / "state" / "outbox"
    assert [path.name for path in outbox.iterdir()] == ["aside"]
    (kept,) = (outbox / "aside").iterdir()
    assert kept.read_bytes().endswith(peer.reports[0])
    (line,) = [record.getMessage() for record in caplog.records if "set aside" in record.getMessage()]
    for part in (kept.name, peer.address, "report", "declares 900 bytes, 800 at most", "install the same release"):
        assert part in line


def test_a_message_that_grpc_itself_finds_too_large_is_not_taken_for_a_refusal(
    peer: PeerCoordinator, started: Start, bundle: Bundle
) -> None:
    def exhausted_once(context: Any) -> None:
        if len(peer.reports) == 1:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls")

    peer.before_verdict = exhausted_once
    peer.orders.append(order(bundle))
    started(peer, max_rounds=1).end()
    assert len(peer.reports) == 2
