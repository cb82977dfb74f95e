"""What the landed version wrote is read by this one, with the same meaning.

The files under `landed/` were written by :mod:`write_golden`, running on commit dcb89ca. Encoder and decoder of one
version agree with each other also where both changed; these bytes did not change with them. Where a later version has
to refuse one of them, the test says with which words, and those lead on.

A store database of that version is read in `tests/coordinator/test_store_layouts.py`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_values import said, without_news

from edge_runtime.daemon.outbox import Outbox
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.costs import CostHistory
from edge_runtime.round.held_heads import HeldHeads
from edge_runtime.round.inputs.embeddings import EmbeddingCache
from edge_runtime.state import layout_of
from protos.convert.cards import card_from
from protos.convert.energy import settled_from
from protos.convert.head_transfers import parse_difference
from protos.convert.orders import order_from
from protos.convert.reports import parse_report, receipt_from
from protos.convert.tensors import tensors_from
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle
from protos.orders import CodecOrder, TrainOrder
from protos.update.codecs import CODECS, build, resolve
from protos.update.downlink import NOT_EXACT, rebuild
from protos.update.tensors import decode
from protos.update.trees import Shapes, Tree, shapes, version
from protos.v1 import edgejoule_pb2 as pb

LANDED = Path(__file__).parent / "landed"
ROOT = Path(__file__).resolve().parents[2]


def _values(name: str) -> Any:
    return json.loads((LANDED / f"{name}.json").read_text())


CODED: list[dict[str, Any]] = _values("codecs")
MESSAGES: dict[str, dict[str, Any]] = _values("messages")


def _arrays(said: dict[str, Any], empty: Shapes | None = None) -> Tree:
    tree = {name: np.array(values, np.float32) for name, values in said.items()}
    return {name: array.reshape((empty or {}).get(name, array.shape)) for name, array in tree.items()}


@pytest.mark.parametrize("row", CODED, ids=lambda row: f"{row['codec']}{row['parameters']}")
def test_what_a_codec_wrote_is_read_as_the_same_numbers(row: dict[str, Any]) -> None:
    expected = _arrays(row["values"], {"nothing": (0, 4)})
    tensors = tensors_from([pb.Tensor.FromString(bytes.fromhex(one)) for one in row["wire"]])
    assert sorted({type(tensor.values).__name__ for tensor in tensors}) == row["kinds"]
    found = decode(tensors, shapes(expected))
    exact = row["codec"] not in NOT_EXACT
    for name, array in expected.items():
        # Another processor sums a rotation in another order.
        np.testing.assert_allclose(found[name], array, rtol=0 if exact else 1e-5, atol=0 if exact else 1e-6)


def test_every_codec_and_kind_of_tensor_of_then_is_among_them_and_still_has_its_name() -> None:
    kinds = {"Codebook", "EntropyCoded", "Float16", "Float32", "Rotated", "Sparse", "UniformGrid"}
    assert {kind for row in CODED for kind in row["kinds"]} == kinds
    assert {row["codec"] for row in CODED} == {
        "affine8_weights", "bucket_quantile", "bucket_uniform", "eden", "entropy_coded", "entropy_coded_mmse",
        "float16", "float32", "keep_largest", "qsgd", "sign", "uniform_stochastic",
    }  # fmt: skip
    for row in CODED:
        assert row["codec"] in CODECS
        resolve(row["codec"], row["parameters"], where="a plan of then")


def test_differences_lead_to_the_head_whose_version_was_said() -> None:
    said_then = _values("downlink")
    base = _arrays(said_then["base"])
    differences = [parse_difference(bytes.fromhex(difference)) for difference in said_then["differences"]]
    assert version(rebuild(base, differences, shapes(base))) == said_then["version"]


_READERS: dict[str, Callable[[bytes], Any]] = {
    "order": lambda data: order_from(pb.NextOrderResponse.FromString(data)),
    "report": parse_report,
    "receipt": lambda data: receipt_from(pb.ReportResponse.FromString(data)),
    "card": lambda data: card_from(pb.JoinRequest.FromString(data)),
    "settled": lambda data: settled_from([pb.SettledEnergy.FromString(data)])[0],
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_of_then_says_the_same_today(name: str) -> None:
    wire, expected = bytes.fromhex(MESSAGES[name]["wire"]), MESSAGES[name]["value"]
    value = _READERS[name.split()[0]](wire)
    assert without_news(json.loads(json.dumps(said(value))), expected) == expected


@pytest.fixture
def bundle() -> Bundle:
    return open_bundle(LANDED / "bundle")


def test_a_bundle_of_then_has_the_same_identity_manifest_and_head(bundle: Bundle) -> None:
    then = _values("bundle")
    assert bundle.bundle_id == then["identity"]
    assert without_news(said(bundle.manifest), then["manifest"]) == then["manifest"]
    assert said(bundle.initial_head()) == then["head"]


def test_its_backbone_still_runs(bundle: Bundle) -> None:
    with np.load(LANDED / "data.npz") as held:
        found = Backbone(bundle).embed(held["x"][:3])
    # Engines may differ in the last bit of int8 results.
    assert np.abs(found.astype(int) - np.array(_values("bundle")["embeddings"])).max() <= 1


def test_a_recording_of_then_comes_to_the_same_joules() -> None:
    then = _values("recording")
    command = ["measure", "--sensor", f"replay:{LANDED / 'recording.ejr'}", "--json", "-"]
    done = subprocess.run(
        [sys.executable, "-m", "edge_runtime.cli", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    del found["recording"]["file"]
    for figure in ("energy_j", "mean_w", "peak_w"):
        assert found.pop(figure) == pytest.approx(then.pop(figure), rel=1e-9), figure
    # Since then the shunt's line counts the heat that it makes itself: some percent of the interval, and no less.
    shunt, shunt_then = found["budget"].pop("shunt"), then["budget"].pop("shunt")
    assert shunt_then < shunt < 1.3 * shunt_then
    assert found.pop("budget") == pytest.approx(then.pop("budget"), rel=1e-9)
    for figure in ("uncertainty_j", "worst_case_j", "coverage_factor"):
        before = then.pop(figure)
        assert before * (1 - 1e-3) < found.pop(figure) < 1.05 * before, figure
    assert without_news(found, then) == then


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder that a device of then left behind."""
    state = Path(shutil.copytree(LANDED / "state", tmp_path / "state"))
    # That version told the newest by the time of the file, which a clone does not keep.
    newest = _values("state")["holding"]["head_version"]
    for path in (state / "heads").iterdir():
        os.utime(path, (2e9, 2e9) if path.stem == newest else (1e9, 1e9))
    return state


