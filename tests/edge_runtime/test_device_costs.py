"""What a device does for its rounds, counted: nothing is computed, read, fetched, asked or written down twice.

Results alone would not tell: a cache that is thrown away and made again gives the same embeddings.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from edge_runtime.daemon.outbox import Outbox
from protos.datafiles import dataset
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle

Start = Callable[..., RunningDaemon]
TRAIN = 81


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts rows embedded, backbones loaded, data read, reports stored, files forced to disk, where it happens."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str, key: str, size: Callable[..., int] = lambda *words, **more: 1) -> None:
        real = getattr(owner, name)

        def noted(*words: Any, **more: Any) -> Any:
            found[key] += size(*words, **more)
            return real(*words, **more)

        monkeypatch.setattr(owner, name, noted)

    count(Backbone, "embed", "rows embedded", lambda self, raw: len(raw))
    count(Backbone, "__init__", "backbones loaded")
    count(dataset, "load", "data read")
    count(Outbox, "put", "reports stored")
    count(os, "fsync", "files forced to disk")
    return found


def since(found: Counter[str]) -> dict[str, int]:
    """What was counted since the last look."""
    seen = dict(found)
    found.clear()
    return seen


def test_rounds_after_the_first_embed_nothing_and_load_no_backbone_also_after_a_restart(
    peer: PeerCoordinator, started: Start, bundle: Bundle, counted: Counter[str]
) -> None:
    peer.orders.extend([order(bundle, 1)])
    started(peer, max_rounds=1).end()
    first = since(counted)
    assert (first["rows embedded"], first["reports stored"]) == (TRAIN, 1)
    assert first["backbones loaded"] == 1
    for restart in (1, 2):
        peer.orders.extend([order(bundle, 2 * restart), order(bundle, 2 * restart + 1)])
        started(peer, max_rounds=2).end()
        again = since(counted)
        redone = {name: again.get(name, 0) for name in ("rows embedded", "backbones loaded", "data read")}
        assert not any(redone.values()), redone
        assert again["reports stored"] == 2
    assert (peer.fetches, len(peer.joins), len(peer.reports)) == (1, 3, 5)
    assert len(peer.leaves) == 3


def test_a_round_forces_as_much_to_disk_as_the_one_before(
    peer: PeerCoordinator, started: Start, bundle: Bundle, counted: Counter[str]
) -> None:
    """Not a file more with each round: what is kept is replaced, not piled up."""
    forced = []
    for start in range(4):
        peer.orders.append(order(bundle, start + 1))
        started(peer, max_rounds=1).end()
        forced.append(since(counted)["files forced to disk"])
    assert forced[1] == forced[2] == forced[3]
    assert forced[1] < forced[0], "the first had the bundle, the examples and the embeddings to keep"


def test_a_device_asks_once_for_each_order_and_sends_each_report_once(
    peer: PeerCoordinator, started: Start, bundle: Bundle, counted: Counter[str]
) -> None:
    peer.check_in_s = 30.0
    peer.orders.extend(order(bundle, number) for number in range(1, 6))
    started(peer, max_rounds=5).end()
    assert len(peer.holdings) == 5, "one question for each order"
    assert (len(peer.reports), len(peer.joins), peer.fetches) == (5, 1, 1)
    told = [(one.round, record.phase) for one in peer.settled for record in one.energy]
    assert len(told) == len(set(told)), "each figure is told once"


def test_an_order_whose_reports_answer_was_lost_is_not_worked_on_again(
    peer: PeerCoordinator, started: Start, bundle: Bundle, counted: Counter[str]
) -> None:
    import grpc

    left = [2]

    def lose(context: Any) -> None:
        if left[0]:
            left[0] -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the line is cut")

    peer.before_verdict = lose
    peer.orders.append(order(bundle, 1))
    started(peer, max_rounds=1).end()
    assert len(peer.reports) == 3
    assert len(set(peer.reports)) == 1, "the same bytes again"
    assert counted["rows embedded"] == TRAIN


def test_a_machine_without_a_disk_to_keep_them_on_embeds_all_the_same(
    peer: PeerCoordinator, started: Start, bundle: Bundle, counted: Counter[str], tmp_path: Path
) -> None:
    """The opposite: where the cache was taken away, every row is made again, once."""
    peer.orders.append(order(bundle, 1))
    started(peer, max_rounds=1).end()
    for path in sorted((tmp_path / "state" / "embeddings").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    since(counted)
    peer.orders.append(order(bundle, 2))
    started(peer, max_rounds=1).end()
    assert counted["rows embedded"] == TRAIN
