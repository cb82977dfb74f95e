"""Every number that a device can say, set to what it cannot be: nothing of it is shown, learnt or charged.

Fields are found in the messages themselves, so that a new one is tried as well.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor

from coordinator.cli import main
from coordinator.operator.client import Operator
from coordinator.run.reports import plausibility
from protos.convert.cards import card_to
from protos.convert.energy import settled_to
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase
from protos.orders import PROTOCOL, HeadEvaluation, SettledEnergy, TrainOrder, Verdict
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]
FLOATS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
WHOLE = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
_REFUSALS = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
)
IMPOSSIBLE = (math.nan, math.inf, -math.inf, -1.0, -1e-300, 3e38)


def numbers(message: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a message are that are set: names of fields, and places in lists."""
    for field, value in message.ListFields():
        if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
            # Tensors have a table of their own: tests/protos/update.
            if field.name in ("update", "engine"):
                continue
            inner = enumerate(value) if field.is_repeated else [(None, value)]
            for at, one in inner:
                yield from numbers(one, (*path, field.name, *(() if at is None else (at,))))
        elif field.cpp_type in (*FLOATS, *WHOLE) and not field.is_repeated:
            yield (*path, field.name)


def changed(message: Any, path: tuple[Any, ...], value: float) -> Any | None:
    """A copy with that number another; None where the field cannot hold it."""
    copy = type(message)()
    copy.CopyFrom(message)
    inner = copy
    for step in path[:-1]:
        inner = inner[step] if isinstance(step, int) else getattr(inner, step)
    field = inner.DESCRIPTOR.fields_by_name[path[-1]]
    if field.cpp_type in WHOLE:
        if value != 3e38:
            return None
        value = 2**32 - 1 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT32 else 2**64 - 1
    setattr(inner, path[-1], value)
    return copy


def all_finite(value: Any, where: str = "") -> None:
    """No figure of a JSON text is none, and none of joules is less than nothing or more than a board can draw."""
    if isinstance(value, dict):
        for name, one in value.items():
            all_finite(one, f"{where}.{name}")
    elif isinstance(value, list):
        for at, one in enumerate(value):
            all_finite(one, f"{where}[{at}]")
    elif isinstance(value, float):
        assert math.isfinite(value), where
        if where.endswith(("_j", "_w", "_s")) and "unix" not in where:
            assert -1e-9 <= value < 1e9, where


def test_no_number_of_a_report_that_cannot_be_goes_further(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=400, devices=2, quorum=1.0), tmp_path)
        # A round stays open as long as the other one has not answered.
        device, other = fleet(address, "liar"), fleet(address, "other")
        device.join()
        other.join()
        order = device.order()
        evaluation = HeadEvaluation(order.head_version, 10, 5, 0.7, (5, 5), (3, 2))
        tried, taken = 0, []

        def honest() -> Any:
            energy = tuple(
                dataclasses.replace(tools.joules(phase, 1.0), uncovered_s=0.1, uncertainty_j=0.01)
                for phase in (Phase.EMBED, Phase.TRAIN, Phase.ENCODE)
            )
            made = device.answer(order, 0.01, energy=energy, evaluation=evaluation)
            return pb.DeviceReport.FromString(serialise_report(made))

        def closed(order: TrainOrder) -> TrainOrder:
            other.send(other.answer(other.order(round=order.round), 0.01))
            found: TrainOrder = device.order(round=order.round + 1)
            return found

        places = list(numbers(honest()))
        assert {path[-1] for path in places} > {"energy_j", "covered_s", "uncertainty_j", "local_normaliser", "train_s"}
        for path in places:
            for value in IMPOSSIBLE:
                report = changed(honest(), path, value)
                if report is None:
                    continue
                tried += 1
                receipt = device.send_bytes(report.SerializeToString(), run_id, order.round)
                if receipt.verdict is Verdict.ACCEPTED:
                    # What is no figure of any sum may be odd; the next round goes on as if it had not been said.
                    taken.append((path, value))
                    order = closed(order)
                else:
                    assert receipt.verdict in (Verdict.REJECTED, Verdict.LATE), (path, value, receipt)
                    assert receipt.reason, (path, value)
                    assert "internal" not in receipt.reason
        assert tried > 80
        # Negative, endless or no number at all is never taken; but losses may be of any sign, and go into no sum.
        assert [one for one in taken if not math.isfinite(one[1])] == []
        assert [one for one in taken if one[1] <= 0 and not one[0][-1].startswith("loss_")] == []
        assert [path for path, _ in taken if path[0] == "energy"] == []
        # An honest one counts after all that, and the head is finite.
        assert device.send_bytes(honest().SerializeToString(), run_id, order.round).verdict is Verdict.ACCEPTED
        order = closed(order)
        head = decode(order.head, {one.name: one.shape for one in order.head})
        assert all(np.isfinite(one).all() and np.abs(one).max() < 100 for one in head.values())
        _late_joules(device, run_id, order.round - 1)
        _cards(device)
        assert device.join()
    for words in (["status", run_id], ["budgets", run_id], ["devices"]):
        assert main([*words, "--json", "--coordinator", address]) == 0
        shown = json.loads(capsys.readouterr().out)
        all_finite(shown, words[0])
    (mine,) = [one for one in shown["devices"] if one["device_id"] == "liar"]
    assert mine["energy_j"] is None or 0 <= mine["energy_j"] < 400 * plausibility.most_w("pi4")


def _late_joules(device: Any, run_id: str, number: int) -> None:
    """Joules that are told with the question for work."""
    told = settled_to((SettledEnergy(run_id, number, (_send(),)),))
    request = pb.NextOrderRequest(device_id=device.card.device_id, session=device.card.session, settled=told)
    _answered(device.stub.NextOrder, request)


def _cards(device: Any) -> None:
    """What a device says of itself when it joins."""
    card = dataclasses.replace(device.card, budget_j=5.0)
    _answered(device.stub.Join, card_to(card, PROTOCOL))


def _send() -> Any:
    from protos.energy.trace import PhaseEnergy

    return PhaseEnergy(Phase.SEND, 0.5, 1.0, 0.1, "measured", "ina219:test", 0.01)


def _answered(call: Any, request: Any) -> None:
    """Each number of a request at a time; an answer, or a refusal with a reason that is not the coordinator's fault."""
    places = [path for path in numbers(request) if path[-1] not in ("protocol_major", "protocol_minor")]
    assert places
    for path in places:
        for value in IMPOSSIBLE:
            if (asked := changed(request, path, value)) is None:
                continue
            code, details = grpc.StatusCode.OK, "answered"
            try:
                call(asked, timeout=20)
            except grpc.RpcError as error:
                code, details = error.code(), error.details()
            assert code in _REFUSALS, (path, value, code, details)
            assert details, path
