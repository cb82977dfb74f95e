"""Data that grow while the daemon runs: by the socket, the inbox and the command line; each round has what is there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon
from striped_data import write_data

from edge_runtime.client import Client, ModelError
from edge_runtime.daemon.device import Device
from edge_runtime.data.store import Bounds, ExampleStore
from edge_runtime.round.inputs.examples import LocalExamples
from protos.datafiles.formats.collected import RAW
from protos.model.bundle import Bundle

Start = Callable[..., RunningDaemon]


@pytest.fixture
def store(tmp_path: Path) -> ExampleStore:
    made = ExampleStore(tmp_path / "own")
    with np.load(write_data(tmp_path / "first.npz", 12, seed=3)) as held:
        for x, y in zip(held["x"], held["y"], strict=True):
            made.add(x, str(y))
    return made


def test_what_came_since_the_last_round_is_in_the_next_and_costs_only_its_own_embedding(
    peer: PeerCoordinator, started: Start, bundle: Bundle, store: ExampleStore, tmp_path: Path
) -> None:
    with np.load(write_data(tmp_path / "more.npz", 9, seed=4)) as held:
        more, labels = held["x"], [str(one) for one in held["y"]]
    peer.orders.append(order(bundle, 1))
    running = started(peer, data=str(store.folder))
    peer.until(lambda: len(peer.reports) == 1)
    with Client(tmp_path / "state" / "model.sock") as board:
        first = board.add(more[0], labels[0])
        waiting = board.add(more[1])
        with pytest.raises(ModelError, match="is no name of a class"):
            board.add(more[2], " ")
    inbox = store.folder / "inbox" / labels[2]
    inbox.mkdir(parents=True)
    np.save(inbox / ".part.npy", more[2])
    (inbox / ".part.npy").rename(inbox / "x.npy")
    peer.orders.append(order(bundle, 2))
    peer.until(lambda: len(peer.reports) == 2)
    assert {entry.name for entry in store.entries()} > {first, waiting}
    store.label([waiting], labels[1])
    store.keep(Bounds(most_count=10))
    peer.orders.append(order(bundle, 3))
    peer.until(lambda: len(peer.reports) == 3)
    running.stop()
    counts = [(peer.read(index).examples, peer.read(index).embedded) for index in range(3)]
    assert counts == [(12, 12), (14, 2), (10, 1)]
    assert peer.joins[-1].train_examples == 10, "the card is what is so before the report comes"


def test_a_folder_that_is_no_store_takes_no_examples(peer: PeerCoordinator, started: Start, tmp_path: Path) -> None:
    running = started(peer)
    peer.until(lambda: bool(peer.holdings))
    with (
        Client(tmp_path / "state" / "model.sock") as board,
        pytest.raises(ModelError, match="takes no examples; let `data` name a store"),
    ):
        board.add(np.zeros((8, 8, 1), np.uint8), "0")
    running.stop()


def test_a_store_is_stamped_anew_by_every_change_and_by_nothing_else(store: ExampleStore) -> None:
    examples = LocalExamples(str(store.folder), None, store.folder.parent / "state" / "examples")
    stamps = [examples.stamp()]
    assert examples.stamp() == stamps[0]
    with np.load(write_data(store.folder.parent / "more.npz", 2, seed=5)) as held:
        store.add(held["x"][0], "1")
    stamps.append(examples.stamp())
    (taken, *_) = sorted((store.folder / RAW).iterdir())
    taken.unlink()
    stamps.append(examples.stamp())
    assert len({*stamps}) == 3, "by the index, and by the folder when a file is taken away by hand"


def test_files_of_the_inbox_that_cannot_be_read_are_told_of_when_they_change_and_not_each_round(
    store: ExampleStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = iter([[], ["a: Permission denied"], ["a: Permission denied"], [], ["b: Permission denied"]])

    def look(self: ExampleStore) -> int:
        # Root may read every file: which of them cannot be is said here.
        self.unread = next(found)
        return 0

    monkeypatch.setattr(ExampleStore, "take_inbox", look)
    device: Any = SimpleNamespace(settings=SimpleNamespace(data=str(store.folder)), _own_store=store, store_fault="")
    told = []
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            Device.take_inbox(device)
            told.append(len(caplog.records))
    assert told == [0, 1, 1, 1, 2]
