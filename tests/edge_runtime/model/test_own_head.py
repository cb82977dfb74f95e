"""Heads of a board's own by its class means: where the bundle brings class sums, and examples tell that it pays."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_rig import trained
from peer_coordinator import PeerCoordinator, order, publication
from running_daemon import RunningDaemon
from striped_data import write_data

from edge_runtime.client import Client
from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.model.adopting import chosen
from edge_runtime.model.current import open_current
from edge_runtime.model.own_head import own_head
from edge_runtime.round.work import fill_held_out, work
from firmware_tools.convert.class_sums import SUMS_FILE, write_class_sums
from firmware_tools.convert.examples import Examples
from protos.datafiles.dataset import load
from protos.errors import DataError, ModelError
from protos.model.backbone import Backbone
from protos.model.bundle import BY_CLASS, GRAM, Bundle, open_bundle, record_of
from protos.model.manifest import MANIFEST_FILE, SUMS_SCHEMA, FileRecord, Manifest
from protos.update import trees

Start = Callable[..., RunningDaemon]
Make = Callable[..., Settings]


@pytest.fixture
def with_sums(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The tiny bundle as `convert --class-sums` would leave it."""
    folder = tmp_path / "with-sums"
    shutil.copytree(bundle.path, folder)
    data = Examples(load(write_data(tmp_path / "makers.npz", 240, seed=9)), None)
    write_class_sums(folder / SUMS_FILE, Backbone(bundle), data, bundle.feature_affine(), 3, where="tiny")
    return _sealed(folder, bundle)


def _sealed(folder: Path, bundle: Bundle) -> Bundle:
    files = {**bundle.manifest.files, SUMS_FILE: record_of(folder / SUMS_FILE)}
    head = dataclasses.replace(bundle.manifest.head, sums_file=SUMS_FILE)
    manifest = dataclasses.replace(bundle.manifest, head=head, files=files, schema=SUMS_SCHEMA)
    (folder / MANIFEST_FILE).unlink()
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return open_bundle(folder)


def _bench(settings: Make, bundle: Bundle, path: Path) -> tuple[Device, Any]:
    device = Device(settings(data=str(path), sensor="none"))
    bench = device.take_up(bundle)
    work(order(bundle), bench, lambda: False)
    if bench.held_out is not None:
        fill_held_out(bench)
    return device, bench


def _swapped(path: Path) -> Path:
    """Classes 0 and 1 the other way round: here the run's head is wrong."""
    with np.load(path) as held:
        arrays = dict(held)
    arrays["y"] = np.array([1, 0, 2], np.int32)[arrays["y"]]
    np.savez(path, **arrays)
    return path


def test_sums_come_back_as_they_were_written(with_sums: Bundle, bundle: Bundle, tmp_path: Path) -> None:
    sums = with_sums.class_sums()
    assert sums is not None
    assert bundle.class_sums() is None
    data, backbone = load(tmp_path / "makers.npz"), Backbone(bundle)
    mean, scale = bundle.feature_affine()
    x = (backbone.dequantise(backbone.embed(data.x)) - mean) * scale
    wide = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)
    np.testing.assert_allclose(sums[GRAM], wide.T @ wide, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(sums[BY_CLASS][:, -1], [80, 80, 80])
    np.testing.assert_allclose(sums[BY_CLASS][1], wide[data.y == 1].sum(axis=0), rtol=1e-4, atol=1e-3)
    assert with_sums.bundle_id != bundle.bundle_id
    # A twin for an accelerator leaves them what they are.
    twin = with_sums.manifest.with_twin("twin.tflite", FileRecord("0" * 64, 9), None)
    assert (twin.schema, twin.head.sums_file) == (SUMS_SCHEMA, SUMS_FILE)
    assert Manifest.from_json(twin.to_json()) == twin


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda gram, by: (gram, -by), "counts of examples"),
        (lambda gram, by: (gram, 2 * by), "counts of examples"),
        (lambda gram, by: (0 * gram, 0 * by), "counts of examples"),
        (lambda gram, by: (gram[1:], by), "shape"),
        (lambda gram, by: (np.full_like(gram, np.nan), by), "NaN|finite"),
    ],
)
def test_sums_that_no_examples_have_are_refused(with_sums: Bundle, bundle: Bundle, change: Any, said: str) -> None:
    sums = with_sums.class_sums()
    assert sums is not None
    gram, by_class = change(sums[GRAM], sums[BY_CLASS])
    np.savez(with_sums.path / SUMS_FILE, allow_pickle=False, **{GRAM: gram, BY_CLASS: by_class})
    with pytest.raises(Exception, match=said) as caught:
        _sealed(with_sums.path, bundle).class_sums()
    assert type(caught.value).__name__ in ("ModelError", "ShapeError", "NonFiniteError")


