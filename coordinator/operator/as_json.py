"""What an operator is shown, as plain JSON values. Keys are the fields of :mod:`coordinator.operator.status`."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from coordinator.operator.status import (
    DeviceBudget,
    DeviceRound,
    DeviceStatus,
    ExportSummary,
    FederatedEvaluation,
    RoundStatus,
    RunStatus,
)
from protos.commands.json_document import document
from protos.energy.trace import PhaseEnergy


def run(status: RunStatus) -> dict[str, Any]:
    """One run; unknown figures are null."""
    return document("run", {**_run(status), "rounds": [_round(this_round) for this_round in status.rounds]})


def newest(status: RunStatus) -> dict[str, Any]:
    """One run in one row: its newest closed round, and how good the head was then."""
    last = status.rounds[-1] if status.rounds else None
    return {
        **{key: value for key, value in _run(status).items() if key != "rounds"},
        "round": None if last is None else last.round,
        "accuracy": None if last is None else last.accuracy,
        "r2": None if last is None else last.r2,
        "auc": None if last is None else last.auc,
        "loss": None if last is None else last.loss,
    }


def _run(status: RunStatus) -> dict[str, Any]:
    return {**_fields(status), "privacy": None if status.privacy is None else dataclasses.asdict(status.privacy)}


def _round(status: RoundStatus) -> dict[str, Any]:
    return {
        **_fields(status),
        "bytes_up": status.bytes_up,
        "bytes_down": status.bytes_down,
        "bias": None if status.bias is None else dataclasses.asdict(status.bias),
        "federated": None if status.federated is None else _federated(status.federated),
        "devices": [_device_round(each_device) for each_device in status.devices],
    }


def _federated(found: FederatedEvaluation) -> dict[str, Any]:
    return {**dataclasses.asdict(found), "accuracy": found.accuracy}


def _device_round(status: DeviceRound) -> dict[str, Any]:
    return {
        **_fields(status),
        "energy_j": status.spent_j,
        "spent_j": status.spent_j,
        "strain": None if status.strain is None else dataclasses.asdict(status.strain),
        "refusals": [dataclasses.asdict(refusal) for refusal in status.refusals],
        "energy": {str(phase_energy.phase): energy(phase_energy) for phase_energy in status.energy},
    }


def energy(record: PhaseEnergy) -> dict[str, Any]:
    """One phase, with what one must know to believe it."""
    return {
        "energy_j": record.energy_j,
        "covered_s": record.covered_s,
        "uncovered_s": record.uncovered_s,
        "coverage": record.coverage,
        "method": record.method,
        "sensor": record.sensor,
        "uncertainty_j": record.uncertainty_j,
        "flags": list(record.flags),
    }


def device(status: DeviceStatus) -> dict[str, Any]:
    """One device."""
    return dataclasses.asdict(status)


def budget(status: DeviceBudget) -> dict[str, Any]:
    """The ledger of one device."""
    return dataclasses.asdict(status)


def export(summary: ExportSummary, path: str) -> dict[str, Any]:
    """An export."""
    return document("export", {**dataclasses.asdict(summary), "sha256": summary.sha256.hex(), "path": path})


def dump(value: Any) -> str:
    """JSON text for stdout."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False)


def _fields(status: Any) -> dict[str, Any]:
    return {field.name: getattr(status, field.name) for field in dataclasses.fields(status)}
