"""What an operator is shown, to messages and back: the operators' part of the translator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.operator.status import (
    DeviceBudget,
    DeviceRound,
    DeviceStatus,
    ExportSummary,
    FederatedEvaluation,
    ForgottenDevice,
    HeadEvaluation,
    Measured,
    PrivacySpent,
    Refusal,
    RoundedHead,
    RoundStatus,
    RunDetails,
    RunEvent,
    RunStatus,
    WeightBias,
)
from protos.convert.cards import engine_from, engine_to, meter_from, meter_to
from protos.convert.energy import energy_from, energy_to
from protos.convert.strain import STOP_OF, pause_to, stop_from, stop_to, strain_from, strain_to
from protos.energy.trace import Phase, PhaseEnergy
from protos.v1 import edgejoule_pb2 as pb


def runs_to(
    runs: Iterable[RunStatus],
    software_version: str,
    next_round: int = 0,
    reports: Mapping[str, int] | None = None,
    details: RunDetails | None = None,
) -> pb.GetStatusResponse:
    """Runs as a message; ``next_round`` begins the next page, ``reports`` counts what became of them by reason,
    ``details`` are of the one run that was asked for."""
    made = pb.GetStatusResponse(
        runs=[_run_to(run) for run in runs],
        software_version=software_version,
        next_round=next_round,
        reports=reports,
    )
    if details is not None:
        (run,) = made.runs
        events = [pb.RunEvent(**vars(event)) for event in details.events]
        run.details.CopyFrom(
            pb.RunDetails(plan_toml=details.plan_toml, plan_directory=details.plan_directory, events=events)
        )
    return made


def details_from(message: pb.GetStatusResponse) -> RunDetails:
    """Details of the one run of a message; an older coordinator gives none."""
    (run,) = message.runs
    events = (
        RunEvent(event.round if event.HasField("round") else None, event.unix_s, event.kind, event.detail)
        for event in run.details.events
    )
    return RunDetails(run.details.plan_toml, run.details.plan_directory, tuple(events), message.software_version)


def runs_from(message: pb.GetStatusResponse) -> list[RunStatus]:
    """Runs from a message."""
    return [_run_from(run) for run in message.runs]


def _run_to(run: RunStatus) -> pb.RunStatus:
    return pb.RunStatus(
        run_id=run.run_id,
        name=run.name,
        state=run.state,
        reason=run.reason,
        plan_id=run.plan_id,
        bundle_id=run.bundle_id,
        rounds_planned=run.rounds_planned,
        rounds=[_round_to(this_round) for this_round in run.rounds],
        started_unix_s=run.started_unix_s,
        finished_unix_s=run.finished_unix_s,
        privacy=None if run.privacy is None else pb.PrivacySpent(**vars(run.privacy)),
    )


def _run_from(message: pb.RunStatus) -> RunStatus:
    return RunStatus(
        run_id=message.run_id,
        name=message.name,
        state=message.state,
        reason=message.reason,
        plan_id=message.plan_id,
        bundle_id=message.bundle_id,
        rounds_planned=message.rounds_planned,
        rounds=tuple(_round_from(this_round) for this_round in message.rounds),
        started_unix_s=message.started_unix_s,
        finished_unix_s=message.finished_unix_s if message.HasField("finished_unix_s") else None,
        privacy=_privacy_from(message.privacy) if message.HasField("privacy") else None,
    )


def _privacy_from(message: pb.PrivacySpent) -> PrivacySpent:
    return PrivacySpent(message.epsilon, message.delta, message.limit, message.rounds)


def _round_to(this_round: RoundStatus) -> pb.RoundStatus:
    return pb.RoundStatus(
        round=this_round.round,
        state=this_round.state,
        accuracy=this_round.accuracy,
        loss=this_round.loss,
        bytes_up=this_round.bytes_up,
        bytes_down=this_round.bytes_down,
        devices=[_device_round_to(device) for device in this_round.devices],
        opened_unix_s=this_round.opened_unix_s,
        closed_unix_s=this_round.closed_unix_s,
        head_version=this_round.head_version,
        bias=None if this_round.bias is None else _bias_to(this_round.bias),
        federated=None if this_round.federated is None else pb.FederatedEvaluation(**vars(this_round.federated)),
        r2=this_round.r2,
        rmse=this_round.rmse,
        auc=this_round.auc,
    )


def _bias_to(bias: WeightBias) -> pb.WeightBias:
    return pb.WeightBias(**{**vars(bias), "left_out": list(bias.left_out)})


def _bias_from(message: pb.WeightBias) -> WeightBias:
    return WeightBias(
        message.from_plan,
        message.from_plan_ratio if message.HasField("from_plan_ratio") else None,
        message.from_examples,
        message.from_examples_ratio if message.HasField("from_examples_ratio") else None,
        tuple(message.left_out),
    )


def _round_from(message: pb.RoundStatus) -> RoundStatus:
    return RoundStatus(
        round=message.round,
        state=message.state,
        accuracy=message.accuracy if message.HasField("accuracy") else None,
        loss=message.loss if message.HasField("loss") else None,
        devices=tuple(_device_round_from(device) for device in message.devices),
        opened_unix_s=message.opened_unix_s,
        closed_unix_s=message.closed_unix_s if message.HasField("closed_unix_s") else None,
        head_version=message.head_version,
        bias=_bias_from(message.bias) if message.HasField("bias") else None,
        federated=_federated_from(message.federated) if message.HasField("federated") else None,
        r2=message.r2 if message.HasField("r2") else None,
        rmse=dict(message.rmse),
        auc=message.auc if message.HasField("auc") else None,
    )


def _federated_from(message: pb.FederatedEvaluation) -> FederatedEvaluation:
    return FederatedEvaluation(
        devices=message.devices,
        examples=message.examples,
        correct=message.correct,
        loss=message.loss,
        class_examples=tuple(message.class_examples),
        class_correct=tuple(message.class_correct),
        adopted=message.adopted,
        kept=message.kept,
    )


def _place(record: PhaseEnergy) -> int:
    return list(Phase).index(record.phase)


def _device_round_to(device: DeviceRound) -> pb.DeviceRound:
    return pb.DeviceRound(
        device_id=device.device_id,
        outcome=device.outcome,
        steps_planned=device.steps_planned,
        steps_done=device.steps_done,
        stop_reason=pb.STOP_REASON_UNSPECIFIED if device.stop_reason is None else stop_to(device.stop_reason),
        budget_j=device.budget_j,
        weight=device.weight,
        bytes_up=device.bytes_up,
        bytes_down=device.bytes_down,
        energy=energy_to(record for record in device.energy if record.phase is not Phase.RECEIVE),
        further_energy=energy_to(record for record in device.energy if record.phase is Phase.RECEIVE),
        examples=device.examples,
        loss=device.loss,
        embedded=device.embedded,
        strain=strain_to(device.strain),
        ended_in_pause=pause_to(device.stop_reason),
        counted_in=device.counted_in,
        refusals=[pb.Refusal(**vars(refusal)) for refusal in device.refusals],
    )


def _device_round_from(message: pb.DeviceRound) -> DeviceRound:
    return DeviceRound(
        device_id=message.device_id,
        outcome=message.outcome,
        steps_planned=message.steps_planned,
        steps_done=message.steps_done,
        stop_reason=stop_from(message.stop_reason, message.ended_in_pause) if message.stop_reason in STOP_OF else None,
        budget_j=message.budget_j if message.HasField("budget_j") else None,
        weight=message.weight,
        bytes_up=message.bytes_up,
        bytes_down=message.bytes_down,
        energy=tuple(sorted(energy_from([*message.energy, *message.further_energy]), key=_place)),
        examples=message.examples,
        loss=message.loss if message.HasField("loss") else None,
        embedded=message.embedded,
        strain=strain_from(message.strain) if message.HasField("strain") else None,
        counted_in=message.counted_in if message.HasField("counted_in") else None,
        refusals=tuple(Refusal(refusal.code, refusal.count, refusal.detail) for refusal in message.refusals),
    )


def devices_to(devices: Iterable[DeviceStatus], more: bool = False) -> pb.ListDevicesResponse:
    """Devices as a message; ``more``: others follow."""
    return pb.ListDevicesResponse(
        more=more,
        devices=[
            pb.DeviceStatus(
                device_id=device.device_id,
                state=device.state,
                board=device.board,
                engine=engine_to(device.engine),
                meter=meter_to(device.meter),
                software_version=device.software_version,
                train_examples=device.train_examples,
                test_examples=device.test_examples,
                last_seen_unix_s=device.last_seen_unix_s,
                energy_j=device.energy_j,
                unknown_phases=device.unknown_phases,
                budget_j=device.budget_j,
                reason=device.reason,
                account=device.account,
            )
            for device in devices
        ],
    )


def devices_from(message: pb.ListDevicesResponse) -> list[DeviceStatus]:
    """Devices from a message."""
    return [
        DeviceStatus(
            device_id=device.device_id,
            state=device.state,
            board=device.board,
            engine=engine_from(device.engine),
            meter=meter_from(device.meter),
            software_version=device.software_version,
            train_examples=device.train_examples,
            test_examples=device.test_examples,
            last_seen_unix_s=device.last_seen_unix_s,
            energy_j=device.energy_j if device.HasField("energy_j") else None,
            unknown_phases=device.unknown_phases,
            budget_j=device.budget_j if device.HasField("budget_j") else None,
            reason=device.reason,
            account=device.account,
        )
        for device in message.devices
    ]


def budgets_to(run_id: str, budgets: Iterable[DeviceBudget], more: bool = False) -> pb.GetBudgetsResponse:
    """The ledger of a run as a message; ``more``: others follow."""
    made = pb.GetBudgetsResponse(run_id=run_id, more=more)
    for budget in budgets:
        fit = (
            pb.CostFit(rounds=budget.fitted_rounds, price=budget.price, deviation=budget.deviation)
            if budget.price
            else None
        )
        made.devices.add(
            device_id=budget.device_id,
            orders=budget.orders,
            granted_j=budget.granted_j,
            spent_j=budget.spent_j,
            uncertain_j=budget.uncertain_j,
            today_j=budget.today_j,
            unlimited=budget.unlimited,
            fit=fit,
        )
    return made


def budgets_from(message: pb.GetBudgetsResponse) -> list[DeviceBudget]:
    """The ledger of a run from a message."""
    return [
        DeviceBudget(
            device.device_id,
            device.orders,
            device.granted_j,
            device.spent_j,
            device.uncertain_j,
            device.today_j,
            device.unlimited,
            dict(device.fit.price),
            dict(device.fit.deviation),
            device.fit.rounds,
        )
        for device in message.devices
    ]


def summary_to(summary: ExportSummary) -> pb.ExportSummary:
    """An export summary as a message."""
    return pb.ExportSummary(
        size_bytes=summary.size_bytes,
        sha256=summary.sha256,
        head_version=summary.head_version,
        float_accuracy=summary.float_accuracy,
        exported_accuracy=summary.exported_accuracy,
        operators=summary.operators,
        note=summary.note,
        measured=None if summary.measured is None else pb.Measured(**vars(summary.measured)),
    )


def summary_from(message: pb.ExportSummary) -> ExportSummary:
    """An export summary from a message."""
    return ExportSummary(
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        head_version=message.head_version,
        float_accuracy=message.float_accuracy if message.HasField("float_accuracy") else None,
        exported_accuracy=message.exported_accuracy if message.HasField("exported_accuracy") else None,
        operators=tuple(message.operators),
        note=message.note,
        measured=_measured_from(message.measured) if message.HasField("measured") else None,
    )


def _measured_from(message: pb.Measured) -> Measured:
    return Measured(
        message.measure,
        message.float_score if message.HasField("float_score") else None,
        message.exported_score if message.HasField("exported_score") else None,
        dict(message.float_rmse),
        dict(message.exported_rmse),
    )


def evaluation_to(found: HeadEvaluation) -> pb.EvaluateRunResponse:
    """A head at several widths as a message."""
    return pb.EvaluateRunResponse(
        run_id=found.run_id,
        head_version=found.head_version,
        examples=found.examples,
        heads=[pb.RoundedHead(**vars(head)) for head in found.heads],
    )


def evaluation_from(message: pb.EvaluateRunResponse) -> HeadEvaluation:
    """A head at several widths from a message."""
    heads = tuple(
        RoundedHead(head.bits, head.ranges, head.granularity, head.accuracy, head.loss, head.size_bytes)
        for head in message.heads
    )
    return HeadEvaluation(message.run_id, message.head_version, message.examples, heads)


def forgotten_from(message: pb.UnlearnDeviceResponse) -> ForgottenDevice:
    """A run without one of its devices, from a message."""
    return ForgottenDevice(
        message.run_id,
        message.head_version,
        message.devices,
        message.examples,
        message.accuracy if message.HasField("accuracy") else None,
        tuple(message.also_in),
    )
