"""Runs by closed form through a real coordinator on loopback: sums, heads, restarts, late joiners, forgetting."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from summed_devices import answer, embeddings_of

from coordinator import cli
from coordinator.budgets.codec_error import report_bytes
from coordinator.budgets.cold_start import prices_of
from coordinator.operator.client import Operator
from coordinator.run import forgetting
from coordinator.run.reports.statistics_fold import head_from, surely_better
from coordinator.server.run_scheduler import RunScheduler
from coordinator.store import runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.models.statistics import Held, examples_of, held_by
from protos.errors import PlanError, StoreError, UnknownRunError, UsageError
from protos.model.bundle import open_bundle
from protos.orders import Holding, WaitOrder
from protos.plan.plan import parse
from protos.statistics import coding
from protos.statistics.moments import moments_of
from protos.update import trees
from protos.update.tensors import as_float32, decode

Fleet = Callable[..., Any]
SIZES = {"a": 60, "b": 35, "c": 90}
CLOSED = '\n[train]\nmethod = "closed_form"\n'


def shard(name: str) -> tuple[Any, Any]:
    # Each device lacks a class: no head of one alone is any good.
    return embeddings_of(ord(name), SIZES[name], 6, 3, lowest=1 if name == "a" else 0)


def rounds_of(fleet: Fleet, address: str, bundle: Any, names: Sequence[str], number: int = 1) -> list[Any]:
    """Devices with these names join, then answer in this order."""
    devices = [fleet(address, name, train_examples=SIZES[name], session=f"{name}-{number}") for name in names]
    for device in devices:
        device.join()
    for device, name in zip(devices, names, strict=True):
        order = device.order(round=number)
        assert device.send(answer(device, order, bundle, *shard(name))).verdict == "accepted"
    return devices


def head_of(state: Path, version: str) -> Any:
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.reading() as connection:
            return heads.get(connection, version)
    finally:
        db.close()


def plan(tools: Any, bundle: Path, more: str = "", **keys: Any) -> str:
    return str(tools.plan(bundle, more=CLOSED + more, **keys))


def solved(bundle: Any, names: Sequence[str], text: str, says: Sequence[float] = ()) -> Any:
    held = [
        Held(name, SIZES[name], say, coding.encode(moments_of(*shard(name), 3, 0), 0))
        for name, say in zip(names, says or [float(SIZES[name]) for name in names], strict=True)
    ]
    return head_from(held, parse(text), bundle).tree


def test_a_round_of_statistics_publishes_the_head_of_the_exact_sums(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle, text = open_bundle(plain_bundle), plan(tools, plain_bundle, devices=3)
    with Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        rounds_of(fleet, address, bundle, "abc")
        status = tools.finished(operator, run_id)
    assert (status.state, [this_round.round for this_round in status.rounds]) == ("finished", [0, 1])
    assert status.rounds[1].head_version == trees.version(solved(bundle, "abc", text))
    by_name = {device.device_id: device for device in status.rounds[1].devices}
    assert by_name["c"].weight == pytest.approx(90 / 185)
    assert {one.steps_planned for one in by_name.values()} == {0}
    assert all(one.spent_j for one in by_name.values()), "joules of statistics are metered by phase"


def test_no_order_of_arrival_and_no_restart_changes_a_bit(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle, versions = open_bundle(plain_bundle), set()
    for place, names in enumerate(("abc", "cba", "bca")):
        state = tmp_path / f"state{place}"
        with tools.served(state) as address, Operator(address) as operator:
            run_id = operator.start_run(plan(tools, plain_bundle, devices=3), tmp_path)
            devices = [fleet(address, name, train_examples=SIZES[name]) for name in names]
            for device in devices:
                device.join()
            orders = [device.order() for device in devices]
            devices[0].send(answer(devices[0], orders[0], bundle, *shard(names[0])))
        with tools.served(state) as address, Operator(address) as operator:
            for name, order in zip(names[1:], orders[1:], strict=True):
                device = fleet(address, name, train_examples=SIZES[name])
                assert device.send(answer(device, order, bundle, *shard(name))).verdict == "accepted"
            versions.add(tools.finished(operator, run_id).rounds[1].head_version)
    assert len(versions) == 1


def test_weights_by_energy_budget_are_fixed_point_and_exact(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    budgets = "[budget]\nper_round_j = 4.0\n[budget.device]\nb = 1.0\n"
    bundle, text = open_bundle(plain_bundle), plan(tools, plain_bundle, budgets, devices=3)
    with Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        rounds_of(fleet, address, bundle, "bca")
        found = tools.finished(operator, run_id).rounds[1]
    expected = solved(bundle, "abc", text, [60 * 4.0, 35 * 1.0, 90 * 4.0])
    assert found.head_version == trees.version(expected) != trees.version(solved(bundle, "abc", text))


def test_a_device_that_was_forgotten_leaves_the_head_that_there_would_be_without_it(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, text = open_bundle(plain_bundle), plan(tools, plain_bundle, devices=3)
    with Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        with pytest.raises(UsageError, match="not over"):
            operator.forget(run_id, "a")
        rounds_of(fleet, address, bundle, "abc")
        before = tools.finished(operator, run_id).rounds[1].head_version
        with pytest.raises(UnknownRunError, match="no device 'x' sent statistics"):
            operator.forget(run_id, "x")
        assert cli.main(["forget", run_id, "c", "--json", "--coordinator", address]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["head_version"] == trees.version(solved(bundle, "ab", text))
        assert (said["devices"], said["examples"]) == (2, 95)
        status = operator.status(run_id)[0]
        assert [this_round.head_version for this_round in status.rounds] == [
            status.rounds[0].head_version,
            "",
            said["head_version"],
        ]
        # Not even the store knows it any more: neither what it sent, nor a head that was made with it.
        with pytest.raises(UnknownRunError, match="no head is called"):
            head_of(tmp_path / "state", before)
        db = Database(sqlite_url(tmp_path / "state" / "coordinator.db"))
        with db.reading() as connection:
            assert {held_sums.device_id for held_sums in held_by(connection, run_id)} == {"a", "b"}
            assert examples_of(connection, run_id) == {"a": 60, "b": 35}
            assert runs.best_head(connection, run_id) == said["head_version"]
        db.close()
        for name in "ba":
            last = operator.forget(run_id, name)
        assert last.head_version == status.rounds[0].head_version, "nobody is left: the bundle's own head"


def test_what_was_signed_of_a_head_is_put_aside_before_another_takes_its_place(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way round, an end between the two leaves a head that counts as exchanged behind the signer's back."""
    done: list[str] = []
    made, forget = RunScheduler.__init__, forgetting.forget

    class Signer:
        def sign(self, published_head: Any, head: Any) -> bytes:
            return b""

        def forget(self, run_id: str) -> None:
            done.append(f"signature of {run_id}")

    def with_signer(scheduler: RunScheduler, rooms: Any) -> None:
        made(scheduler, rooms)
        scheduler.head_signer = Signer()

    def ends(*args: Any) -> Any:
        done.append("heads")
        forget(*args)
        raise StoreError("the coordinator ends here")

    monkeypatch.setattr(RunScheduler, "__init__", with_signer)
    monkeypatch.setattr(forgetting, "forget", ends)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(plan(tools, plain_bundle, devices=2), tmp_path)
        rounds_of(fleet, address, open_bundle(plain_bundle), "ab")
        tools.finished(operator, run_id)
        with pytest.raises(StoreError, match="ends here"):
            operator.forget(run_id, "a")
    assert done == [f"signature of {run_id}", "heads"]


