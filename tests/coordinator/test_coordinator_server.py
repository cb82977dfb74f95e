"""The server over real gRPC on loopback, with devices that follow a script."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.client import Operator
from protos.energy import Phase
from protos.errors import IntegrityError, ModelError, PlanError, UnknownRunError
from protos.model.bundle import open_bundle
from protos.orders import (
    ENVELOPE_BYTES,
    Engine,
    MeterCard,
    RejoinOrder,
    SettledEnergy,
    StopReason,
    Verdict,
    WaitOrder,
)
from protos.update.tensors import decode
from protos.update.trees import version
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


def _finished(operator: Operator, run_id: str, tools: Any) -> Any:
    tools.until(lambda: operator.status(run_id)[0].is_over, "the end of the run")
    return operator.status(run_id)[0]


def test_a_round_moves_the_head_by_the_weighted_mean(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=2, devices=2), tmp_path)
        a, b = fleet(address, "a", train_examples=40), fleet(address, "b", train_examples=120)
        for device in (a, b):
            device.join()
        orders = [a.order(), b.order()]
        assert [order.steps for order in orders] == [5, 15]
        first = decode(orders[0].head, tools.shapes(open_bundle(plain_bundle).initial_head()))
        assert a.send(a.answer(orders[0], 1.0)).verdict is Verdict.ACCEPTED
        assert b.send(b.answer(orders[1], 9.0)).verdict is Verdict.ACCEPTED
        # FedNova: w = 1/4, 3/4; tau_eff = 5/4 + 45/4 = 12.5; change = 12.5 * (1/4 * 1/5 + 3/4 * 9/15) = 6.25.
        again = a.order(round=2)
        second = decode(again.head, tools.shapes(first))
        np.testing.assert_allclose(second["out_kernel"], first["out_kernel"] + 6.25, rtol=1e-6)
        a.send(a.answer(again, 0.0))
        b.send(b.answer(b.order(round=2), 0.0))
        status = _finished(operator, run_id, tools)
    assert status.state == "finished"
    assert [one.state for one in status.rounds] == ["closed"] * 3
    shares = {one.device_id: one.weight for one in status.rounds[1].devices}
    assert shares == {"a": 0.25, "b": 0.75}
    assert all(one.bytes_down > 0 and one.bytes_up > 0 for one in status.rounds[1].devices)


def test_a_report_sent_twice_counts_once(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        order = a.order()
        report = a.answer(order, 1.0)
        assert a.send(report).verdict is Verdict.ACCEPTED
        assert a.send(report).verdict is Verdict.DUPLICATE
        assert isinstance(a.ask(), WaitOrder)
        b.send(b.answer(b.order(), 1.0))
        _finished(operator, run_id, tools)
        assert a.send(report).verdict is Verdict.DUPLICATE, "also when the run is over: the answer was lost"


def test_the_same_order_is_given_until_it_is_answered(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        one, two = device.order(), device.order()
        assert (one.round, one.seed, one.steps, one.head) == (two.round, two.seed, two.steps, two.head)
        restarted = fleet(address, "a", session="a-2")
        assert isinstance(restarted.ask(), RejoinOrder)
        restarted.join()
        assert restarted.order().seed == one.seed
        assert isinstance(device.ask(), RejoinOrder), "the session before"


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("wrong_plan", {"plan_id": "plan-other"}),
        ("wrong_bundle", {"bundle_id": "sha256:other"}),
        ("wrong_head", {"head_version": "head-other"}),
        ("wrong_steps", {"steps_done": 6}),
        ("wrong_steps", {"steps_planned": 4}),
        ("too_many_examples", {"examples": 41}),
        ("too_many_examples", {"examples": 0}),
        ("wrong_normaliser", {"local_normaliser": 0.0}),
        ("wrong_normaliser", {"local_normaliser": 1e-9}),
        ("wrong_normaliser", {"local_normaliser": 500.0}),
        ("bad_update", {"update": ()}),
    ],
)
def test_a_false_report_is_refused_with_its_reason_and_the_round_goes_on_without_it(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, code: str, fields: dict[str, Any]
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        liar, honest = fleet(address, "liar"), fleet(address, "honest")
        liar.join()
        honest.join()
        order = liar.order()
        receipt = liar.send(liar.answer(order, 1.0, **fields))
        assert (receipt.verdict, receipt.reason.split(":")[0]) == (Verdict.REJECTED, code)
        assert isinstance(liar.ask(), WaitOrder), "the same work is not asked for twice"
        honest.send(honest.answer(honest.order(), 2.0))
        status = _finished(operator, run_id, tools)
    assert {one.device_id: one.outcome for one in status.rounds[1].devices} == {
        "liar": "rejected",
        "honest": "accepted",
    }
    assert status.rounds[0].head_version != status.rounds[1].head_version
    assert {one.device_id: one.weight for one in status.rounds[1].devices} == {"liar": 0.0, "honest": 1.0}


def test_an_update_with_nan_or_another_shape_never_reaches_the_head(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        device, other = fleet(address, "a"), fleet(address, "b")
        device.join()
        other.join()
        order = device.order()
        good = open_bundle(plain_bundle).initial_head()
        poisoned = {name: array.copy() for name, array in good.items()}
        poisoned["out_bias"][1] = np.nan
        assert device.send(device.answer(order, poisoned)).verdict is Verdict.REJECTED
        wide = {**good, "out_bias": np.zeros(400, np.float32)}
        assert device.send(device.answer(order, wide)).verdict is Verdict.REJECTED
        assert device.send(device.answer(order, 1e20)).verdict is Verdict.REJECTED
        junk = device.send_bytes(b"\xff" * 200, order.run_id, order.round)
        assert junk.verdict is Verdict.REJECTED
        assert device.send(device.answer(order, good)).verdict is Verdict.ACCEPTED, "mended, it is taken"


def test_a_report_is_bounded_before_it_is_decoded(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        order = device.order()
        limit = ENVELOPE_BYTES + 4 * (6 * 3 + 3)
        cases: list[tuple[grpc.StatusCode, int, dict[str, Any]]] = [
            (grpc.StatusCode.RESOURCE_EXHAUSTED, 10, {"total_bytes": limit + 1}),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, 5000, {"total_bytes": 100}),
            (grpc.StatusCode.DATA_LOSS, 100, {"total_bytes": 200}),
            (grpc.StatusCode.DATA_LOSS, 100, {"sha256": b"\0" * 32}),
            (grpc.StatusCode.INVALID_ARGUMENT, 100, {"device_id": ""}),
            (grpc.StatusCode.NOT_FOUND, 100, {"run_id": "run-none"}),
        ]
        for code, size, header in cases:
            with pytest.raises(grpc.RpcError) as failure:
                device.send_bytes(b"x" * size, header.pop("run_id", order.run_id), order.round, **header)
            assert failure.value.code() is code, header
        with pytest.raises(grpc.RpcError) as failure:
            device.stub.Report(iter([pb.ReportRequest(data=b"no header")]), timeout=20)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED


def test_late_energy_rides_in_the_next_call_and_counts_once(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0))
        late = SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.25),))
        for _ in range(3):
            device.ask(late)
        device.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, None),)))
        device.leave(SettledEnergy("run-unknown", 1, (tools.joules(Phase.SEND, 99.0),)))
        status = _finished(operator, run_id, tools)
        (shown,) = operator.devices()
    energy = {one.phase: one.energy_j for one in status.rounds[1].devices[0].energy}
    assert energy == {Phase.EMBED: 1.0, Phase.TRAIN: 2.0, Phase.ENCODE: 0.5, Phase.SEND: 0.25}
    assert status.rounds[1].devices[0].spent_j == 3.75
    assert (shown.energy_j, shown.unknown_phases, shown.state) == (3.75, 0, "left")


def test_unknown_energy_stays_unknown(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a", meter=MeterCard("unknown"))
        device.join()
        device.send(device.answer(device.order(), 1.0, energy=(tools.joules(Phase.TRAIN, None),)))
        status = _finished(operator, run_id, tools)
        (shown,) = operator.devices()
    assert status.rounds[1].devices[0].energy[0].energy_j is None
    assert status.rounds[1].devices[0].spent_j is None
    assert (shown.energy_j, shown.unknown_phases) == (None, 1)


def test_a_device_without_a_meter_gets_no_order_with_a_budget(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, more="[budget]\nper_round_j = 5\n"), tmp_path)
        blind = fleet(address, "blind", meter=MeterCard("unknown"))
        blind.join()
        assert isinstance(blind.ask(), WaitOrder)
        assert "blind has a budget and no meter" in operator.status(run_id)[0].reason
        seeing = fleet(address, "seeing", budget_j=3.0)
        seeing.join()
        order = seeing.order()
        assert order.budget_j == 3.0, "the smaller of the plan's and its own"
        seeing.send(seeing.answer(order, 1.0))
        assert _finished(operator, run_id, tools).state == "finished"


def test_devices_with_another_engine_are_left_out_with_a_warning(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        odd = fleet(address, "odd", engine=Engine("tflite-runtime", "2.14.0", "builtin"))
        odd.join()
        others = [fleet(address, name) for name in "ab"]
        for device in others:
            device.join()
        for device in others:
            order = device.order()
            assert "odd runs tflite-runtime/builtin" in operator.status(run_id)[0].reason
        assert isinstance(odd.ask(), WaitOrder)
        for device in others:
            order = device.order()
            device.send(device.answer(order, 1.0))
        _finished(operator, run_id, tools)


def test_a_device_that_leaves_is_not_waited_for(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, deadline_s=3600), tmp_path)
        stays, leaves = fleet(address, "stays"), fleet(address, "leaves")
        stays.join()
        leaves.join()
        leaves.order()
        stays.send(stays.answer(stays.order(), 1.0))
        leaves.leave()
        status = _finished(operator, run_id, tools)
    assert {one.device_id: one.outcome for one in status.rounds[1].devices} == {
        "stays": "accepted",
        "leaves": "missing",
    }


def test_a_round_closes_at_its_deadline_and_what_comes_then_is_late(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, deadline_s=1.0), tmp_path)
        quick, slow = fleet(address, "quick"), fleet(address, "slow")
        quick.join()
        slow.join()
        held = slow.order()
        quick.send(quick.answer(quick.order(), 1.0))
        _finished(operator, run_id, tools)
        receipt = slow.send(slow.answer(held, 5.0))
        status = operator.status(run_id)[0]
    assert receipt.verdict is Verdict.LATE
    outcomes = {one.device_id: (one.outcome, one.weight) for one in status.rounds[1].devices}
    assert outcomes == {"quick": ("accepted", 1.0), "slow": ("late", 0.0)}


def test_a_round_without_quorum_is_tried_again_with_the_reports_it_has_and_then_fails(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=3, quorum=1.0, deadline_s=0.5)
        run_id = operator.start_run(text, tmp_path)
        devices = [fleet(address, name) for name in "abc"]
        for device in devices:
            device.join()
        report = devices[0].answer(devices[0].order(), 1.0)
        assert devices[0].send(report).verdict is Verdict.ACCEPTED
        status = _finished(operator, run_id, tools)
        assert devices[0].send(report).verdict is Verdict.DUPLICATE
    assert status.state == "failed"
    assert "1 of 3 reports, 3 needed; given up after 3 attempts" in status.reason
    assert status.rounds[1].state == "abandoned"
    assert status.rounds[0].head_version == version(open_bundle(plain_bundle).initial_head())


def test_a_round_without_a_step_leaves_the_head_as_it_is(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        report = device.answer(device.order(), 3.0, steps_done=0, stop_reason=StopReason.BUDGET)
        assert device.send(report).verdict is Verdict.ACCEPTED
        status = _finished(operator, run_id, tools)
    assert status.rounds[1].head_version == status.rounds[0].head_version
    assert status.rounds[1].devices[0].weight == 0.0


def test_runs_wait_for_each_other_and_can_be_stopped(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle)
        first, second, third = (operator.start_run(text, tmp_path) for _ in range(3))
        tools.until(lambda: "0 of 1" in operator.status(first)[0].reason, "the first run")
        assert operator.status(second)[0].reason == f"waits for {first} to end"
        assert operator.stop_run(second) == "stopped"
        device = fleet(address, "a")
        device.join()
        held = device.order()
        assert held.run_id == first
        assert operator.stop_run(first[:9]) == "stopped"
        assert device.send(device.answer(held, 1.0)).verdict is Verdict.LATE
        assert device.order().run_id == third
        assert [run.state for run in operator.status()] == ["stopped", "stopped", "running"]
        with pytest.raises(UnknownRunError, match="means 3 runs"):
            operator.status("test")
        with pytest.raises(UnknownRunError, match="no run is called 'nosuch'"):
            operator.stop_run("nosuch")


def test_mistakes_in_a_plan_come_back_as_the_errors_that_they_are(
    address: str, plain_bundle: Path, tools: Any, tmp_path: Path
) -> None:
    good = tools.plan(plain_bundle)
    with Operator(address) as operator:
        with pytest.raises(PlanError, match="did you mean 'rounds'"):
            operator.start_run(good.replace("rounds", "ronds"), tmp_path)
        with pytest.raises(PlanError, match="did you mean 'momentum'"):
            operator.start_run(good + "[train.inputs]\nmomentun = 0.5\n", tmp_path)
        with pytest.raises(PlanError, match=r"outside 0\.\.10"):
            operator.start_run(good + "[train]\nrate = 11\n", tmp_path)
        with pytest.raises(ModelError, match="no such bundle folder"):
            operator.start_run(tools.plan(tmp_path / "nowhere"), tmp_path)
        (plain_bundle / "head.tflite").write_bytes(b"not run in these tests: HEAD")
        with pytest.raises(IntegrityError, match="SHA-256"):
            operator.start_run(good, tmp_path)
        assert operator.status() == []


def test_the_bundle_travels_whole_and_another_protocol_is_refused(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle), tmp_path)
    device = fleet(address, "a")
    with pytest.raises(grpc.RpcError) as failure:
        device.join(protocol=(2, 0))
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "protocol 2.0" in str(failure.value.details())
    assert "coordinator 1.0" in str(failure.value.details())
    device.join()
    files: dict[str, bytes] = {}
    for part in device.stub.FetchBundle(pb.FetchBundleRequest(bundle_id=device.order().bundle_id), timeout=20):
        if part.WhichOneof("part") == "file":
            name = part.file.name
            files[name] = b""
        else:
            files[name] += part.data
    (tmp_path / "copy").mkdir()
    for name, data in files.items():
        (tmp_path / "copy" / name).write_bytes(data)
    assert open_bundle(tmp_path / "copy").bundle_id == open_bundle(plain_bundle).bundle_id
    for bad in ("sha256:" + "0" * 64, "../../etc", ""):
        with pytest.raises(grpc.RpcError) as failure:
            list(device.stub.FetchBundle(pb.FetchBundleRequest(bundle_id=bad), timeout=20))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_same_run_goes_through_on_postgresql_across_a_restart(
    postgres: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    ends = []
    for database in (None, postgres):
        state = tmp_path / ("sqlite" if database is None else "postgresql")
        with tools.served(state, database) as address, Operator(address) as operator:
            run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
            a, b = fleet(address, "a"), fleet(address, "b", train_examples=8)
            a.join()
            b.join()
            assert a.send(a.answer(a.order(), 0.3)).verdict is Verdict.ACCEPTED
            held = b.answer(b.order(), -0.7)
        with tools.served(state, database) as address, Operator(address) as operator:
            assert fleet(address, "b").send(held).verdict is Verdict.ACCEPTED
            ends.append(_finished(operator, run_id, tools).rounds[1].head_version)
    assert ends[0] == ends[1]