def test_the_state_of_a_device_of_then_is_of_a_layout_that_is_read(state: Path) -> None:
    assert layout_of(state) == 1


def test_a_letter_and_the_energy_that_waited_are_still_to_be_sent(state: Path) -> None:
    then, outbox = _values("state"), Outbox(state / "outbox")
    letters = [
        {"run_id": letter.run_id, "round": letter.round, "data": letter.data.hex()} for letter in outbox.pending()
    ]
    assert letters == then["letters"]
    assert [letter.attempt for letter in outbox.pending()] == [None], "nobody said"
    assert without_news(json.loads(json.dumps(said(outbox.settled()))), then["settled"]) == then["settled"]


def test_the_head_that_it_held_is_held(state: Path, bundle: Bundle) -> None:
    then = _values("state")["holding"]
    heads = HeldHeads(state / "heads")
    assert without_news(said(heads.holding()), then) == then
    order = TrainOrder(**{**_any_order(bundle), "base": then["head_version"], "head_version": then["head_version"]})
    assert version(heads.receive(order, bundle.initial_head())) == then["head_version"]


def test_what_its_codec_owed_is_still_owed(state: Path, bundle: Bundle) -> None:
    then = _values("state")
    order = TrainOrder(**{**_any_order(bundle), "run_id": then["run_id"], "codec": CodecOrder("sign", {})})
    owed = CodecMemory(state / "memory").recall(order, build("sign", {}), bundle.manifest.head.shapes())
    assert said(owed) == then["memory"]
    assert any(np.any(array) for array in owed.values())


def test_no_example_is_embedded_again(state: Path, bundle: Bundle) -> None:
    then = _values("state")["embeddings"]
    identity = then["identity"]
    cache = EmbeddingCache(state / "embeddings", bundle, identity["examples"], then["rows"], identity["engine"])
    assert cache.complete
    with np.load(LANDED / "data.npz") as held:
        own = held["x"][~held["is_test"]]
    assert np.abs(cache.view().astype(int) - Backbone(bundle).embed(own)).max() <= 1


def test_what_its_rounds_cost_is_known(state: Path, bundle: Bundle) -> None:
    (figures,) = _values("state")["costs"].values()
    history = CostHistory(state / "costs.json")
    assert figures.keys() == {"embedding_j", "step_j", "sending_j", "sending_s", "work_w"}
    for key, known in figures.items():
        assert history.largest(bundle.bundle_id, key) == max(known)


def _any_order(bundle: Bundle) -> dict[str, Any]:
    order = order_from(pb.NextOrderResponse.FromString(bytes.fromhex(MESSAGES["order of a whole head"]["wire"])))
    assert isinstance(order, TrainOrder)
    return {**vars(order), "bundle_id": bundle.bundle_id, "head": (), "differences": ()}
