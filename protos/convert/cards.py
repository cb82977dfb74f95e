"""Who a device is, and its message."""

from __future__ import annotations

from protos.convert.checks import checked_name, finite, known, said
from protos.convert.energy import METHOD_OF, METHODS
from protos.orders import DeviceCard, Engine, MeterCard
from protos.v1 import edgejoule_pb2 as pb

# Of a text that people read; what is longer is cut, and what cannot be printed is left out.
REASON_LENGTH = 400


def engine_to(engine: Engine) -> pb.Engine:
    """Engine identity as a message."""
    return pb.Engine(name=engine.name, version=engine.version, delegate=engine.delegate, accelerator=engine.accelerator)


def engine_from(message: pb.Engine) -> Engine:
    """Engine identity from a message."""
    parts = (message.name, message.version, message.delegate, message.accelerator)
    return Engine(*(checked_name(part, "engine", empty=True) for part in parts))


def meter_to(meter: MeterCard) -> pb.Meter:
    """Meter identity as a message."""
    return pb.Meter(
        method=known(METHODS, meter.method, "meter.method"),
        sensor=meter.sensor,
        calibration_id=meter.calibration_id,
        quality=meter.quality,
        id=meter.id,
    )


def meter_from(message: pb.Meter) -> MeterCard:
    """Meter identity from a message."""
    method = known(METHOD_OF, message.method, "meter.method")
    parts = (message.sensor, message.calibration_id, message.quality)
    sensor, calibration_id, quality = (checked_name(part, "meter", empty=True) for part in parts)
    return MeterCard(method, sensor, calibration_id, quality, message.id)


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
        reason=said(card.reason, REASON_LENGTH),
        declined_run=card.declined_run,
        instance=card.instance,
        account=said(card.account, REASON_LENGTH),
    )


def card_from(message: pb.JoinRequest) -> DeviceCard:
    """A device card from a join request; the protocol version is the server's business."""
    return DeviceCard(
        device_id=checked_name(message.device_id, "device_id"),
        session=checked_name(message.session, "session"),
        software_version=checked_name(message.software_version, "software_version", empty=True),
        board=checked_name(message.board, "board", empty=True),
        engine=engine_from(message.engine),
        meter=meter_from(message.meter),
        train_examples=message.train_examples,
        test_examples=message.test_examples,
        budget_j=finite(message.budget_j, "budget_j") if message.HasField("budget_j") else None,
        reason=said(message.reason, REASON_LENGTH),
        declined_run=checked_name(message.declined_run, "declined_run", empty=True),
        instance=checked_name(message.instance, "instance", empty=True),
        account=said(message.account, REASON_LENGTH),
    )
