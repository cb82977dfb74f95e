"""What a peer may not say: each bad field is an UpdateError that names it, and no bytes make anything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from message_values import EXAMPLE_SHAPES, example_order, example_order_with_differences, example_report

from protos.convert.cards import card_from, card_to
from protos.convert.energy import MAX_ENERGY_RECORDS, settled_from
from protos.convert.head_transfers import MAX_DIFFERENCES
from protos.convert.orders import order_from, order_to
from protos.convert.reports import parse_report, receipt_from, report_from, report_to, serialise_report
from protos.convert.tensors import MAX_TENSORS
from protos.errors import UpdateError
from protos.orders import PROTOCOL, DeviceCard, Engine, MeterCard, Order, RejoinOrder, WaitOrder
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb

BAD_NAMES = ["", "x" * 257, "a\nb", "\x1b[31m", "a\u202eb", "\0"]
BAD_NUMBERS = [math.nan, math.inf, -math.inf, 1e16, 1.7e308]
CARD = DeviceCard("pi", "s", "0.1", "pi4", Engine("e", "1", "d"), MeterCard("measured"), 10, 2, 5.0)


def refused(read: Callable[[Any], Any], message: Any, field: str) -> None:
    with pytest.raises(UpdateError) as caught:
        read(message)
    assert field in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("field", ["run_id", "device_id", "plan_id", "bundle_id", "head_version"])
@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_report_names_what_it_belongs_to(field: str, name: str) -> None:
    message = report_to(example_report())
    setattr(message, field, name)
    refused(report_from, message, field)


@pytest.mark.parametrize("field", ["local_normaliser", "train_s", "loss_first", "loss_last"])
@pytest.mark.parametrize("number", [*BAD_NUMBERS, -1.0])
def test_the_numbers_of_a_report_are_sensible(field: str, number: float) -> None:
    message = report_to(example_report())
    setattr(message, field, number)
    if field.startswith("loss") and abs(number) < 1e17:
        assert getattr(report_from(message), field) == number
    else:
        refused(report_from, message, field)


@pytest.mark.parametrize("field", ["energy_j", "uncertainty_j", "covered_s", "uncovered_s"])
@pytest.mark.parametrize("number", [*BAD_NUMBERS, -2e12])
def test_the_numbers_of_an_energy_are_sensible(field: str, number: float) -> None:
    message = report_to(example_report())
    setattr(message.energy[0], field, number)
    refused(report_from, message, field)


@pytest.mark.parametrize("number", [0, 99, -1])
def test_an_enum_without_a_meaning_is_refused(number: int) -> None:
    for spoil, field in (
        (lambda m: setattr(m, "stop_reason", number), "stop_reason"),
        (lambda m: setattr(m.energy[0], "phase", number), "energy.phase"),
        (lambda m: setattr(m.energy[0], "method", number), "energy.method"),
    ):
        message = report_to(example_report())
        spoil(message)
        refused(report_from, message, field)
    refused(receipt_from, pb.ReportResponse(verdict=number), "verdict")  # type: ignore[arg-type]


def test_lists_end_where_no_honest_list_goes_on() -> None:
    message = report_to(example_report())
    message.update.extend([message.update[0]] * MAX_TENSORS)
    refused(report_from, message, "update")
    message = report_to(example_report())
    message.energy.extend([message.energy[0]] * MAX_ENERGY_RECORDS)
    refused(report_from, message, "energy")
    message = report_to(example_report())
    message.energy[0].flags.extend(["f"] * 32)
    refused(report_from, message, "energy.flags")
    message = report_to(example_report())
    message.update[0].shape.extend([1] * 8)
    refused(report_from, message, "shape")
    refused(settled_from, [pb.SettledEnergy(run_id="r")] * (MAX_ENERGY_RECORDS + 1), "settled")
    order = order_to(example_order())
    order.train.inputs.update({f"input-{number}": 1.0 for number in range(64)})
    refused(order_from, order, "inputs")
    order = order_to(example_order())
    order.train.codec.parameters.update({f"parameter-{number}": 1.0 for number in range(64)})
    refused(order_from, order, "codec.parameters")


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_tensor_has_a_name_that_can_be_said(name: str) -> None:
    message = report_to(example_report())
    message.update[1].name = name
    message.update[1].shape.extend([1] * 20)
    refused(report_from, message, "tensor")


def test_a_tensor_of_an_unknown_kind_is_refused() -> None:
    message = report_to(example_report())
    message.update[0].ClearField("float32")
    refused(report_from, message, "out_bias")


@pytest.mark.parametrize("number", [*BAD_NUMBERS, -1.0])
def test_the_numbers_of_an_order_are_sensible(number: float) -> None:
    for field in ("budget_j", "deadline_s"):
        order = order_to(example_order())
        setattr(order.train, field, number)
        refused(order_from, order, field)
    for field in ("embedding_j", "step_j", "sending_j", "work_w"):
        order = order_to(example_order())
        setattr(order.train.costs, field, number)
        refused(order_from, order, f"costs.{field}")
    for wait_s in (number, 86_401.0):
        refused(order_from, pb.NextOrderResponse(wait=pb.Wait(retry_after_s=wait_s)), "retry_after_s")
    if number < 0 and math.isfinite(number):
        return
    order = order_to(example_order())
    order.train.inputs["rate"] = number
    refused(order_from, order, "inputs.rate")
    order = order_to(example_order())
    order.train.codec.parameters["bits"] = number
    refused(order_from, order, "codec.parameters.bits")


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_an_order_names_what_it_belongs_to(name: str) -> None:
    for field in ("run_id", "plan_id", "bundle_id"):
        order = order_to(example_order())
        setattr(order.train, field, name)
        refused(order_from, order, field)
    order = order_to(example_order())
    order.train.head.version = name
    refused(order_from, order, "head.version")
    order = order_to(example_order())
    order.train.codec.name = name
    refused(order_from, order, "codec.name")


@pytest.mark.parametrize("number", [*BAD_NUMBERS, -1.0, 4.5])
def test_the_scale_of_a_difference_is_sensible(number: float) -> None:
    order = order_to(example_order_with_differences())
    order.train.head.differences[1].scale = min(number, 3e38) if math.isfinite(number) else number
    refused(order_from, order, "head.differences.scale")


def test_a_head_is_whole_or_made_from_another() -> None:
    order = order_to(example_order_with_differences())
    order.train.head.tensors.append(order_to(example_order()).train.head.tensors[0])
    refused(order_from, order, "whole, and yet made from another")
    order = order_to(example_order_with_differences())
    order.train.head.base = ""
    refused(order_from, order, "differences from nothing")
    for name in BAD_NAMES[1:]:
        order.train.head.base = name
        refused(order_from, order, "head.base")
    order = order_to(example_order_with_differences())
    order.train.head.differences.extend([order.train.head.differences[0]] * MAX_DIFFERENCES)
    refused(order_from, order, "head.differences")


def test_an_order_without_an_action_is_refused() -> None:
    refused(order_from, pb.NextOrderResponse(), "order")


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_card_has_a_name_and_a_session(name: str) -> None:
    for field in ("device_id", "session"):
        message = card_to(CARD, PROTOCOL)
        setattr(message, field, name)
        refused(card_from, message, field)
    if name:
        message = card_to(CARD, PROTOCOL)
        message.engine.version = name
        refused(card_from, message, "engine")


def test_a_card_without_a_meter_or_with_a_senseless_budget_is_refused() -> None:
    message = card_to(CARD, PROTOCOL)
    message.ClearField("meter")
    refused(card_from, message, "meter.method")
    for number in (*BAD_NUMBERS, -1.0):
        message = card_to(CARD, PROTOCOL)
        message.budget_j = number
        refused(card_from, message, "budget_j")


def test_free_text_of_a_peer_is_cut_and_cannot_steer_a_terminal() -> None:
    text = "full\x1b[2J\r\n" + "x" * 5000
    wait = order_from(pb.NextOrderResponse(wait=pb.Wait(retry_after_s=1.0, reason=text)))
    assert isinstance(wait, WaitOrder)
    receipt = receipt_from(pb.ReportResponse(verdict=pb.VERDICT_LATE, reason=text))
    for reason, limit in ((wait.reason, 256), (receipt.reason, 1024)):
        assert reason.isprintable()
        assert reason.startswith("full [2J  x")
        assert len(reason) == limit


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, a piece cut out, said twice or put elsewhere."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(changed) + 1))
        stop = at + int(rng.integers(1, 12))
        match int(rng.integers(5)):
            case 0:
                changed[at:stop] = b""
            case 1:
                changed[at:at] = changed[at:stop]
            case 2:
                changed[at:stop] = rng.bytes(stop - at)
            case 3:
                changed[at : at + 1] = bytes([int(rng.integers(256))])
            case _ if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def test_bytes_make_a_report_or_an_update_error() -> None:
    rng = np.random.default_rng(20)
    whole = serialise_report(example_report())
    read = folded = 0
    for number in range(24_000):
        data = mutated(whole, rng) if number % 3 else rng.bytes(int(rng.integers(0, 200)))
        try:
            report = parse_report(data)
        except UpdateError:
            continue
        read += 1
        # What was read can be said again, and its tensors decode to sensible numbers or not at all.
        assert parse_report(serialise_report(report)) == report
        try:
            tree = decode(report.update, EXAMPLE_SHAPES)
        except UpdateError:
            continue
        folded += 1
        assert all(np.isfinite(array).all() for array in tree.values())
    assert 1000 < folded < read < 16_000, "mutation must neither spoil all nor nothing"


def test_bytes_make_an_order_or_an_update_error() -> None:
    rng = np.random.default_rng(21)
    whole: list[Order] = [
        example_order(),
        example_order_with_differences(),
        WaitOrder(2.5, "no run is on"),
        RejoinOrder(),
    ]
    messages = [order_to(order).SerializeToString() for order in whole]
    read = reached = 0
    for number in range(24_000):
        # Mostly the order of work: the others are a few bytes.
        base = messages[0 if number % 8 else 1 + number // 8 % 2]
        data = mutated(base, rng) if number % 3 else rng.bytes(int(rng.integers(0, 200)))
        message = pb.NextOrderResponse()
        try:
            message.ParseFromString(data)
        except DecodeError:
            continue  # gRPC answers for those
        reached += 1
        try:
            order = order_from(message)
        except UpdateError:
            continue
        read += 1
        assert order_from(order_to(order)) == order
    assert 1000 < read < reached < 20_000, "mutation must neither spoil all nor nothing"
