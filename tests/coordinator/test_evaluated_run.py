"""A run of a real bundle on real data: devices that train through TFLite, evaluation each round, export."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator import cli
from coordinator.operator.client import Operator
from coordinator.run.evaluation import key_of
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from protos.datafiles.dataset import Dataset, load
from protos.errors import LabelError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.engine import open_interpreter
from protos.model.head import Head
from protos.model.head_kinds.weight_grids import KINDS, Rounding, round_head
from protos.update import codecs, trees
from protos.update.tensors import decode

pytestmark = pytest.mark.workshop
Fleet = Callable[..., Any]

PLAN = """
[run]
bundle = "digits"
rounds = 3
[round]
devices = 2
[train]
steps = 60
rate = 0.2
inputs = { weight_decay = 0.0 }  # FedNova then counts just the steps
[evaluate]
data = "digits.npz"
"""


def _work(device: Any, bundle: Any, x: Any, y: Any, rounds: int) -> None:
    """What a device does: real steps through the head's signatures, a real codec."""
    head, rng = Head(bundle), np.random.default_rng(1)
    for number in range(1, rounds + 1):
        order = device.order(round=number)
        received = decode(order.head, trees.shapes(head.read()))
        head.write(received)
        for _ in range(order.steps):
            batch = rng.integers(0, len(y), head.batch_size)
            head.train_step(x[batch], y[batch], **order.inputs)
        change = trees.subtract(head.read(), received)
        codec = codecs.build(order.codec.name, order.codec.parameters)
        update, _ = codec.encode(change, codec.init(trees.shapes(change)), codecs.generator(order.seed, "encode"))
        assert device.send(device.answer(order, 0.0, update=update)).verdict == "accepted"


def _published(state: Path, version: str) -> Any:
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.reading() as connection:
            return heads.get(connection, version)
    finally:
        db.close()


