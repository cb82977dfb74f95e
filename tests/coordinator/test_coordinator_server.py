"""The server over real gRPC on loopback, with devices that follow a script: orders, runs, bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.operator.client import Operator
from protos.errors import IntegrityError, ModelError, PlanError, UnknownRunError
from protos.model.bundle import open_bundle
from protos.orders import (
    PROTOCOL,
    RejoinOrder,
    Verdict,
)
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


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
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    assert [this_round.state for this_round in status.rounds] == ["closed"] * 3
    shares = {device.device_id: device.weight for device in status.rounds[1].devices}
    assert shares == {"a": 0.25, "b": 0.75}
    assert all(device.bytes_down > 0 and device.bytes_up > 0 for device in status.rounds[1].devices)


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
        assert [run.run_id for run in operator.status("test")] == [third], "the one that runs"
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
            operator.start_run(good.replace("epochs = 1", "rate = 11"), tmp_path)
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
    assert "coordinator {}.{}".format(*PROTOCOL) in str(failure.value.details())
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
            ends.append(tools.finished(operator, run_id).rounds[1].head_version)
    assert ends[0] == ends[1]
