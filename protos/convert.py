"""Our values to messages of edgejoule.v1 and back: the only translator.

Reading is where bytes from the network become values, so it is strict: an enum without a meaning, a number that is
not finite, or a list longer than it can honestly be is an :class:`~protos.errors.UpdateError` that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from protos.energy import Method, Phase, PhaseEnergy
from protos.errors import UpdateError
from protos.orders import (
    CodecOrder,
    DeviceCard,
    DeviceReport,
    Engine,
    MeterCard,
    Order,
    Receipt,
    RejoinOrder,
    SettledEnergy,
    StopReason,
    TrainOrder,
    Verdict,
    WaitOrder,
)
from protos.update.tensors import EncodedTensor, Float16, Float32, UniformGrid, Values
from protos.v1 import edgejoule_pb2 as pb

MAX_TENSORS = 4096
MAX_ENERGY_RECORDS = 1024
MAX_NAME = 256

_PHASES = {
    Phase.IDLE: pb.PHASE_IDLE,
    Phase.EMBED: pb.PHASE_EMBED,
    Phase.TRAIN: pb.PHASE_TRAIN,
    Phase.ENCODE: pb.PHASE_ENCODE,
    Phase.SEND: pb.PHASE_SEND,
}
_METHODS = {
    "measured": pb.ENERGY_METHOD_MEASURED,
    "estimated": pb.ENERGY_METHOD_ESTIMATED,
    "unknown": pb.ENERGY_METHOD_UNKNOWN,
}
_STOPS = {
    StopReason.COMPLETED: pb.STOP_REASON_COMPLETED,
    StopReason.BUDGET: pb.STOP_REASON_BUDGET,
    StopReason.DEADLINE: pb.STOP_REASON_DEADLINE,
    StopReason.SHUTDOWN: pb.STOP_REASON_SHUTDOWN,
}
_VERDICTS = {
    Verdict.ACCEPTED: pb.VERDICT_ACCEPTED,
    Verdict.DUPLICATE: pb.VERDICT_DUPLICATE,
    Verdict.LATE: pb.VERDICT_LATE,
    Verdict.REJECTED: pb.VERDICT_REJECTED,
}
_PHASE_OF = {number: phase for phase, number in _PHASES.items()}
_METHOD_OF = {number: method for method, number in _METHODS.items()}
_STOP_OF = {number: stop for stop, number in _STOPS.items()}
_VERDICT_OF = {number: verdict for verdict, number in _VERDICTS.items()}


K = TypeVar("K")
V = TypeVar("V")


def _known(table: Mapping[K, V], key: K, field: str) -> V:
    if key not in table:
        raise UpdateError(f"{key!r} has no meaning", where=field)
    return table[key]


def _finite(value: float, field: str, *, at_least: float = 0.0) -> float:
    if not math.isfinite(value) or value < at_least:
        raise UpdateError(f"{value} is not a finite number from {at_least:g} up", where=field)
    return value


def _name(value: str, field: str, *, empty: bool = False) -> str:
    if len(value) > MAX_NAME or (not value and not empty):
        raise UpdateError(f"a name of {len(value)} characters; 1 to {MAX_NAME} are allowed", where=field)
    if not value.isprintable():
        raise UpdateError("a name with unprintable characters", where=field)
    return value


def _at_most(count: int, limit: int, field: str) -> None:
    if count > limit:
        raise UpdateError(f"{count} entries; {limit} at most", where=field)


# ---------------------------------------------------------------- tensors


def tensors_to(tensors: Iterable[EncodedTensor]) -> list[pb.Tensor]:
    """Encoded tensors as messages."""
    return [_tensor_to(tensor) for tensor in tensors]


def _tensor_to(tensor: EncodedTensor) -> pb.Tensor:
    message = pb.Tensor(name=tensor.name, shape=tensor.shape)
    match tensor.values:
        case Float32(data):
            message.float32 = data
        case Float16(data):
            message.float16 = data
        case UniformGrid(bits, bucket, step, offset, codes):
            grid = pb.UniformGrid(bits=bits, bucket=bucket, step=step, offset=offset, codes=codes)
            message.uniform_grid.CopyFrom(grid)
    return message


def tensors_from(messages: Iterable[pb.Tensor]) -> tuple[EncodedTensor, ...]:
    """Encoded tensors from messages. The numbers inside are checked when they are decoded, not here."""
    tensors: list[EncodedTensor] = []
    for message in messages:
        _at_most(len(tensors) + 1, MAX_TENSORS, "update")
        _at_most(len(message.shape), 8, f"{message.name}.shape")
        tensors.append(EncodedTensor(_name(message.name, "tensor"), tuple(message.shape), _values_from(message)))
    return tuple(tensors)


def _values_from(message: pb.Tensor) -> Values:
    match message.WhichOneof("values"):
        case "float32":
            return Float32(message.float32)
        case "float16":
            return Float16(message.float16)
        case "uniform_grid":
            grid = message.uniform_grid
            return UniformGrid(grid.bits, grid.bucket, grid.step, grid.offset, grid.codes)
        case _:
            raise UpdateError("holds no values that this version can read", where=message.name)


# ---------------------------------------------------------------- energy


def energy_to(records: Iterable[PhaseEnergy]) -> list[pb.PhaseEnergy]:
    """Energy records as messages; an unknown energy stays absent."""
    return [
        pb.PhaseEnergy(
            phase=_PHASES[record.phase],
            energy_j=record.energy_j,
            covered_s=record.covered_s,
            uncovered_s=record.uncovered_s,
            method=_METHODS[record.method],
            sensor=record.sensor,
            uncertainty_j=record.uncertainty_j,
            flags=record.flags,
        )
        for record in records
    ]


def energy_from(messages: Iterable[pb.PhaseEnergy]) -> tuple[PhaseEnergy, ...]:
    """Energy records from messages."""
    records: list[PhaseEnergy] = []
    for message in messages:
        _at_most(len(records) + 1, MAX_ENERGY_RECORDS, "energy")
        _at_most(len(message.flags), 32, "energy.flags")
        energy_j = _finite(message.energy_j, "energy_j", at_least=-1e12) if message.HasField("energy_j") else None
        spread_j = _finite(message.uncertainty_j, "uncertainty_j") if message.HasField("uncertainty_j") else None
        records.append(
            PhaseEnergy(
                phase=_known(_PHASE_OF, message.phase, "energy.phase"),
                energy_j=energy_j,
                covered_s=_finite(message.covered_s, "covered_s"),
                uncovered_s=_finite(message.uncovered_s, "uncovered_s"),
                method=cast(Method, _known(_METHOD_OF, message.method, "energy.method")),
                sensor=_name(message.sensor, "energy.sensor", empty=True),
                uncertainty_j=spread_j,
                flags=tuple(_name(flag, "energy.flags") for flag in message.flags),
            )
        )
    return tuple(records)


def settled_to(settled: Iterable[SettledEnergy]) -> list[pb.SettledEnergy]:
    """Late energy as messages."""
    return [pb.SettledEnergy(run_id=s.run_id, round=s.round, energy=energy_to(s.energy)) for s in settled]


def settled_from(messages: Iterable[pb.SettledEnergy]) -> tuple[SettledEnergy, ...]:
    """Late energy from messages."""
    settled: list[SettledEnergy] = []
    for message in messages:
        _at_most(len(settled) + 1, MAX_ENERGY_RECORDS, "settled")
        run_id = _name(message.run_id, "settled.run_id")
        settled.append(SettledEnergy(run_id, message.round, energy_from(message.energy)))
    return tuple(settled)


# ---------------------------------------------------------------- cards


def engine_to(engine: Engine) -> pb.Engine:
    """Engine identity as a message."""
    return pb.Engine(name=engine.name, version=engine.version, delegate=engine.delegate)


def engine_from(message: pb.Engine) -> Engine:
    """Engine identity from a message."""
    parts = (message.name, message.version, message.delegate)
    return Engine(*(_name(part, "engine", empty=True) for part in parts))


def meter_to(meter: MeterCard) -> pb.Meter:
    """Meter identity as a message."""
    return pb.Meter(
        method=_known(_METHODS, meter.method, "meter.method"),
        sensor=meter.sensor,
        calibration_id=meter.calibration_id,
        quality=meter.quality,
    )


def meter_from(message: pb.Meter) -> MeterCard:
    """Meter identity from a message."""
    method = _known(_METHOD_OF, message.method, "meter.method")
    parts = (message.sensor, message.calibration_id, message.quality)
    return MeterCard(method, *(_name(part, "meter", empty=True) for part in parts))


def card_to(card: DeviceCard, protocol: tuple[int, int]) -> pb.JoinRequest:
    """A device card as a join request."""
    return pb.JoinRequest(
        protocol_major=protocol[0],
        protocol_minor=protocol[1],
        device_id=card.device_id,
        session=card.session,
        software_version=card.software_version,
        board=card.board,
        engine=engine_to(card.engine),
        meter=meter_to(card.meter),
        train_examples=card.train_examples,
        test_examples=card.test_examples,
        budget_j=card.budget_j,
    )


def card_from(message: pb.JoinRequest) -> DeviceCard:
    """A device card from a join request; the protocol version is the server's business."""
    return DeviceCard(
        device_id=_name(message.device_id, "device_id"),
        session=_name(message.session, "session"),
        software_version=_name(message.software_version, "software_version", empty=True),
        board=_name(message.board, "board", empty=True),
        engine=engine_from(message.engine),
        meter=meter_from(message.meter),
        train_examples=message.train_examples,
        test_examples=message.test_examples,
        budget_j=_finite(message.budget_j, "budget_j") if message.HasField("budget_j") else None,
    )


