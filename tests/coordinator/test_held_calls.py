"""A call for an order is held for minutes, as long as the device says that it waits, and news end it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.operator.client import Operator
from coordinator.server import run_scheduler
from protos.orders import Holding, TrainOrder, WaitOrder
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


@pytest.fixture(autouse=True)
def _long_hold(monkeypatch: pytest.MonkeyPatch, _short_hold: None) -> None:
    monkeypatch.setattr(run_scheduler, "MOST_HOLD_S", 480.0)


def asks(device: Any, waits_s: float) -> Any:
    """A call for an order of a device that waits so long, on its way."""
    request = pb.NextOrderRequest(device_id=device.card.device_id, session=device.card.session, waits_s=waits_s)
    return device.stub.NextOrder.future(request, timeout=waits_s + 60.0)


def test_a_held_call_gets_its_order_when_a_run_begins(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    device = fleet(address, "a")
    device.join()
    call = asks(device, 300.0)
    with pytest.raises(grpc.FutureTimeoutError):
        call.result(timeout=1.0)
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle), tmp_path)
        answer = call.result(timeout=60.0)
        assert answer.WhichOneof("action") == "train"
        device.send(device.answer(device.order(), 1.0))


def test_a_caller_that_is_less_patient_is_answered_within_its_deadline(
    address: str, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_scheduler, "ANSWER_S", 2.0)
    device = fleet(address, "a")
    device.join()
    answer = asks(device, 3.0).result(timeout=60.0)
    assert answer.WhichOneof("action") == "wait"


def test_a_call_that_was_given_up_leaves_nothing_behind(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    device = fleet(address, "a")
    device.join()
    for _ in range(5):
        asks(device, 300.0).cancel()
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        order = device.order()
        assert isinstance(order, TrainOrder)
        device.send(device.answer(order, 1.0))
        assert tools.finished(operator, run_id).state == "finished"


def test_a_coordinator_that_stops_does_not_wait_for_held_calls(fleet: Fleet, tools: Any, tmp_path: Path) -> None:
    ended = threading.Event()
    with tools.served(tmp_path / "state") as address:
        device = fleet(address, "a")
        device.join()
        call = asks(device, 300.0)
        call.add_done_callback(lambda _: ended.set())
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0.5)
    assert ended.wait(60.0)


def test_nothing_is_held_for_a_device_that_must_join_first(address: str, fleet: Fleet) -> None:
    device = fleet(address, "a")
    assert not isinstance(device.ask(holding=Holding("", False)), TrainOrder | WaitOrder)
