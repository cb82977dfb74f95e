"""SCAFFOLD as a line of a plan: what the coordinator makes of reports, restarts, lost controls, refusals; and real
devices whose shards have no class in common."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator import cli
from coordinator.operator.client import Operator
from coordinator.store.database import Database, sqlite_url
from edge_runtime.config import resolve
from edge_runtime.daemon.device import Device
from edge_runtime.round.work import work
from protos.datafiles.dataset import load
from protos.errors import PlanError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.head import Head
from protos.plan.plan import parse
from protos.update import controls
from protos.update.tensors import decode

Fleet = Callable[..., Any]
MORE = '[train]\nsteps = 4\nrate = 0.1\ncorrection = "scaffold"\n[aggregate]\nweight = ["by_examples"]\n'


def control_of(order: Any, bundle: Any) -> Any:
    return controls.received(order.control, bundle.manifest.head.shapes())


def answer(device: Any, order: Any, change: float, *, held: bool) -> str:
    report = device.answer(order, change, control_version=order.control.version, control_held=held)
    return str(device.send(report).verdict)


def test_the_common_control_is_the_mean_of_those_on_devices_by_weight(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle, own = open_bundle(plain_bundle), {"a": 0.0, "b": 0.0}
    weights, common = {"a": 30, "b": 10}, 0.0
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle, rounds=4, devices=2, more=MORE), tmp_path)
        devices = {name: fleet(address, name, train_examples=count) for name, count in weights.items()}
        for device in devices.values():
            device.join()
        for number in (1, 2, 3):
            for name, change in (("a", 0.1 * number), ("b", -0.2)):
                order = devices[name].order(round=number)
                assert order.inputs["correction"] == 1.0
                for value in control_of(order, bundle).values():
                    np.testing.assert_allclose(value, common, rtol=1e-5, atol=1e-6)
                assert answer(devices[name], order, change, held=number > 1) == "accepted"
                # c_i+ = c_i - c + (x - y) / (K eta), with K = 4 and eta = 0.1
                own[name] += -common - change / 0.4
            common = sum(weights[name] * own[name] for name in own) / 40
        order = devices["a"].order(round=4)
        for value in control_of(order, bundle).values():
            np.testing.assert_allclose(value, common, rtol=1e-5)


@pytest.mark.parametrize("cause", ["lost", "weight"])
def test_a_new_epoch_begins_when_the_sum_cannot_hold_any_more(
    cause: str, plain_bundle: Path, tools: Any, fleet: Fleet, tmp_path: Path
) -> None:
    bundle, state = open_bundle(plain_bundle), tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=4, devices=2, more=MORE), tmp_path)
        devices = [fleet(address, name) for name in "ab"]
        for device in devices:
            device.join()
        for device in devices:
            answer(device, device.order(round=1), 0.1, held=False)
        if cause == "weight":
            card = dataclasses.replace(devices[0].card, train_examples=devices[0].card.train_examples + 5)
            devices[0].card = card
            devices[0].join()
        for device in devices:
            order = device.order(round=2)
            assert order.control.epoch == 1
            assert any(value.any() for value in control_of(order, bundle).values())
            answer(device, order, 0.1, held=not (cause == "lost" and device is devices[0]))
        order = devices[0].order(round=3)
        assert (order.control.epoch, order.control.tensors) == (3, ())
        # And from there it goes on.
        for device in devices:
            answer(device, device.order(round=3), 0.1, held=False)
        again = devices[0].order(round=4)
        assert again.control.epoch == 3
        assert any(value.any() for value in control_of(again, bundle).values())
        assert run_id
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.reading() as connection:
            notes = [str(row) for row in connection.exec_driver_sql("select * from events")]
    finally:
        db.close()
    expected = "a has lost its control variate" if cause == "lost" else "a weighs"
    assert any("controls begin anew" in note and expected in note for note in notes), notes


def test_a_report_of_a_device_that_knows_no_controls_is_refused_with_what_to_do(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle, more=MORE), tmp_path)
        device = fleet(address, "a")
        device.join()
        receipt = device.send(device.answer(device.order(round=1), 0.1))
    assert receipt.verdict == "rejected"
    assert "wrong_control: steps corrected by no control variate" in receipt.reason
    assert "install the same release" in receipt.reason


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[train]\nproximal_mu = 0.1\n", "the pull of proximal_mu holds devices back"),
        ('[train]\nmethod = "closed_form"\n', "makes no steps"),
        ('[update]\ncodec = "eden"\n[planner]\npolicy = "joules"\n', "a planner's weights change"),
        ('[aggregate]\nweight = ["by_budget"]\n[budget]\nper_day_j = 5\n', "budget change over rounds"),
        ("[train]\ninputs = { correction = 0.5 }\n", "is set by train.correction"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(text: str, why: str) -> None:
    sections: dict[str, str] = {"train": 'correction = "scaffold"\n', "aggregate": 'weight = ["by_examples"]\n'}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line[1:-1]
            continue
        kept = "" if section == "aggregate" else sections.get(section, "")
        sections[section] = f"{kept}{line}\n"
    written = "".join(f"[{name}]\n{body}" for name, body in sections.items())
    with pytest.raises(PlanError, match=why):
        parse(f'[run]\nbundle = "b"\n{written}')


def test_a_plan_that_says_nothing_corrects_whitened_steps_alone_and_keeps_its_name() -> None:
    def corrected(text: str) -> str:
        return parse(f'[run]\nbundle = "b"\n{text}').correction

    whitened = '[train]\nmethod = "closed_form+sgd"\n'
    assert (corrected(""), corrected(whitened)) == ("none", "scaffold")
    assert corrected(f"{whitened}[closed_form]\nproject = 8\n") == "none", "projected statistics whiten nothing"
    assert corrected(f"{whitened}proximal_mu = 0.1\n") == "none"
    assert corrected(f'{whitened}correction = "none"\n') == "none"
    plan = parse('[run]\nbundle = "b"')
    assert "correction" not in plan.plan_id
    assert parse('[run]\nbundle = "b"\n[train]\ncorrection = "scaffold"').plan_id != plan.plan_id


def test_check_plan_says_why_a_codec_or_bundle_does_not_go_with_it(
    plain_bundle: Path, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(tools.plan(plain_bundle, more=MORE).replace('codec = "float32"', 'codec = "sign"', 1))
    assert cli.main(["check-plan", str(path)]) != 0
    assert "would take what codec 'sign' still owes for a gradient" in capsys.readouterr().err
    path.write_text(tools.plan(plain_bundle, more=MORE))
    assert cli.main(["check-plan", str(path)]) == 0
    assert "correction" in capsys.readouterr().out
    manifest = plain_bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sgd"', '"adam"'))
    assert cli.main(["check-plan", str(path)]) != 0
    assert "and the bundle's train step is adam" in capsys.readouterr().err
    manifest.write_text(manifest.read_text().replace('"adam"', '"sgd"').replace('"correction"', '"other"'))
    assert cli.main(["check-plan", str(path)]) != 0
    assert "convert the model again" in capsys.readouterr().err
    # Where nothing was asked for, an older bundle and a codec that owes are no reason to refuse.
    path.write_text(tools.plan(plain_bundle, more='[train]\nmethod = "closed_form+sgd"\n'))
    assert cli.main(["check-plan", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correction"] == "none"
    manifest.write_text(manifest.read_text().replace('"other"', '"correction"'))
    assert cli.main(["check-plan", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correction"] == "scaffold"


@pytest.fixture
def halves(digits: Path, tmp_path: Path) -> Iterator[list[Device]]:
    """Two real devices, one with the digits 0 to 4 and one with 5 to 9."""
    with np.load(digits / "digits.npz") as whole:
        x, y = whole["x"], whole["y"]
    with ExitStack() as stack:
        made = []
        for name, low in (("a", 0), ("b", 5)):
            mine = np.flatnonzero((y >= low) & (y < low + 5))[:200]
            data = tmp_path / f"{name}.npz"
            np.savez(data, x=x[mine], y=y[mine])
            flags = {"device_id": name, "data": str(data), "state": str(tmp_path / name), "sensor": "estimate:pi4"}
            device = Device(resolve(flags, {}, None).settings)
            stack.callback(device.close)
            made.append(device)
        yield made


@pytest.mark.workshop
def test_steps_of_real_devices_end_where_the_common_objective_does(
    digits: Path, halves: list[Device], fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    """Shards without a class in common, many steps a round: through gRPC and the compiled step."""
    bundle = open_bundle(digits / "digits")
    found = {}
    for correction in ("none", "scaffold"):
        more = (
            f'[train]\nsteps = 60\nrate = 0.05\ncorrection = "{correction}"\n'
            f'inputs = {{ weight_decay = {DECAY} }}\n[aggregate]\nweight = []\nnormalise = "none"\n'
        )
        with tools.served(tmp_path / correction) as address, Operator(address) as operator:
            operator.start_run(tools.plan(digits / "digits", rounds=ROUNDS, devices=2, more=more), tmp_path)
            scripted = [
                fleet(address, half.settings.device_id, train_examples=half.summary.train_count, session=correction)
                for half in halves
            ]
            for one in scripted:
                one.join()
            head = None
            for number in range(1, ROUNDS + 1):
                for device, wire in zip(halves, scripted, strict=True):
                    order = wire.order(round=number)
                    report = work(order, device.take_up(bundle), lambda: False)
                    assert wire.send(report).verdict == "accepted"
                    device.memory.settle(order.run_id, number, accepted=True)
                    head = order.head
        assert head is not None
        found[correction] = decode(head, {one.name: one.shape for one in head})
    x, y = zip(*(shard_of(device, bundle) for device in halves), strict=True)
    best = objective(bundle, together(bundle, np.concatenate(x), np.concatenate(y)), x, y)
    above = {name: objective(bundle, tree, x, y) - best for name, tree in found.items()}
    assert above["scaffold"] < 0.2 * above["none"], above


DECAY, ROUNDS = 0.1, 12


def shard_of(device: Device, bundle: Any) -> tuple[Any, Any]:
    data, backbone = load(Path(str(device.settings.data))).train(), Backbone(bundle)
    return backbone.dequantise(backbone.embed(data.x)), data.y


def together(bundle: Any, x: Any, y: Any) -> Any:
    """The head that all examples together give, by many steps of a falling rate."""
    head, random = Head(bundle), np.random.default_rng(0)
    for step in range(4000):
        rows = random.permutation(len(y))[: head.batch_size]
        head.train_step(x[rows], y[rows], None, rate=0.1 / (1 + step / 100), weight_decay=DECAY)
    return head.read()


def objective(bundle: Any, tree: Any, x: Any, y: Any) -> float:
    """Mean over devices of the cross-entropy, and the penalty on the kernel."""
    head = Head(bundle)
    head.write(tree)
    losses = [head.evaluate(some, labels).loss for some, labels in zip(x, y, strict=True)]
    return float(np.mean(losses) + 0.5 * DECAY * np.square(tree["out_kernel"]).sum())