# ---------------------------------------------------------------- orders


def order_to(order: Order) -> pb.NextOrderResponse:
    """An order as the answer to NextOrder."""
    match order:
        case WaitOrder(retry_after_s, reason):
            return pb.NextOrderResponse(wait=pb.Wait(retry_after_s=retry_after_s, reason=reason))
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
        head=pb.Head(version=order.head_version, tensors=tensors_to(order.head)),
        steps=order.steps,
        inputs=order.inputs,
        codec=pb.Codec(name=order.codec.name, parameters=order.codec.parameters),
        budget_j=order.budget_j,
        deadline_s=order.deadline_s,
        seed=order.seed,
    )


def order_from(message: pb.NextOrderResponse) -> Order:
    """An order from the answer to NextOrder."""
    match message.WhichOneof("action"):
        case "wait":
            return WaitOrder(_finite(message.wait.retry_after_s, "retry_after_s"), message.wait.reason[:MAX_NAME])
        case "rejoin":
            return RejoinOrder()
        case "train":
            return _train_from(message.train)
        case _:
            raise UpdateError("an order that this version cannot read", where="order")


def _train_from(message: pb.TrainOrder) -> TrainOrder:
    _at_most(len(message.inputs), 64, "order.inputs")
    inputs = {_name(k, "inputs"): _finite(v, f"inputs.{k}", at_least=-1e9) for k, v in message.inputs.items()}
    parameters = {
        _name(k, "codec"): _finite(v, f"codec.{k}", at_least=-1e9) for k, v in message.codec.parameters.items()
    }
    return TrainOrder(
        run_id=_name(message.run_id, "run_id"),
        round=message.round,
        plan_id=_name(message.plan_id, "plan_id"),
        bundle_id=_name(message.bundle_id, "bundle_id"),
        head_version=_name(message.head.version, "head.version"),
        head=tensors_from(message.head.tensors),
        steps=message.steps,
        inputs=inputs,
        codec=CodecOrder(_name(message.codec.name, "codec.name"), parameters),
        budget_j=_finite(message.budget_j, "budget_j") if message.HasField("budget_j") else None,
        deadline_s=_finite(message.deadline_s, "deadline_s"),
        seed=message.seed,
    )


