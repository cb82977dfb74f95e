"""One run followed by polling: what is shown of it, as plain values, made anew only where something changed.

A poll is three calls, however many look on: all runs by their newest round, the rounds of one run that may still
change, and now and then the devices. The last two closed rounds are asked for again, for the joules of their sending
come later; what is kept of a round is one row, and of a device its last figures.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceRound, DeviceStatus, RoundStatus, RunStatus
from coordinator.report.joules import JouleSum, work_of
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import UnknownRunError

__all__ = ["HISTORY", "Following", "changes", "standing"]

HISTORY = 40
"""Rounds whose joules are kept for each device, for a line of sparks."""
DEVICES_S = 4.0
"""The list of devices is asked for that seldom: it sums all that they ever spent."""
_SETTLES = 2
_GONE = {"left": "has left", "away": "is away"}
_WORK = (Phase.RECEIVE, Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)


@dataclass
class _Device:
    """What is known of one device in the run."""

    newest: DeviceRound | None = None
    newest_round: int = 0
    opened_unix_s: float = 0.0
    round_is_open: bool = False
    reported: DeviceRound | None = None
    reported_round: int = 0
    hottest_c: float | None = None
    joules: dict[int, float | None] = field(default_factory=dict)


class Following:
    """Follows one run of a coordinator, or whichever is newest.

    Args:
        connection: not closed here; used by one thread at a time.
        run: an id, the beginning of one, or a name; empty: the newest run that is on, else the newest of all.
    """

    def __init__(self, connection: Operator, run: str = "") -> None:
        self._connection, self._wanted = connection, run
        self._run_id = ""
        self._since = 0
        self._rounds: dict[int, dict[str, Any]] = {}
        self._devices: dict[str, _Device] = {}
        self._cards: dict[str, DeviceStatus] = {}
        self._cards_at_s = float("-inf")
        self.calls = 0
        """Calls to the coordinator so far."""

    def poll(self) -> dict[str, Any]:
        """Ask, and give what is to be shown: ``runs``, ``run``, ``rounds`` by number, ``devices`` by name.

        Raises:
            EdgejouleError: the coordinator does not answer, or refuses.
        """
        runs = self._connection.runs()
        self.calls += 1
        chosen = self._choose(runs)
        if chosen is not None and chosen.run_id != self._run_id:
            self._run_id, self._since, self._rounds, self._devices = chosen.run_id, 0, {}, {}
        if chosen is not None:
            for page in self._connection.pages(self._run_id, self._since):
                self.calls += 1
                chosen = page
                for this_round in page.rounds:
                    self._take(this_round)
            self._since = self._first_unsettled()
        if time.monotonic() - self._cards_at_s >= DEVICES_S:
            self._cards = {device.device_id: device for device in self._connection.devices()}
            self.calls += 1
            self._cards_at_s = time.monotonic()
        return self._shown(runs, chosen)

    def _choose(self, runs: Sequence[RunStatus]) -> RunStatus | None:
        if not self._wanted:
            on = [run for run in runs if run.state == "running"] or [run for run in runs if run.is_on]
            shown = on or list(runs)
            return shown[-1] if shown else None
        named = [run for run in runs if self._wanted in (run.run_id, run.name) or run.run_id.startswith(self._wanted)]
        if not named:
            raise UnknownRunError("there is no such run", where=self._wanted, fix="see: coordinator status")
        # As commands take it: an id before a name, and of one name the newest.
        return next((run for run in named if run.run_id == self._wanted), named[-1])

    def _take(self, this_round: RoundStatus) -> None:
        spent, outcomes = JouleSum(), dict.fromkeys(("accepted", "late", "rejected", "missing", "ordered"), 0)
        for work in this_round.devices:
            outcomes[work.outcome] = outcomes.get(work.outcome, 0) + 1
            for record in work_of(work.energy):
                spent.add(record, work.device_id)
            self._take_device(this_round, work)
        self._rounds[this_round.round] = {
            "round": this_round.round,
            "state": this_round.state,
            "measure": this_round.measure,
            "score": this_round.score
            if this_round.score is not None or this_round.federated is None
            else this_round.federated.accuracy,
            "loss": this_round.loss,
            "spent_j": spent.at_least_j,
            "unknown": spent.unknown,
            "uncertainty_j": spent.uncertainty_j,
            "bytes_up": this_round.bytes_up,
            "bytes_down": this_round.bytes_down,
            "asked": len(this_round.devices),
            **outcomes,
            "opened_unix_s": this_round.opened_unix_s,
            "closed_unix_s": this_round.closed_unix_s,
        }

    def _take_device(self, this_round: RoundStatus, work: DeviceRound) -> None:
        kept = self._devices.setdefault(work.device_id, _Device())
        if this_round.round >= kept.newest_round:
            kept.newest, kept.newest_round = work, this_round.round
            kept.opened_unix_s, kept.round_is_open = this_round.opened_unix_s, this_round.state == "open"
        if work.energy and this_round.round >= kept.reported_round:
            kept.reported, kept.reported_round = work, this_round.round
        if work.strain is not None and work.strain.hottest_c is not None and this_round.round >= kept.reported_round:
            kept.hottest_c = work.strain.hottest_c
        if work.energy:
            kept.joules[this_round.round] = work.spent_j
            while len(kept.joules) > HISTORY:
                del kept.joules[min(kept.joules)]

    def _first_unsettled(self) -> int:
        closed = sorted(number for number, row in self._rounds.items() if row["state"] == "closed")
        return max(0, closed[-_SETTLES]) if len(closed) >= _SETTLES else 0

    def _shown(self, runs: Sequence[RunStatus], run: RunStatus | None) -> dict[str, Any]:
        names = sorted({*self._cards, *self._devices})
        return {
            "runs": {
                each_run.run_id: {
                    "name": each_run.name,
                    "state": each_run.state,
                    "round": max((row.round for row in each_run.rounds), default=0),
                    "rounds_planned": each_run.rounds_planned,
                    "started_unix_s": each_run.started_unix_s,
                }
                for each_run in runs
            },
            "run": None
            if run is None
            else {
                "run_id": run.run_id,
                "name": run.name,
                "state": run.state,
                "reason": run.reason,
                "rounds_planned": run.rounds_planned,
                "started_unix_s": run.started_unix_s,
                "finished_unix_s": run.finished_unix_s,
            },
            "rounds": {str(number): row for number, row in sorted(self._rounds.items())},
            "devices": {name: self._device(name, is_on=run is not None and not run.is_over) for name in names},
        }

    def _device(self, name: str, *, is_on: bool) -> dict[str, Any]:
        card, kept = self._cards.get(name), self._devices.get(name, _Device())
        order, told = kept.newest, kept.reported
        phases = (
            {}
            if told is None
            else {
                str(phase_energy.phase): _phase(phase_energy)
                for phase_energy in told.energy
                if phase_energy.phase in _WORK
            }
        )
        return {
            "device_id": name,
            "state": "unknown" if card is None else card.state,
            "board": "" if card is None else card.board,
            "meter": "" if card is None else f"{card.meter.method} {card.meter.sensor}".strip(),
            "last_seen_unix_s": None if card is None else round(card.last_seen_unix_s),
            "total_j": None if card is None else card.energy_j,
            "total_unknown": 0 if card is None else card.unknown_phases,
            "round": kept.newest_round if order is not None else None,
            "outcome": None if order is None else order.outcome,
            "since_unix_s": kept.opened_unix_s if order is not None and order.outcome == "ordered" else None,
            "steps_done": None if order is None else order.steps_done,
            "steps_planned": None if order is None else order.steps_planned,
            "reported_round": kept.reported_round if told is not None else None,
            "phases": phases,
            "spent_j": None if told is None else told.spent_j,
            "uncertainty_j": _width(told),
            "granted_j": None if order is None else order.budget_j,
            "left_j": _left(order),
            "temperature_c": kept.hottest_c,
            "sparks": list(kept.joules.values()),
            "standing": standing(order, card, is_open=kept.round_is_open),
            "trouble": _is_trouble(order, card, is_on=is_on),
        }


def _phase(record: PhaseEnergy) -> dict[str, Any]:
    watts = record.energy_j / record.covered_s if record.energy_j is not None and record.covered_s > 0 else None
    return {"energy_j": record.energy_j, "uncertainty_j": record.uncertainty_j, "power_w": watts}


def _left(order: DeviceRound | None) -> float | None:
    """Of the newest order's joules; None where it has no limit, or what was spent is not known."""
    if order is None or order.budget_j is None:
        return None
    if not order.energy:
        return order.budget_j if order.outcome == "ordered" else None
    return None if order.spent_j is None else order.budget_j - order.spent_j


