"""The figures of a report as CSV, written while they come in: whole or not at all, together with the page.

Columns are named with their units. A figure that is not known is an empty cell, never 0. Text that a spreadsheet would
take for a formula has an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import IO

from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.report.record import RunRecord

__all__ = ["DEVICES", "ENERGY", "ROUNDS", "RowWriter", "device_rows", "energy_rows", "round_rows"]

ROUNDS = (
    "run_id", "run", "round", "state", "measure", "score", "loss", "opened_unix_s", "closed_unix_s", "asked",
    "accepted", "late", "rejected", "missing", "granted_j", "spent_j", "spent_unknown_phases", "spent_uncertainty_j",
    "spent_so_far_j", "bytes_up", "bytes_down", "weights_from_plan", "weights_from_examples", "hottest_c",
    "head_version",
)  # fmt: skip
DEVICES = (
    "run_id", "run", "device", "board", "version", "meter", "asked", "accepted", "late", "rejected", "missing",
    "steps_done", "steps_planned", "examples", "mean_weight", "share_of_examples", "spent_j", "spent_unknown_phases",
    "spent_uncertainty_j", "granted_j", "uncertain_j", "bytes_up", "bytes_down", "hottest_c", "heat_s", "busy_s",
)  # fmt: skip
ENERGY = (
    "run_id", "round", "device", "outcome", "phase", "energy_j", "uncertainty_j", "covered_s", "uncovered_s", "method",
    "sensor", "flags", "budget_j", "weight",
)  # fmt: skip

Cell = str | int | float | None
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


class RowWriter:
    """CSV into an open file of bytes: the heading at once, rows as they come."""

    def __init__(self, file: IO[bytes], header: Iterable[str]) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(list(header))

    def write(self, row: Iterable[Cell]) -> None:
        """One row."""
        self._rows.writerow([_cell(one) for one in row])

    def done(self) -> None:
        """Hand the file back, with all rows in it."""
        self._text.flush()
        self._text.detach()


def _cell(value: Cell) -> Cell:
    """
    >>> _cell("=1+1"), _cell(-1.5), _cell(None)
    ("'=1+1", -1.5, '')
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def energy_rows(run: RunStatus, this_round: RoundStatus) -> Iterable[list[Cell]]:
    """A row for each phase of each device of a round, as :data:`ENERGY`; one without a phase where none was told."""
    for work in this_round.devices:
        front: list[Cell] = [run.run_id, this_round.round, work.device_id, work.outcome]
        back: list[Cell] = [work.budget_j, work.weight]
        if not work.energy:
            yield [*front, *[None] * 8, *back]
        for record in work.energy:
            yield [
                *front,
                str(record.phase),
                record.energy_j,
                record.uncertainty_j,
                record.covered_s,
                record.uncovered_s,
                record.method,
                record.sensor,
                " ".join(record.flags),
                *back,
            ]


def round_rows(record: RunRecord) -> Iterable[list[Cell]]:
    """A row for each round, as :data:`ROUNDS`."""
    run = record.run
    for this_round in record.rounds:
        yield [
            run.run_id,
            run.name,
            this_round.round,
            this_round.state,
            record.measure,
            this_round.score,
            this_round.loss,
            this_round.opened_unix_s,
            this_round.closed_unix_s,
            this_round.devices,
            *(this_round.outcomes[name] for name in ("accepted", "late", "rejected", "missing")),
            this_round.budget_j,
            this_round.spent.at_least_j,
            this_round.spent.unknown,
            this_round.spent.uncertainty_j,
            this_round.known_so_far_j if record.spent.known else None,
            this_round.bytes_up,
            this_round.bytes_down,
            None if this_round.bias is None else this_round.bias.from_plan,
            None if this_round.bias is None else this_round.bias.from_examples,
            this_round.hottest_c,
            this_round.head_version,
        ]


def device_rows(record: RunRecord) -> Iterable[list[Cell]]:
    """A row for each device, as :data:`DEVICES`."""
    shares: Mapping[str, float] = record.example_shares()
    for device in record.devices:
        card, budget = record.cards.get(device.device_id), record.budgets.get(device.device_id)
        yield [
            record.run.run_id,
            record.run.name,
            device.device_id,
            None if card is None else card.board,
            None if card is None else card.software_version,
            None if card is None else f"{card.meter.method} {card.meter.sensor}".strip(),
            device.outcomes.total(),
            *(device.outcomes[name] for name in ("accepted", "late", "rejected", "missing")),
            device.steps_done,
            device.steps_planned,
            device.examples,
            device.say_of_weight(),
            shares.get(device.device_id),
            device.spent.at_least_j,
            device.spent.unknown,
            device.spent.uncertainty_j,
            None if budget is None else budget.granted_j,
            None if budget is None else budget.uncertain_j,
            device.bytes_up,
            device.bytes_down,
            device.hottest_c,
            device.heat_s,
            device.busy_s,
        ]
