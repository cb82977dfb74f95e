"""Reports over real gRPC: what is taken once, and what never reaches the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.operator.failures import error_of
from protos.errors import EdgejouleError
from protos.model.bundle import open_bundle
from protos.orders import (
    ENVELOPE_BYTES,
    Verdict,
    WaitOrder,
)
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


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
        tools.finished(operator, run_id)
        assert a.send(report).verdict is Verdict.DUPLICATE, "also when the run is over: the answer was lost"


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
        status = tools.finished(operator, run_id)
    assert {device.device_id: device.outcome for device in status.rounds[1].devices} == {
        "liar": "rejected",
        "honest": "accepted",
    }
    assert status.rounds[0].head_version != status.rounds[1].head_version
    assert {device.device_id: device.weight for device in status.rounds[1].devices} == {"liar": 0.0, "honest": 1.0}


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
            # A refusal on purpose can be told from one of gRPC's own, and carries all parts of the line.
            refusal: Any = failure.value
            error = error_of(refusal, address)
            assert error.exit_code != EdgejouleError.exit_code, header
            assert str(error) == refusal.details()
        with pytest.raises(grpc.RpcError) as failure:
            device.stub.Report(iter([pb.ReportRequest(data=b"no header")]), timeout=20)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