def test_training_lifts_the_accuracy_and_the_export_keeps_it(
    digits: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(digits / "digits", tmp_path / "digits")
    shutil.copy(digits / "digits.npz", tmp_path)
    bundle = open_bundle(tmp_path / "digits")
    data = load(tmp_path / "digits.npz").train()
    backbone = Backbone(bundle)
    x = backbone.dequantise(backbone.embed(data.x))
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(PLAN, tmp_path)
        workers = []
        for place, name in enumerate("ab"):
            mine = slice(place, None, 2)
            device = fleet(address, name, train_examples=len(data.y[mine]))
            device.join()
            workers.append(threading.Thread(target=_work, args=(device, bundle, x[mine], data.y[mine], 3)))
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
        status = operator.status(run_id)[0]
        assert status.state == "finished", status.reason
        accuracies = [this_round.accuracy for this_round in status.rounds if this_round.accuracy is not None]
        losses = [this_round.loss for this_round in status.rounds if this_round.loss is not None]
        assert len(accuracies) == len(losses) == 4
        assert accuracies[3] > accuracies[0], accuracies
        assert losses[3] < losses[0]
        head = Head(bundle)
        held_out = load(tmp_path / "digits.npz").test()
        embedded = backbone.dequantise(backbone.embed(held_out.x))
        zero = head.evaluate(embedded, held_out.y)
        assert accuracies[0] == zero.accuracy, "the bundle's own head"
        assert losses[0] == pytest.approx(zero.loss)

        out = tmp_path / "model.tflite"
        assert cli.main(["export", run_id, "-o", str(out), "--json", "--coordinator", address]) == 0
        summary = json.loads(capsys.readouterr().out.split("\n", 1)[1])
        assert summary["float_accuracy"] == pytest.approx(accuracies[3], abs=1e-9)
        assert summary["exported_accuracy"] >= summary["float_accuracy"] - 0.01
        open_interpreter(out)

        words = ["evaluate", run_id, "--bits", "32,4,2", "--coordinator", address]
        assert cli.main([*words, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["schema"], found["head_version"]) == ("edgejoule.evaluation/1", summary["head_version"])
        by_kind = {(row["bits"], row["ranges"], row["granularity"]): row for row in found["heads"]}
        assert len(by_kind) == 1 + 2 * len(KINDS)
        assert by_kind[32, *KINDS[0]]["accuracy"] == pytest.approx(accuracies[3], abs=1e-9)
        best = _published(tmp_path / "state", summary["head_version"])
        for (bits, *kind), row in by_kind.items():
            head.write(round_head(best, Rounding(bits, *kind)))
            again = head.evaluate(embedded, held_out.y)
            assert (row["accuracy"], row["loss"]) == pytest.approx((again.accuracy, again.loss), abs=1e-6)
        assert by_kind[2, "mse", "channel"]["loss"] < by_kind[2, "minmax", "tensor"]["loss"]
        assert cli.main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["bits", "32", "4", "2"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "80")
            assert cli.main(words) == 0
        narrow = capsys.readouterr().out
        assert max(map(len, narrow.splitlines())) <= 80
        assert sorted(narrow.split()) == sorted([*"\n".join(lines).split(), "bits", "32", "4", "2"]), "stacked, not cut"
        for wrong, what in (("0", "0 bits"), ("four", "no list of widths"), ("8,33", "33 bits")):
            assert cli.main(["evaluate", run_id, "--bits", wrong, "--coordinator", address]) == 2
            assert what in capsys.readouterr().err
        assert cli.main(["evaluate", run_id, "--head", "sha256:no", "--coordinator", address]) != 0
        assert "no head called" in capsys.readouterr().err
        np.savez(tmp_path / "wrong.npz", x=held_out.x, y=held_out.y + 5)
        with pytest.raises(LabelError):
            operator.start_run(PLAN.replace("digits.npz", "wrong.npz"), tmp_path)

    # The data may go; what was embedded is kept.
    (tmp_path / "digits.npz").unlink()
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        again = operator.export(run_id, tmp_path / "again.tflite")
        first = operator.export(run_id, tmp_path / "first.tflite", status.rounds[0].head_version)
    assert (tmp_path / "again.tflite").read_bytes() == out.read_bytes()
    assert again.exported_accuracy is None
    assert first.head_version != again.head_version


@pytest.mark.parametrize("lost", [("digits", "digits.npz"), ("state/evaluations",)], ids=["data", "embedded"])
def test_an_open_run_with_evaluation_goes_on_after_a_restart_without_its_data_or_what_was_embedded(
    digits: Path, fleet: Fleet, tools: Any, tmp_path: Path, lost: tuple[str, ...]
) -> None:
    shutil.copytree(digits / "digits", tmp_path / "digits")
    shutil.copy(digits / "digits.npz", tmp_path)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(PLAN.replace("rounds = 3", "rounds = 1"), tmp_path)
        devices = [fleet(address, name) for name in "ab"]
        for device in devices:
            device.join()
        devices[0].send(devices[0].answer(devices[0].order(), 0.0))
        held = devices[1].answer(devices[1].order(), 0.0)
    for one in lost:
        assert (tmp_path / one).exists()
        shutil.rmtree(tmp_path / one) if (tmp_path / one).is_dir() else (tmp_path / one).unlink()
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        assert fleet(address, "b").send(held).verdict == "accepted"
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
        status = operator.status(run_id)[0]
    assert status.state == "finished"
    assert status.rounds[1].accuracy == status.rounds[0].accuracy
    assert list((tmp_path / "state/evaluations").iterdir()), "embedded again, it is kept again"


def test_embeddings_of_held_out_data_are_called_as_they_ever_were(plain_bundle: Path) -> None:
    """An older coordinator's are found: SHA-256 of bundle, type, shape, examples and labels, its first 32 digits."""
    bundle = open_bundle(plain_bundle)
    x, y = np.arange(6, dtype=np.uint8).reshape(3, 2), np.array([0, 1, 0], np.int32)
    data = Dataset(x, y, np.ones(3, np.bool_), None, ("a", "b"), "here")
    digest = hashlib.sha256(bundle.bundle_id.encode() + b"uint8(3, 2)" + x.tobytes() + y.tobytes()).hexdigest()
    assert key_of(bundle, data) == digest[:32]
