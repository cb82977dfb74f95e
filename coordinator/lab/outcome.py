"""What came of a demo run, as JSON values: the figures that benchmarks and people follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from coordinator.operator import as_json
from coordinator.operator.status import DeviceRound, ExportSummary, RoundStatus, RunStatus
from protos.commands.json_document import document
from protos.energy.trace import Phase

PHASES = (Phase.RECEIVE, Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)


def outcome(
    status: RunStatus, export: ExportSummary | None, *, wall_s: float, settings: dict[str, Any]
) -> dict[str, Any]:
    """The whole run.

    ``rounds`` begins with round 0, the head before any training. ``rounds[].joules[device][phase]`` is a number, or
    null where it is not known; ``rounds[].energy`` has the same with coverage, method and uncertainty (95 %).
    """
    closed = [round_ for round_ in status.rounds if round_.state == "closed"]
    accuracies = [round_.accuracy for round_ in closed]
    scores = [round_.score for round_ in closed]
    best = best_of(closed)
    made: dict[str, Any] = {
        "run_id": status.run_id,
        "state": status.state,
        "reason": status.reason,
        "settings": settings,
        "rounds": [_round(round_) for round_ in closed],
        "initial_accuracy": accuracies[0] if accuracies else None,
        "final_accuracy": accuracies[-1] if accuracies else None,
        "best_accuracy": None if best is None else best.accuracy,
        "measure": next((round_.measure for round_ in closed if round_.score is not None), "accuracy"),
        "initial_score": scores[0] if scores else None,
        "final_score": scores[-1] if scores else None,
        "best_score": None if best is None else best.score,
        "best_round": None if best is None else best.round,
        "exported_accuracy": export.exported_accuracy if export else None,
        "exported_float_accuracy": export.float_accuracy if export else None,
        "exported_score": export.measured.exported_score if export and export.measured else None,
        "exported_bytes": export.size_bytes if export else None,
        "exported_note": export.note if export else "",
        "bytes_up": sum(round_.bytes_up for round_ in closed),
        "bytes_down": sum(round_.bytes_down for round_ in closed),
        "joules": total_joules(closed),
        "coverage": coverage(closed),
        "cut_short": cut_short_counts(closed),
        "weights_from_examples": furthest(closed),
        "wall_s": wall_s,
    }
    return document("outcome", made)


def best_of(closed: Sequence[RoundStatus]) -> RoundStatus | None:
    """The round whose head is exported: that with the best score, of equal ones with the smaller loss, then the
    newest. None where nobody looked."""
    looked = [
        (round_.score, -(round_.loss or 0.0), round_.round, round_) for round_ in closed if round_.score is not None
    ]
    return max(looked, key=lambda entry: entry[:3])[3] if looked else None


def _round(this_round: RoundStatus) -> dict[str, Any]:
    return {
        "round": this_round.round,
        "accuracy": this_round.accuracy,
        "loss": this_round.loss,
        "r2": this_round.r2,
        "rmse": dict(this_round.rmse),
        "auc": this_round.auc,
        "bytes_up": this_round.bytes_up,
        "bytes_down": this_round.bytes_down,
        "joules": {device.device_id: _joules(device) for device in this_round.devices},
        "energy": {device.device_id: _energy(device) for device in this_round.devices},
        "devices": {device.device_id: _device(device) for device in this_round.devices},
        "bias": None if this_round.bias is None else dataclasses.asdict(this_round.bias),
    }


def furthest(rounds: Sequence[RoundStatus]) -> float | None:
    """The most that the say of devices was, in any round, from a say by examples alone: total variation, 0 to 1. None
    where nobody was asked. ``aggregate.weight = ["by_examples"]`` makes it 0 where everyone is asked."""
    known = [round_.bias.from_examples for round_ in rounds if round_.bias is not None]
    return max(known, default=None)


def _joules(device: DeviceRound) -> dict[str, float | None]:
    return {str(record.phase): record.energy_j for record in device.energy if record.phase in PHASES}


def _energy(device: DeviceRound) -> dict[str, Any]:
    return {str(record.phase): as_json.energy(record) for record in device.energy}


def _device(device: DeviceRound) -> dict[str, Any]:
    return {
        "outcome": device.outcome,
        "stop_reason": device.stop_reason,
        "steps_planned": device.steps_planned,
        "steps_done": device.steps_done,
        "budget_j": device.budget_j,
        "energy_j": device.spent_j,
        "spent_j": device.spent_j,
        "weight": device.weight,
        "examples": device.examples,
        "embedded": device.embedded,
        "bytes_up": device.bytes_up,
        "bytes_down": device.bytes_down,
    }


def total_joules(rounds: Sequence[RoundStatus]) -> dict[str, dict[str, float | None]]:
    """Joules by device and phase over all rounds; None as soon as one of them is not known."""
    totals: dict[str, dict[str, float | None]] = {}
    for round_ in rounds:
        for device in round_.devices:
            mine = totals.setdefault(device.device_id, {})
            for phase, energy_j in _joules(device).items():
                before = mine.get(phase, 0.0)
                mine[phase] = None if before is None or energy_j is None else before + energy_j
    return totals


def coverage(rounds: Sequence[RoundStatus]) -> dict[str, dict[str, float]]:
    """By device and phase: covered seconds over all seconds, over all rounds."""
    seconds: dict[str, dict[str, tuple[float, float]]] = {}
    for round_ in rounds:
        for device in round_.devices:
            for record in device.energy:
                if record.phase in PHASES:
                    covered, total = seconds.setdefault(device.device_id, {}).get(str(record.phase), (0.0, 0.0))
                    total += record.covered_s + record.uncovered_s
                    seconds[device.device_id][str(record.phase)] = (covered + record.covered_s, total)
    return {
        name: {phase: covered / total if total > 0 else 1.0 for phase, (covered, total) in phases.items()}
        for name, phases in seconds.items()
    }


def cut_short_counts(rounds: Sequence[RoundStatus]) -> dict[str, int]:
    """How many rounds the budget of each device cut short; devices that never were are left out."""
    counts: dict[str, int] = {}
    for round_ in rounds:
        for device in round_.devices:
            if device.outcome == "accepted" and device.stop_reason == "budget":
                counts[device.device_id] = counts.get(device.device_id, 0) + 1
    return counts