def _width(told: DeviceRound | None) -> float | None:
    """Half the 95 % interval of what a device spent; None where it is not known."""
    if told is None or told.spent_j is None:
        return None
    total = JouleSum()
    for record in work_of(told.energy):
        total.add(record, told.device_id)
    return total.uncertainty_j


def _is_trouble(order: DeviceRound | None, card: DeviceStatus | None, *, is_on: bool) -> bool:
    """Whether somebody should look at it: its newest order went wrong, it says so, or it left a run that is on."""
    if order is not None and order.outcome in ("late", "rejected", "missing"):
        return True
    return card is not None and bool(card.reason or (is_on and card.state != "present" and order is not None))


def standing(order: DeviceRound | None, card: DeviceStatus | None, *, is_open: bool) -> str:
    """How a device stands, and why, in a few words; "" for one of which there is nothing to say.

    >>> standing(None, None, is_open=False)
    ''
    """
    said = []
    if order is not None:
        match order.outcome:
            case "ordered" if is_open:
                state = "present" if card is None else card.state
                said.append("at work" if state == "present" else f"owes a report, and {_GONE.get(state, state)}")
            case "late":
                said.append("late: its round had closed")
            case "rejected":
                last = order.refusals[-1] if order.refusals else None
                said.append("rejected" if last is None else f"rejected: {last.detail or last.code}")
            case "missing":
                said.append("missing: no report came in time")
            case "accepted" if order.stop_reason is not None and order.stop_reason != "completed":
                said.append(f"cut short: {order.stop_reason}")
        strain = order.strain
        if strain is not None:
            told = ((strain.heat_s, f"{strain.heat_s:.0f} s too hot"), (strain.busy_s, f"{strain.busy_s:.0f} s busy"))
            said += [words for seconds, words in told if seconds]
            said += ["throttled"] * strain.throttled + ["under-voltage"] * strain.under_voltage
    if card is not None and card.reason and card.reason not in " ".join(said):
        said.append(card.reason)
    elif card is not None and card.state != "present" and not said:
        said.append(card.state)
    return "; ".join(said)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What is different: whole values under their keys, of tables the rows that changed, and None for one that went.

    >>> changes({"devices": {"a": 1, "b": 2}, "run": 5}, {"devices": {"a": 1, "c": 3}, "run": 5})
    {'devices': {'b': None, 'c': 3}}
    """
    found: dict[str, Any] = {}
    for key, value in after.items():
        old = before.get(key)
        if key in ("runs", "rounds", "devices") and isinstance(old, Mapping):
            rows = {name: None for name in old if name not in value}
            rows |= {name: row for name, row in value.items() if old.get(name) != row}
            if rows:
                found[key] = rows
        elif old != value:
            found[key] = value
    return found