def test_a_late_joiner_is_added_without_asking_anybody_else(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle, text = open_bundle(plain_bundle), plan(tools, plain_bundle, devices=2)
    with Operator(address) as operator:
        first = operator.start_run(text, tmp_path)
        devices = rounds_of(fleet, address, bundle, "ab")
        tools.finished(operator, first)
        added = plan(tools, plain_bundle, f'[closed_form]\nadd_to = "{first}"\n', devices=3)
        second = operator.start_run(added, tmp_path)
        rounds_of(fleet, address, bundle, "c")
        assert all(isinstance(device.ask(), WaitOrder) for device in devices)
        found = tools.finished(operator, second).rounds[1]
        assert [device.device_id for device in found.devices] == ["c"]
        assert found.head_version == trees.version(solved(bundle, "abc", text))
        done = operator.forget(second, "a")
        assert done.head_version == trees.version(solved(bundle, "bc", text))
        assert done.also_in == (first,), "its head was made with the device too"
        assert operator.forget(first, "a").head_version == trees.version(solved(bundle, "b", text))
        with pytest.raises(PlanError, match="no run has the id 'run-0'"):
            operator.start_run(added.replace(first, "run-0"), tmp_path)


def test_a_run_whose_devices_are_all_held_ends_and_new_examples_take_the_place_of_old_ones(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, text = open_bundle(plain_bundle), plan(tools, plain_bundle, devices=2, rounds=5)
    with Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        rounds_of(fleet, address, bundle, "ab")
        status = tools.finished(operator, run_id)
        assert status.state == "finished"
        assert status.reason.startswith("lda head of 95 examples on 2 devices, shrinkage ")
        assert status.reason.endswith("; the statistics of every device that is present are held")
        assert [this_round.round for this_round in status.rounds] == [0, 1]
        more = plan(tools, plain_bundle, f'[closed_form]\nadd_to = "{run_id}"\n', devices=1)
        second = operator.start_run(more, tmp_path)
        x, y = embeddings_of(5, 70, 6, 3)
        grown = fleet(address, "a", train_examples=70, session="a-2")
        grown.join()
        assert grown.send(answer(grown, grown.order(), bundle, x, y)).verdict == "accepted"
        found = tools.finished(operator, second).rounds[1]
    held = [
        Held("a", 70, 70.0, coding.encode(moments_of(x, y, 3, 0), 0)),
        Held("b", 35, 35.0, coding.encode(moments_of(*shard("b"), 3, 0), 0)),
    ]
    assert found.head_version == trees.version(head_from(held, parse(text), bundle).tree)
    db = Database(sqlite_url(tmp_path / "state" / "coordinator.db"))
    with db.reading() as connection:
        assert examples_of(connection, second) == {
            device.device_id: device.examples for device in held_by(connection, second)
        }
        # Who only counts them reads none.
        monkeypatch.setattr("coordinator.store.models.statistics.parse_report", None)
        assert examples_of(connection, second) == {"a": 70, "b": 35}
    db.close()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"statistics": None}, "bad_statistics: no statistics; install the coordinator's release on the device"),
        ({"examples": 59}, "bad_statistics: sums of 60 examples, and 59 are said"),
        ({"examples": 61}, "too_many_examples"),
        ({"update": as_float32({"out_bias": np.zeros(3, np.float32)})}, "bad_update: statistics, and an update"),
    ],
)
def test_what_is_no_honest_report_of_statistics_is_refused_with_its_reason(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path, fields: dict[str, Any], code: str
) -> None:
    bundle = open_bundle(plain_bundle)
    with Operator(address) as operator:
        operator.start_run(plan(tools, plain_bundle), tmp_path)
        device = fleet(address, "a", train_examples=60)
        device.join()
        receipt = device.send(answer(device, device.order(), bundle, *shard("a"), **fields))
    assert receipt.verdict == "rejected"
    assert receipt.reason.startswith(code)


