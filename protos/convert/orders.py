"""Orders and the answer to NextOrder."""

from __future__ import annotations

from collections.abc import Mapping

from protos.convert.checks import MAX_NAME, MAX_WAIT_S, checked_name, count_at_most, finite, said
from protos.convert.head_transfers import differences_from, head_to
from protos.convert.masks import mask_order_from, names_from
from protos.convert.publications import publication_from, publication_to
from protos.convert.statistics import basis_from, basis_to, features_from, features_to
from protos.convert.tensors import tensors_from, tensors_to
from protos.convert.upgrades import offer_from, offer_to
from protos.errors import UpdateError
from protos.orders import CodecOrder, ControlOrder, CostHint, Order, RejoinOrder, RevealOrder, TrainOrder, WaitOrder
from protos.v1 import edgejoule_pb2 as pb

MAX_INPUTS = 64
MAX_INPUT = 1e9


def order_to(order: Order) -> pb.NextOrderResponse:
    """An order as the answer to NextOrder."""
    match order:
        case RevealOrder():
            return pb.NextOrderResponse(reveal=pb.RevealOrder(**vars(order)))
        case WaitOrder(retry_after_s, reason, publication, upgrade, watts):
            wait = pb.Wait(
                retry_after_s=retry_after_s,
                reason=reason,
                publication=publication_to(publication),
                upgrade=offer_to(upgrade),
                watts=watts,
            )
            return pb.NextOrderResponse(wait=wait)
        case RejoinOrder():
            return pb.NextOrderResponse(rejoin=pb.Rejoin())
        case TrainOrder():
            return pb.NextOrderResponse(train=_train_to(order))


def _train_to(order: TrainOrder) -> pb.TrainOrder:
    return pb.TrainOrder(
        run_id=order.run_id,
        round=order.round,
        plan_id=order.plan_id,
        bundle_id=order.bundle_id,
        head=head_to(order.head_version, order.head, order.base, order.differences),
        steps=order.steps,
        inputs=order.inputs,
        codec=pb.Codec(name=order.codec.name, parameters=order.codec.parameters),
        budget_j=order.budget_j,
        deadline_s=order.deadline_s,
        seed=order.seed,
        costs=None if order.costs is None else pb.CostHint(**vars(order.costs)),
        attempt=order.attempt or 0,
        statistics=features_to(order.statistics),
        basis=basis_to(order.basis),
        mask=None if order.mask is None else pb.MaskOrder(clip=order.mask.clip, bits=order.mask.bits),
        control=_control_to(order.control),
        evaluate=order.evaluate,
    )


def order_from(message: pb.NextOrderResponse) -> Order:
    """An order from the answer to NextOrder."""
    match message.WhichOneof("action"):
        case "wait":
            wait_s = finite(message.wait.retry_after_s, "retry_after_s", at_most=MAX_WAIT_S)
            published = publication_from(message.wait.publication) if message.wait.HasField("publication") else None
            upgrade = offer_from(message.wait.upgrade) if message.wait.HasField("upgrade") else None
            return WaitOrder(wait_s, said(message.wait.reason, MAX_NAME), published, upgrade, message.wait.watts)
        case "rejoin":
            return RejoinOrder()
        case "reveal":
            return _reveal_from(message.reveal)
        case "train":
            return _train_from(message.train)
        case _:
            raise UpdateError("an order that this version cannot read", where="order")


def _train_from(message: pb.TrainOrder) -> TrainOrder:
    inputs = _numbers_from(message.inputs, "inputs")
    parameters = _numbers_from(message.codec.parameters, "codec.parameters")
    return TrainOrder(
        run_id=checked_name(message.run_id, "run_id"),
        round=message.round,
        plan_id=checked_name(message.plan_id, "plan_id"),
        bundle_id=checked_name(message.bundle_id, "bundle_id"),
        head_version=checked_name(message.head.version, "head.version"),
        head=tensors_from(message.head.tensors),
        steps=message.steps,
        inputs=inputs,
        codec=CodecOrder(checked_name(message.codec.name, "codec.name"), parameters),
        budget_j=finite(message.budget_j, "budget_j") if message.HasField("budget_j") else None,
        deadline_s=finite(message.deadline_s, "deadline_s"),
        seed=message.seed,
        base=checked_name(message.head.base, "head.base", empty=True),
        differences=differences_from(message.head),
        costs=_costs_from(message.costs) if message.HasField("costs") else None,
        attempt=message.attempt or None,
        statistics=features_from(message.statistics) if message.HasField("statistics") else None,
        basis=basis_from(message.basis) if message.HasField("basis") else None,
        mask=mask_order_from(message.mask) if message.HasField("mask") else None,
        control=_control_from(message.control) if message.HasField("control") else None,
        evaluate=message.evaluate,
    )


def _reveal_from(message: pb.RevealOrder) -> RevealOrder:
    run_id = checked_name(message.run_id, "run_id")
    return RevealOrder(run_id, message.round, message.attempt, names_from(message.sent), names_from(message.missing))


def _control_to(control: ControlOrder | None) -> pb.Control | None:
    if control is None:
        return None
    return pb.Control(version=control.version, epoch=control.epoch, tensors=tensors_to(control.tensors))


def _control_from(message: pb.Control) -> ControlOrder:
    version = checked_name(message.version, "control.version")
    return ControlOrder(version, message.epoch, tensors_from(message.tensors))


def _costs_from(message: pb.CostHint) -> CostHint:
    return CostHint(
        embedding_j=finite(message.embedding_j, "costs.embedding_j"),
        step_j=finite(message.step_j, "costs.step_j"),
        sending_j=finite(message.sending_j, "costs.sending_j"),
        work_w=finite(message.work_w, "costs.work_w"),
    )


def _numbers_from(given: Mapping[str, float], field: str) -> dict[str, float]:
    count_at_most(len(given), MAX_INPUTS, field)
    return {
        checked_name(key, field): finite(value, f"{field}.{key}", at_least=-MAX_INPUT, at_most=MAX_INPUT)
        for key, value in given.items()
    }
