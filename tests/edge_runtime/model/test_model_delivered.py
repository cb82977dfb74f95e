"""The head that a run ended with comes to work on the board: whole, once, and only if it is not worse there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_rig import always, at_work, scores_of, trained
from peer_coordinator import PeerCoordinator, order, publication
from running_daemon import RunningDaemon
from striped_data import write_data

from edge_runtime.client import Client
from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.model.adopting import chosen, is_worse, personal
from edge_runtime.model.current import models_in, open_current
from edge_runtime.round.work import fill_held_out, work
from protos.energy.trace import Phase
from protos.errors import IntegrityError
from protos.model.bundle import Bundle
from protos.orders import HeadEvaluation
from protos.update import trees

Start = Callable[..., RunningDaemon]
Make = Callable[..., Settings]


def test_a_published_head_is_at_work_with_all_that_belongs_to_it(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    head = trained(bundle, tmp_path)
    peer.orders.append(publication(bundle, head))
    running = started(peer)
    peer.until(lambda: bool(peer.receptions))
    (said,) = peer.receptions
    assert (said.publication, said.adopted) == (f"run-1/{trees.version(head)}", True)
    assert said.evaluation is not None
    assert (said.evaluation.examples, sum(said.evaluation.class_examples)) == (9, 9)
    assert said.evaluation.correct >= 8
    assert peer.holdings[0].published == "", "it takes heads, and has none"
    assert peer.holdings[-1].published == said.publication
    place = tmp_path / "state" / "current"
    assert (place / "labels.txt").read_text().splitlines() == list(bundle.manifest.classes)
    about = json.loads((place / "model.json").read_text())
    assert (about["schema"], about["version"]) == ("edgejoule.model/1", trees.version(head))
    assert (about["run_id"], about["round"], about["accuracy"]) == ("run-1", 3, 0.9)
    assert about["own"]["correct"] == said.evaluation.correct
    model = open_current(tmp_path / "state")
    assert model is not None
    assert trees.version(model.head) == trees.version(head)
    with np.load(tmp_path / "data.npz") as held:
        x = held["x"][:5]
    with Client(tmp_path / "state" / "model.sock") as client:
        answer = client.predict(x)
    assert answer["version"] == trees.version(head)
    np.testing.assert_allclose(answer["scores"], scores_of(bundle, head, x), atol=1e-6)
    running.stop()
    # After a restart it says what it has, and is at work at once.
    before = len(peer.holdings)
    again = started(peer)
    peer.until(lambda: len(peer.holdings) > before)
    assert peer.holdings[before].published == said.publication
    with Client(tmp_path / "state" / "model.sock") as client:
        assert client.info()["version"] == trees.version(head)
    again.stop()
    assert models_in(tmp_path / "state") == 1


def test_a_head_that_is_worse_here_is_not_taken_and_the_coordinator_knows_why(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    good, bad = trained(bundle, tmp_path), always(bundle, 1)
    peer.orders.append(publication(bundle, good))
    running = started(peer)
    peer.until(lambda: len(peer.receptions) == 1)
    peer.orders.append(publication(bundle, bad, "run-2"))
    peer.until(lambda: len(peer.receptions) == 2)
    said = peer.receptions[1]
    assert not said.adopted
    assert "it is worse here: 3 of 9 own examples right" in said.reason
    assert said.evaluation is not None
    assert (said.evaluation.correct, said.evaluation.class_correct) == (3, (0, 3, 0))
    model = open_current(tmp_path / "state")
    assert model is not None
    assert model.about.version == trees.version(good)
    assert peer.holdings[-1].published == said.publication, "it is not sent again"
    running.stop()
    peer.orders.append(publication(bundle, bad, "run-3"))
    always_takes = started(peer, adopt="always")
    peer.until(lambda: len(peer.receptions) == 3)
    assert peer.receptions[2].adopted
    always_takes.stop()
    peer.orders.append(publication(bundle, good, "run-4"))
    never_takes = started(peer, adopt="never")
    peer.until(lambda: len(peer.receptions) == 4)
    assert (peer.receptions[3].adopted, peer.receptions[3].reason) == (False, "the settings say adopt = never")
    never_takes.stop()


def test_of_a_run_that_hides_its_devices_only_what_became_of_the_head_is_told(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.orders.append(publication(bundle, trained(bundle, tmp_path), evaluate=False))
    running = started(peer)
    peer.until(lambda: bool(peer.receptions))
    said = peer.receptions[0]
    assert (said.adopted, said.evaluation, said.reason) == (True, None, "")
    model = open_current(tmp_path / "state")
    assert model is not None
    assert model.about.own is not None, "it was judged here all the same"
    running.stop()


def test_a_head_that_is_not_what_it_is_called_is_not_taken_and_work_goes_on(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    peer.orders.append(publication(bundle, always(bundle, 0), head_version="head-000000000000"))
    only_named = publication(bundle, always(bundle, 0), "run-2", base="head-000000000001")
    assert only_named.publication is not None
    peer.orders.append(replace(only_named, publication=replace(only_named.publication, head=())))
    peer.orders.append(order(bundle))
    running = started(peer, max_rounds=1)
    running.end()
    assert peer.read().steps_done == 12
    assert peer.receptions == []
    assert open_current(tmp_path / "state") is None
    # For a while it says that it has dealt with it, so that it is not sent again and again.
    assert peer.holdings[1].published == "run-1/head-000000000000"
    assert not peer.holdings[2].head_version, "and asks for whole heads"


def test_an_ordered_look_at_the_head_goes_into_the_report(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    head = trained(bundle, tmp_path)
    peer.orders.extend([order(bundle, 1, head=head), order(bundle, 2, head=head, evaluate=True)])
    peer.orders.append(order(bundle, 3, head=always(bundle, 2), evaluate=True))
    started(peer, max_rounds=3).end()
    first, second, third = (peer.read(index) for index in range(3))
    assert first.evaluation is None, "nobody asked"
    assert second.evaluation is not None
    assert second.evaluation.head_version == second.head_version
    assert (second.evaluation.examples, second.evaluation.class_examples) == (9, (3, 3, 3))
    assert third.evaluation is not None
    assert (third.evaluation.correct, third.evaluation.class_correct) == (3, (0, 0, 3))
    assert second.embedded == third.embedded == 0, "held-out examples are no training examples"
    assert next(phase_energy for phase_energy in second.energy if phase_energy.phase is Phase.EMBED).covered_s > 0


def test_without_held_out_examples_there_is_nothing_to_say(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    write_data(tmp_path / "data.npz")
    peer.orders.extend([order(bundle, 1, evaluate=True), publication(bundle, always(bundle, 0))])
    running = started(peer)
    peer.until(lambda: bool(peer.receptions))
    assert peer.read().evaluation is None
    assert (peer.receptions[0].adopted, peer.receptions[0].evaluation) == (True, None)
    running.stop()


def test_worse_means_fewer_right_or_much_more_loss() -> None:
    def found(correct: int, loss: float) -> HeadEvaluation:
        return HeadEvaluation("h", 20, correct, loss)

    assert is_worse(found(9, 0.1), found(10, 5.0))
    assert not is_worse(found(10, 5.0), found(9, 0.1))
    assert not is_worse(found(10, 1.05), found(10, 1.0))
    assert is_worse(found(10, 1.2), found(10, 1.0))


def test_a_board_whose_data_differ_works_with_a_head_of_its_own(settings: Make, bundle: Bundle, tmp_path: Path) -> None:
    # Here classes 0 and 1 are the other way round: the global head is wrong, and a tuned one is right.
    path = write_data(tmp_path / "own.npz", 120, test=30)
    with np.load(path) as held:
        arrays = dict(held)
    arrays["y"] = np.array([1, 0, 2], np.int32)[arrays["y"]]
    np.savez(path, **arrays)
    device = Device(settings(data=str(path), sensor="none"))
    try:
        bench = device.take_up(bundle)
        work(order(bundle), bench, lambda: False)
        fill_held_out(bench)
        head = trained(bundle, tmp_path)
        before = bench.head.read()
        share, mixed = personal(head, bench)
        assert share > 0
        np.testing.assert_array_equal(bench.head.read()["out_bias"], before["out_bias"])
        plain = chosen(head, bundle, bench, None, adopt="better", personally=False)
        own = chosen(head, bundle, bench, None, adopt="better", personally=True)
        assert plain.own is not None
        assert own.own is not None
        assert own.own.examples == 15, "judged on the half that it was not chosen by"
        assert own.own.accuracy > plain.own.accuracy + 0.3
        assert own.evaluation == plain.evaluation, "the coordinator hears of the published head"
        assert own.head is not None
        assert own.share == share
        assert trees.version(own.head) == trees.version(mixed)
        # Data like everyone's need no head of their own: the global one is taken as it is, or hardly changed.
        model = at_work(tmp_path, bundle, mixed, personal=share, published_version=trees.version(head))
        kept = chosen(head, bundle, bench, model, adopt="better", personally=False)
        assert kept.head is None
    finally:
        device.close()


@pytest.mark.parametrize("damage", ["head.tree", "model.json", "manifest.json"])
def test_a_damaged_model_is_said_and_a_new_one_replaces_it(
    damage: str, peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "state").mkdir()
    at_work(tmp_path / "state", bundle, always(bundle, 0))
    broken = tmp_path / "state" / "current" / damage
    # The manifest is the bundle's own file under another name.
    data = broken.read_bytes()
    broken.unlink()
    broken.write_bytes(data[:-9])
    with pytest.raises((IntegrityError, Exception)):
        open_current(tmp_path / "state")
    peer.orders.append(publication(bundle, always(bundle, 2)))
    running = started(peer)
    peer.until(lambda: bool(peer.receptions))
    running.stop()
    model = open_current(tmp_path / "state")
    assert model is not None
    assert model.about.version == trees.version(always(bundle, 2))


def test_a_head_answers_also_where_what_is_noted_of_it_cannot_be_written(
    peer: PeerCoordinator, started: Start, bundle: Bundle, tmp_path: Path
) -> None:
    # The note of the last publication cannot take the place of a folder: as on a disk that is full by then.
    (tmp_path / "state" / "published").mkdir(parents=True)
    at_work(tmp_path / "state", bundle, always(bundle, 0))
    running = started(peer, adopt="always")
    peer.until(lambda: bool(peer.holdings))
    new = always(bundle, 2)
    with Client(tmp_path / "state" / "model.sock") as client:
        assert client.info()["version"] == trees.version(always(bundle, 0))
        peer.orders.append(publication(bundle, new))
        peer.until(lambda: client.info()["version"] == trees.version(new))
    (tmp_path / "state" / "published").rmdir()
    running.stop()


def test_a_switch_is_a_link_and_the_folders_of_the_last_few_stay(bundle: Bundle, tmp_path: Path) -> None:
    folders = []
    for index in range(5):
        at_work(tmp_path, bundle, always(bundle, index % 3), f"run-{index}")
        assert (tmp_path / "current").is_symlink()
        folders.append((tmp_path / "current").resolve())
    assert len(set(folders)) == 5
    assert [folder.exists() for folder in folders] == [False, False, True, True, True]
    assert not [name for name in os.listdir(tmp_path / "models") if name.startswith(".")]
