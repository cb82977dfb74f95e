"""Devices with and without an Edge TPU: who takes part in which run, what is shipped to whom, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.operator.client import Operator
from coordinator.run.rounds.roster import Roster, engine_class
from coordinator.store.models.bundle_store import BundleStore
from protos.errors import IntegrityError
from protos.model.bundle import open_bundle, record_of
from protos.model.manifest import MANIFEST_FILE, Manifest
from protos.orders import DeviceCard, Engine, MeterCard, TrainOrder, WaitOrder
from protos.plan.plan import parse
from protos.v1 import edgejoule_pb2 as pb

CPU, CORAL = Engine("litert", "2.3", "xnnpack"), Engine("litert", "2.3", "xnnpack", "edgetpu")
Fleet = Callable[..., Any]


def card(name: str, engine: Engine) -> DeviceCard:
    return DeviceCard(name, "s", "0", "pi4", engine, MeterCard("measured"), 40, 10)


@pytest.fixture
def twinned(plain_bundle: Path) -> Path:
    """The plain bundle with a twin, which nothing runs here."""
    manifest = Manifest.from_json((plain_bundle / MANIFEST_FILE).read_bytes())
    twin = plain_bundle / "twin.tflite"
    twin.write_bytes(b"not run in these tests: twin")
    (plain_bundle / MANIFEST_FILE).write_text(manifest.with_twin(twin.name, record_of(twin), None).to_json())
    return plain_bundle


def fetched(device: Any, bundle_id: str, *, twin: bool) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    request = pb.FetchBundleRequest(bundle_id=bundle_id, edge_tpu_twin=twin)
    for part in device.stub.FetchBundle(request, timeout=20):
        if part.WhichOneof("part") == "file":
            name = part.file.name
            files[name] = b""
        else:
            files[name] += part.data
    return files


def test_an_edge_tpu_counts_only_in_a_run_whose_bundle_has_a_twin() -> None:
    assert engine_class(CORAL) == engine_class(CPU) == "litert/xnnpack"
    assert engine_class(CORAL, has_twin=True) == "litert/xnnpack+edgetpu"
    assert engine_class(CPU, has_twin=True) == "litert/xnnpack"


@pytest.mark.parametrize(
    ("has_twin", "eligible"), [(False, ["pi", "coral-1", "coral-2"]), (True, ["coral-1", "coral-2"])]
)
def test_both_kinds_share_a_run_without_a_twin_and_not_one_with_it(has_twin: bool, eligible: list[str]) -> None:
    roster = Roster(parse('[run]\nbundle = "b"\n'), has_twin=has_twin)
    for name, engine in (("pi", CPU), ("coral-1", CORAL), ("coral-2", CORAL)):
        roster.add(card(name, engine))
    assert roster.eligible() == eligible
    roster.engine = roster.chosen
    # Lost: it joins again, with a card that says so.
    roster.add(card("coral-2", CPU))
    assert ("coral-2" in roster.eligible()) is not has_twin
    told = ["left out: pi", "left out: coral-2"] if has_twin else []
    assert [line.partition(" runs")[0] for line in roster.warnings()] == told


def test_a_run_is_tied_to_the_edge_tpu_and_the_others_are_told_why_not(
    address: str, twinned: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Operator(address) as operator:
        for name in ("coral-1", "coral-2"):
            fleet(address, name, engine=CORAL).join()
        run_id = operator.start_run(tools.plan(twinned, devices=2), tmp_path)
        pi = fleet(address, "pi", engine=CPU)
        pi.join()
        assert isinstance(pi.ask(), WaitOrder)
        wanted = "pi runs litert/xnnpack, this run uses litert/xnnpack+edgetpu"
        tools.until(lambda: wanted in operator.status(run_id)[0].reason, "the reason")
        shown = {device.device_id: device.engine for device in operator.devices()}
    assert shown == {"coral-1": CORAL, "coral-2": CORAL, "pi": CPU}
    assert main(["devices", "--coordinator", address]) == 0
    assert "litert 2.3 (xnnpack, edgetpu)" in capsys.readouterr().out
    assert main(["devices", "--coordinator", address, "--json"]) == 0
    shown_as_json = json.loads(capsys.readouterr().out)["devices"]
    assert sorted(row["engine"]["accelerator"] for row in shown_as_json) == ["", "edgetpu", "edgetpu"]


def test_the_twin_travels_only_to_a_device_that_asks_for_it(
    address: str, twinned: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(twinned), tmp_path)
    device = fleet(address, "a", engine=CORAL)
    device.join()
    order = device.order()
    assert isinstance(order, TrainOrder)
    without, whole = (fetched(device, order.bundle_id, twin=twin) for twin in (False, True))
    assert set(whole) - set(without) == {"twin.tflite"}
    assert whole["twin.tflite"] == b"not run in these tests: twin"
    assert {name: whole[name] for name in without} == without


def test_a_plan_whose_bundle_lost_its_twin_is_refused(twinned: Path, tmp_path: Path) -> None:
    kept = BundleStore(tmp_path / "bundle_store").keep(open_bundle(twinned))
    assert kept.twin_path is not None
    kept.twin_path.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        BundleStore(tmp_path / "bundle_store").open(kept.bundle_id)