# ---------------------------------------------------------------- reports


def report_to(report: DeviceReport) -> pb.DeviceReport:
    """A report as a message."""
    return pb.DeviceReport(
        run_id=report.run_id,
        round=report.round,
        device_id=report.device_id,
        plan_id=report.plan_id,
        bundle_id=report.bundle_id,
        head_version=report.head_version,
        steps_planned=report.steps_planned,
        steps_done=report.steps_done,
        examples=report.examples,
        local_normaliser=report.local_normaliser,
        stop_reason=_STOPS[report.stop_reason],
        loss_first=report.loss_first,
        loss_last=report.loss_last,
        engine=engine_to(report.engine),
        energy=energy_to(report.energy),
        update=tensors_to(report.update),
        embedded=report.embedded,
        train_s=report.train_s,
    )


def report_from(message: pb.DeviceReport) -> DeviceReport:
    """A report from a message."""
    loss_first = _finite(message.loss_first, "loss_first", at_least=-1e9) if message.HasField("loss_first") else None
    loss_last = _finite(message.loss_last, "loss_last", at_least=-1e9) if message.HasField("loss_last") else None
    return DeviceReport(
        run_id=_name(message.run_id, "run_id"),
        round=message.round,
        device_id=_name(message.device_id, "device_id"),
        plan_id=_name(message.plan_id, "plan_id"),
        bundle_id=_name(message.bundle_id, "bundle_id"),
        head_version=_name(message.head_version, "head_version"),
        steps_planned=message.steps_planned,
        steps_done=message.steps_done,
        examples=message.examples,
        local_normaliser=_finite(message.local_normaliser, "local_normaliser"),
        stop_reason=_known(_STOP_OF, message.stop_reason, "stop_reason"),
        loss_first=loss_first,
        loss_last=loss_last,
        engine=engine_from(message.engine),
        energy=energy_from(message.energy),
        update=tensors_from(message.update),
        embedded=message.embedded,
        train_s=_finite(message.train_s, "train_s"),
    )


def serialise_report(report: DeviceReport) -> bytes:
    """The bytes of a report, as they are cut into parts, counted and stored."""
    return report_to(report).SerializeToString(deterministic=True)


def parse_report(data: bytes) -> DeviceReport:
    """A report from its bytes.

    Raises:
        UpdateError: not a report, or one with a bad field.
    """
    message = pb.DeviceReport()
    try:
        message.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError is not the same class in every backend
        raise UpdateError("bytes that are no report", where="report") from error
    return report_from(message)


def receipt_to(receipt: Receipt) -> pb.ReportResponse:
    """A receipt as a message."""
    return pb.ReportResponse(verdict=_VERDICTS[receipt.verdict], reason=receipt.reason)


def receipt_from(message: pb.ReportResponse) -> Receipt:
    """A receipt from a message."""
    return Receipt(_known(_VERDICT_OF, message.verdict, "verdict"), message.reason[:1024])
