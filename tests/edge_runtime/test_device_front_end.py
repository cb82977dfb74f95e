"""A board with a table instead of arrays: the bundle says how its rows become examples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon
from striped_data import write_data

from protos.model.bundle import open_bundle
from protos.model.manifest import MANIFEST_FILE

Start = Callable[..., RunningDaemon]


def test_a_table_is_trained_on_without_any_code(started: Start, bundle_path: Path, tmp_path: Path) -> None:
    # Eight columns and windows of eight rows are the pictures that this model takes.
    columns = [f"c{number}" for number in range(8)]
    folder = tmp_path / "with-front-end"
    shutil.copytree(bundle_path, folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["provenance"]["front_end"] = f"windows length=8 hop=8 columns={','.join(columns)} label=kind"
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    bundle = open_bundle(folder)
    with np.load(write_data(tmp_path / "x.npz", 60)) as held:
        x, y = held["x"][..., 0], held["y"]
    lines = [",".join([*columns, "kind"])]
    for picture, label in zip(x, y, strict=True):
        lines += [",".join([*map(str, row), str(label)]) for row in picture]
    (tmp_path / "own.csv").write_text("\n".join(lines))
    peer = PeerCoordinator(bundle)
    try:
        peer.orders.append(order(bundle, evaluate=True))
        running = started(peer, data=str(tmp_path / "own.csv"), max_rounds=1)
        running.end()
        report = peer.read()
        assert (report.examples, report.embedded, report.steps_done) == (60, 60, 12)
        assert report.loss_first is not None
        assert report.loss_last is not None
        assert report.loss_last < report.loss_first
        assert peer.joins[0].train_examples == 1, "before the bundle is here a table is only listed"
        assert peer.joins[-1].train_examples == 60, "and the coordinator knows before the report comes"
    finally:
        peer.stop()
