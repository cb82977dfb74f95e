"""Reports, their bytes, and the receipts that answer them."""

from __future__ import annotations

from protos.convert.cards import engine_from, engine_to
from protos.convert.checks import checked_name, finite, known, parsed, said
from protos.convert.energy import energy_from, energy_to, unnamed
from protos.convert.publications import evaluation_from, evaluation_to
from protos.convert.statistics import statistics_from, statistics_to
from protos.convert.strain import STOP_OF, pause_to, stop_from, stop_to, strain_from, strain_to
from protos.convert.tensors import tensors_from, tensors_to
from protos.orders import DeviceReport, MaskedChange, MeterCard, Receipt, StopReason, Verdict
from protos.v1 import edgejoule_pb2 as pb

MAX_REASON = 1024
# Losses are float32 on the device, and one that diverges may come near its end.
_MAX_LOSS = 3.5e38

_VERDICTS = {
    Verdict.ACCEPTED: pb.VERDICT_ACCEPTED,
    Verdict.DUPLICATE: pb.VERDICT_DUPLICATE,
    Verdict.LATE: pb.VERDICT_LATE,
    Verdict.REJECTED: pb.VERDICT_REJECTED,
}
_VERDICT_OF = {number: verdict for verdict, number in _VERDICTS.items()}


def report_to(report: DeviceReport, meter: MeterCard | None = None) -> pb.DeviceReport:
    """A report as a message; ``meter`` is that of the card which the coordinator holds, and need not be named again."""
    energy, meter_id = unnamed(report.energy, meter)
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
        stop_reason=stop_to(report.stop_reason),
        loss_first=report.loss_first,
        loss_last=report.loss_last,
        engine=engine_to(report.engine),
        energy=energy_to(energy),
        update=tensors_to(report.update),
        embedded=report.embedded,
        train_s=report.train_s,
        strain=strain_to(report.strain),
        ended_in_pause=pause_to(report.stop_reason),
        attempt=report.attempt or 0,
        meter_id=meter_id or report.meter_id,
        statistics=statistics_to(report.statistics),
        basis_version=report.basis_version,
        masked=None if report.masked is None else pb.MaskedChange(**vars(report.masked)),
        control_version=report.control_version,
        control_held=report.control_held,
        evaluation=evaluation_to(report.evaluation),
    )


def report_from(message: pb.DeviceReport) -> DeviceReport:
    """A report from a message."""
    return DeviceReport(
        run_id=checked_name(message.run_id, "run_id"),
        round=message.round,
        device_id=checked_name(message.device_id, "device_id"),
        plan_id=checked_name(message.plan_id, "plan_id"),
        bundle_id=checked_name(message.bundle_id, "bundle_id"),
        head_version=checked_name(message.head_version, "head_version"),
        steps_planned=message.steps_planned,
        steps_done=message.steps_done,
        examples=message.examples,
        local_normaliser=finite(message.local_normaliser, "local_normaliser"),
        stop_reason=_stop_from(message),
        loss_first=_loss_from(message.loss_first, "loss_first") if message.HasField("loss_first") else None,
        loss_last=_loss_from(message.loss_last, "loss_last") if message.HasField("loss_last") else None,
        engine=engine_from(message.engine),
        energy=energy_from(message.energy),
        update=tensors_from(message.update),
        embedded=message.embedded,
        train_s=finite(message.train_s, "train_s"),
        strain=strain_from(message.strain) if message.HasField("strain") else None,
        attempt=message.attempt or None,
        meter_id=message.meter_id,
        statistics=statistics_from(message.statistics) if message.HasField("statistics") else None,
        basis_version=checked_name(message.basis_version, "basis_version", empty=True),
        masked=MaskedChange(message.masked.width, message.masked.numbers) if message.HasField("masked") else None,
        control_version=checked_name(message.control_version, "control_version", empty=True),
        control_held=message.control_held,
        evaluation=evaluation_from(message.evaluation) if message.HasField("evaluation") else None,
    )


def _stop_from(message: pb.DeviceReport) -> StopReason:
    known(STOP_OF, message.stop_reason, "stop_reason")
    return stop_from(message.stop_reason, message.ended_in_pause)


def _loss_from(value: float, field: str) -> float:
    return finite(value, field, at_least=-_MAX_LOSS, at_most=_MAX_LOSS)


def serialise_report(report: DeviceReport, meter: MeterCard | None = None) -> bytes:
    """The bytes of a report, as they are cut into parts, counted and stored; ``meter`` as for :func:`report_to`."""
    return report_to(report, meter).SerializeToString(deterministic=True)


def parse_report(data: bytes) -> DeviceReport:
    """A report from its bytes.

    Raises:
        UpdateError: not a report, or one with a bad field.
    """
    return report_from(parsed(pb.DeviceReport(), data, "report", "report"))


def receipt_to(receipt: Receipt) -> pb.ReportResponse:
    """A receipt as a message."""
    return pb.ReportResponse(verdict=_VERDICTS[receipt.verdict], reason=receipt.reason, attempt=receipt.attempt or 0)


def receipt_from(message: pb.ReportResponse) -> Receipt:
    """A receipt from a message."""
    verdict = known(_VERDICT_OF, message.verdict, "verdict")
    return Receipt(verdict, said(message.reason, MAX_REASON), message.attempt or None)