def test_sums_that_no_examples_have_are_refused(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(plan(tools, plain_bundle), tmp_path)
        device = fleet(address, "a", train_examples=60)
        device.join()
        order = device.order()
        honest = answer(device, order, open_bundle(plain_bundle), *shard("a"))
        squares = (0, *honest.statistics.squares[1:])
        receipt = device.send(
            dataclasses.replace(honest, statistics=dataclasses.replace(honest.statistics, squares=squares))
        )
    assert receipt.reason.startswith("bad_statistics: statistics refused")


def test_steps_from_the_closed_form_are_made_in_whitened_coordinates_and_folded_back(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle = open_bundle(plain_bundle)
    # Who was rejected is asked again in the next attempt, after this deadline.
    text = tools.plan(
        plain_bundle, devices=2, rounds=3, deadline_s=20, more='\n[train]\nmethod = "closed_form+sgd"\nsteps = 4\n'
    )
    change = {"out_bias": np.full(3, 0.25, np.float32), "out_kernel": np.full((6, 3), -0.5, np.float32)}
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        devices = rounds_of(fleet, address, bundle, "ab")
        order = devices[0].order(round=2)
        assert (order.statistics, order.steps) == (None, 4)
        assert order.basis is not None
        assert order.basis.tensors
        again = devices[0].ask(holding=Holding(basis_version=order.basis.version))
        assert again.basis == dataclasses.replace(order.basis, tensors=()), "it is sent once"
        wrong = devices[0].send(devices[0].answer(order, change))
        assert wrong.reason.startswith("wrong_basis")
    # A restart keeps the coordinates.
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        devices = [fleet(address, name, train_examples=SIZES[name]) for name in "ab"]
        for device in devices:
            device.join()
        for device in devices:
            same = device.order(round=2)
            assert same.basis.version == order.basis.version
            assert same.control is not None, "whitened steps are corrected"
            control = {"control_version": same.control.version}
            report = device.answer(same, change, basis_version=same.basis.version, **control)
            assert device.send(report).verdict == "accepted"
        tools.until(lambda: len(operator.status(run_id)[0].rounds) > 2, "round 2")
        for device in devices:
            last = device.order(round=3)
            # Controls are in the coordinates that updates are in: c = -(y - x) / (rate x steps).
            common = decode(last.control.tensors, {name: value.shape for name, value in change.items()})
            for name, value in common.items():
                np.testing.assert_allclose(value, -change[name] / (same.inputs["rate"] * 4), rtol=1e-5)
            control = {"control_version": last.control.version, "control_held": True}
            device.send(device.answer(last, change, basis_version=last.basis.version, **control))
        status = tools.finished(operator, run_id)
    start = solved(bundle, "ab", text)
    assert status.rounds[1].head_version == trees.version(start)
    moved = trees.subtract(head_of(tmp_path / "state", status.rounds[2].head_version), start)
    basis = head_from(
        [Held(n, SIZES[n], float(SIZES[n]), coding.encode(moments_of(*shard(n), 3, 0), 0)) for n in "ab"],
        parse(text),
        bundle,
    ).basis
    assert basis is not None
    for name, value in basis.back(change).items():
        np.testing.assert_allclose(moved[name], value, rtol=1e-4, atol=1e-5)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        done = operator.forget(run_id, "a")
        assert done.head_version == trees.version(solved(bundle, "b", text)), "what steps learnt from it goes as well"


def test_a_head_that_is_better_by_chance_alone_does_not_take_the_place_of_the_one_before() -> None:
    right = np.zeros(400, bool)
    right[:300] = True
    # 3 examples more, of 37 on which the two differ: chance. 20 more of 40: not.
    other = right.copy()
    other[:17], other[300:320] = False, True
    assert not surely_better(other, right)
    other[:17] = True
    other[:10], other[300:330] = False, True
    assert surely_better(other, right)
    assert not surely_better(right, right)


def test_sending_statistics_is_priced_by_their_size_and_not_by_that_of_a_head(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    bundle = open_bundle(plain_bundle)
    manifest = bundle.manifest
    width = manifest.summed_width(manifest.backbone.embedding_width)
    entries = width * (width + 1) // 2 + width * manifest.summed_classes
    device = fleet(address, "a")
    prices = prices_of(device.card.board, macs=None, coordinates=0, batch_size=1)
    sending = {}
    with Operator(address) as operator:
        for kind, text in (("sums", CLOSED), ("head", "")):
            run_id = operator.start_run(tools.plan(plain_bundle, more=text + "[budget]\nper_round_j = 50\n"), tmp_path)
            device.join()
            sending[kind] = device.order().costs.sending_j
            operator.stop_run(run_id)
    # Two bytes an entry, against four a number of the head.
    more_bytes = report_bytes(32.0, entries // 2) - report_bytes(32.0, trees.coordinates(bundle.initial_head()))
    assert sending["sums"] - sending["head"] == pytest.approx(prices.up_j * more_bytes)