def test_class_sums_need_every_class_and_a_head_that_has_use_for_them(bundle: Bundle, tmp_path: Path) -> None:
    data = load(write_data(tmp_path / "makers.npz", 60)).select(np.arange(0, 60, 3))
    with pytest.raises(DataError, match=r"no example of 2 of 3 classes: 1, 2"):
        write_class_sums(
            tmp_path / "s.npz", Backbone(bundle), Examples(data, None), bundle.feature_affine(), 3, where="t"
        )
    manifest = bundle.manifest
    with pytest.raises(ModelError, match="with class sums it must be"):
        dataclasses.replace(manifest, head=dataclasses.replace(manifest.head, sums_file=SUMS_FILE))


def test_a_board_of_other_ways_gets_a_head_of_its_own_from_training_examples_alone(
    settings: Make, with_sums: Bundle, tmp_path: Path
) -> None:
    path = _swapped(write_data(tmp_path / "own.npz", 150, test=30))
    device, bench = _bench(settings, with_sums, path)
    try:
        head = trained(with_sums, tmp_path)
        found = own_head(head, bench)
        assert found is not None
        share, own = found
        assert 0.5 < share <= 1
        again = own_head(head, bench)
        assert again is not None
        assert trees.version(again[1]) == trees.version(own), "the same examples give the same bits"
        plain = chosen(head, with_sums, bench, None, adopt="better", personally=False)
        taken = chosen(head, with_sums, bench, None, adopt="better", personally=True)
        assert taken.own is not None
        assert plain.own is not None
        assert taken.own.examples == 30, "nothing was chosen by held-out examples: all of them judge"
        assert taken.own.correct >= plain.own.correct
        assert taken.evaluation == plain.evaluation, "the coordinator hears of the published head"
    finally:
        device.close()


def test_a_head_of_its_own_that_held_out_examples_speak_against_is_left(
    settings: Make, with_sums: Bundle, tmp_path: Path
) -> None:
    """Training examples of one way, held-out ones of the other: what training tells is wrong here."""
    path = write_data(tmp_path / "own.npz", 150, test=30)
    with np.load(path) as held:
        arrays = dict(held)
    arrays["y"] = np.where(arrays["is_test"], arrays["y"], np.array([1, 0, 2], np.int32)[arrays["y"]]).astype(np.int32)
    np.savez(path, **arrays)
    device, bench = _bench(settings, with_sums, path)
    try:
        head = trained(with_sums, tmp_path)
        taken = chosen(head, with_sums, bench, None, adopt="always", personally=True)
        assert taken.head is not None
        assert taken.own is not None
        assert taken.evaluation is not None
        assert taken.own.correct >= taken.evaluation.correct
    finally:
        device.close()


def test_without_held_out_examples_training_ones_decide_and_few_leave_the_runs_head(
    settings: Make, with_sums: Bundle, tmp_path: Path
) -> None:
    head = trained(with_sums, tmp_path)
    for count, moved in ((90, True), (12, False), (1, False)):
        path = _swapped(write_data(tmp_path / f"own-{count}.npz", count))
        device, bench = _bench(settings, with_sums, path)
        try:
            taken = chosen(head, with_sums, bench, None, adopt="better", personally=True)
            assert taken.head is not None
            assert (taken.share > 0) == moved
            assert (trees.version(taken.head) != trees.version(head)) == moved
            assert "no own held-out examples" in taken.reason
            assert all(np.isfinite(array).all() for array in taken.head.values())
        finally:
            device.close()


