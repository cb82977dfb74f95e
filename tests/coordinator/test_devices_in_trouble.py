"""What a device says of why it cannot train: kept, shown, and asked no more; and two devices under one name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.operator.client import Operator
from protos.orders import Verdict, WaitOrder
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


def said_of(operator: Operator, device_id: str) -> tuple[str, str]:
    return next((device.state, device.reason) for device in operator.devices() if device.device_id == device_id)


def leave(device: Any, reason: str) -> None:
    request = pb.LeaveRequest(device_id=device.card.device_id, session=device.card.session, reason=reason)
    device.stub.Leave(request, timeout=20)


def test_a_device_that_declines_a_run_is_asked_no_more_until_it_says_that_it_can(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=1, rounds=2), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        a.order()
        leave(a, "cannot do the order: label 3 at example 3")
        assert said_of(operator, "a") == ("left", "cannot do the order: label 3 at example 3")
        able, a.card = a.card, dataclasses.replace(a.card, reason="label 3 at example 3", declined_run=run_id)
        a.join()
        assert said_of(operator, "a") == ("present", "label 3 at example 3")
        b.send(b.answer(b.order(), 1.0))
        second = b.order(2)
        assert isinstance(a.ask(), WaitOrder), "the next round does not count on it"
        a.card = able
        a.join()
        assert said_of(operator, "a") == ("present", "")
        b.send(b.answer(second, 1.0))
        tools.finished(operator, run_id)
        noted = operator.status(run_id)
        assert len(noted[0].rounds) == 3


def test_why_a_device_left_is_known_after_a_restart_of_the_coordinator(
    fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with tools.served(tmp_path / "state") as address:
        a = fleet(address, "a", reason="2 examples set aside")
        a.join()
        leave(a, "SIGHUP")
        b = fleet(address, "b", reason="data are not there yet")
        b.join()
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        assert said_of(operator, "a") == ("left", "SIGHUP")
        assert said_of(operator, "b") == ("away", "data are not there yet")


def test_a_second_live_device_of_the_same_name_is_refused_and_shown(address: str, fleet: Fleet) -> None:
    with Operator(address) as operator:
        first = fleet(address, "pi", session="one", instance="state-1")
        second = fleet(address, "pi", session="two", instance="state-2", board="board of the second")
        first.join()
        with pytest.raises(grpc.RpcError, match="called so already"):
            second.join()
        state, reason = said_of(operator, "pi")
        assert state == "present"
        assert "second device" in reason
        assert "board of the second" in reason
        assert isinstance(first.ask(), WaitOrder), "the first was not evicted"
        again = fleet(address, "pi", session="three", instance="state-1")
        again.join()
        assert isinstance(again.ask(), WaitOrder), "the same device after kill -9"
        leave(again, "done")
        second.join()
        assert said_of(operator, "pi") == ("present", ""), "the name was free"


def test_only_the_very_same_bytes_are_a_duplicate(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        order = a.order()
        report, other = a.answer(order, 1.0), a.answer(order, 2.0)
        assert a.send(report).verdict is Verdict.ACCEPTED
        for _ in range(2):
            refused = a.send(other)
            assert refused.verdict is Verdict.REJECTED
            assert refused.reason.startswith("other_report")
            assert a.send(report).verdict is Verdict.DUPLICATE
            if operator.status(run_id)[0].state == "running":
                b.send(b.answer(b.order(), 1.0))
                tools.finished(operator, run_id)