def test_sums_that_are_of_no_use_leave_the_board_what_it_had_before(
    settings: Make, with_sums: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    sums = with_sums.class_sums()
    assert sums is not None
    np.savez(with_sums.path / SUMS_FILE, allow_pickle=False, **{GRAM: sums[GRAM], BY_CLASS: -sums[BY_CLASS]})
    broken = _sealed(with_sums.path, bundle)
    device, bench = _bench(settings, broken, write_data(tmp_path / "own.npz", 90, test=15))
    try:
        assert own_head(trained(broken, tmp_path), bench) is None
    finally:
        device.close()


@pytest.mark.parametrize("held_out", [0, 15])
def test_a_board_that_asks_for_few_bits_works_with_the_head_on_so_many_and_is_judged_by_it(
    settings: Make, bundle: Bundle, tmp_path: Path, held_out: int
) -> None:
    device, bench = _bench(settings, bundle, write_data(tmp_path / "own.npz", 90, test=held_out))
    try:
        head = trained(bundle, tmp_path)
        taken = chosen(head, bundle, bench, None, adopt="better", personally=False, bits=2)
        assert taken.head is not None
        assert trees.shapes(taken.head) == trees.shapes(head)
        for column in taken.head["out_kernel"].T:
            assert len(np.unique(column)) <= 4
        np.testing.assert_array_equal(taken.head["out_bias"], head["out_bias"])
        if held_out:
            assert taken.own == bench.held_out.evaluate(taken.head, bundle, bench.head)
            assert taken.evaluation == bench.held_out.evaluate(head, bundle, bench.head)
        whole = chosen(head, bundle, bench, None, adopt="better", personally=False, bits=32)
        assert whole.head is not None
        assert trees.version(whole.head) == trees.version(head)
    finally:
        device.close()


def test_a_daemon_says_how_many_bits_its_head_has(started: Start, bundle: Bundle, tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz", 60, test=9)
    head = trained(bundle, tmp_path)
    peer = PeerCoordinator(bundle)
    peer.orders.append(publication(bundle, head))
    try:
        running = started(peer, head_bits=3)
        peer.until(lambda: bool(peer.receptions))
        with Client(tmp_path / "state" / "model.sock") as client:
            info = client.info()
            answer = client.predict(np.zeros((2, 8, 8, 1), np.uint8))
        running.stop()
        assert peer.holdings[-1].published == f"run-1/{trees.version(head)}", "it is not sent again"
        assert (info["bits"], info["version"] != trees.version(head)) == (3, True)
        assert np.isfinite(answer["scores"]).all()
        model = open_current(tmp_path / "state")
        assert model is not None
        assert all(len(np.unique(column)) <= 8 for column in model.head["out_kernel"].T)
    finally:
        peer.stop()


def test_a_daemon_with_examples_of_one_class_works_with_a_finite_head_of_its_own_after_a_restart_too(
    started: Start, with_sums: Bundle, tmp_path: Path
) -> None:
    write_data(tmp_path / "data.npz", 60, y=np.full(60, 2, np.int32), is_test=np.zeros(60, bool))
    head = trained(with_sums, tmp_path)
    peer = PeerCoordinator(with_sums)
    peer.orders.extend([order(with_sums, 1), publication(with_sums, head)])
    try:
        running = started(peer, personal_head="on")
        peer.until(lambda: bool(peer.receptions))
        running.stop()
        model = open_current(tmp_path / "state")
        assert model is not None
        assert model.about.personal > 0
        assert model.about.published_version == trees.version(head)
        assert all(np.isfinite(array).all() for array in model.head.values())
        before = len(peer.holdings)
        again = started(peer, personal_head="on")
        peer.until(lambda: len(peer.holdings) > before)
        again.stop()
        kept = open_current(tmp_path / "state")
        assert kept is not None
        assert kept.about.version == model.about.version
    finally:
        peer.stop()
