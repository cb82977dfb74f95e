"""The Python face of a coordinator: a typed client, and what came of a run as rows.

``Operator`` speaks to a running coordinator as the operator's commands do; :func:`load_outcome` reads what a demo
wrote, or ``coordinator status RUN --json`` printed; :func:`simulate` runs a plan over a fleet that does not exist. Rows
are flat dicts of JSON values, so that ``pandas.DataFrame(outcome.devices)`` is a table; nothing here needs pandas. What
is not known is None, never 0.

docs/python.md is the page of it, with every stable name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.operator import as_json, client
from coordinator.operator.client import DEFAULT_ADDRESS
from coordinator.operator.status import (
    DeviceBudget,
    DeviceRound,
    DeviceStatus,
    ExportSummary,
    RoundStatus,
    RunStatus,
)
from coordinator.operator.watching import follow
from protos.energy.trace import Phase
from protos.errors import DataError, EdgejouleError, PlanError

if TYPE_CHECKING:
    from coordinator.simulation.costs import BoardCosts
    from coordinator.simulation.links import Link
    from coordinator.simulation.results import Simulated

__all__ = [
    "DEFAULT_ADDRESS",
    "DeviceBudget",
    "DeviceRound",
    "DeviceStatus",
    "EdgejouleError",
    "ExportSummary",
    "Operator",
    "Outcome",
    "RoundStatus",
    "Row",
    "RunStatus",
    "load_outcome",
    "simulate",
]

Row = dict[str, Any]
_PHASES = [str(phase) for phase in Phase]
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """What came of a run, as rows.

    The joules of sending a report come with a device's next call: ``send_known`` says whether those are in.

    Attributes:
        run: what holds for the run as a whole: ``run_id``, ``name``, ``state``, ``reason``, ``initial_accuracy``,
            ``final_accuracy``, ``exported_accuracy``, ``energy_j`` (of all accepted devices in all rounds, idling left
            out), ``send_known``, ``bytes_up``, ``bytes_down``.
        rounds: a row for each closed round, round 0 among them: ``round``, ``accuracy``, ``r2``, ``auc``, ``loss``,
            ``bytes_up``, ``bytes_down``, ``devices`` (ordered), ``accepted``, ``energy_j``, ``send_known``.
        devices: a row for each device that was ordered in a round: ``round``, ``device_id``, ``outcome``,
            ``stop_reason``, ``steps_planned``, ``steps_done``, ``examples``, ``embedded``, ``weight``, ``loss``,
            ``budget_j``, ``energy_j``, ``uncertainty_j``, ``send_known``, ``bytes_up``, ``bytes_down``.
        phases: a row for each phase that such a device reported: ``round``, ``device_id``, ``phase``, ``energy_j``,
            ``uncertainty_j``, ``covered_s``, ``uncovered_s``, ``coverage``, ``method``, ``sensor``, ``flags`` (words,
            joined by spaces).
    """

    run: Row
    rounds: list[Row] = field(default_factory=list)
    devices: list[Row] = field(default_factory=list)
    phases: list[Row] = field(default_factory=list)


class Operator(client.Operator):
    """A connection to the coordinator at ``address``, HOST:PORT; used in a ``with`` statement, or closed by hand.

    Nothing is sent before the first call. Runs are named by id, beginning of an id, or name. Every method raises
    UnreachableError when no coordinator answers, UnknownRunError for what it does not hold, and otherwise whatever
    EdgejouleError the coordinator raised. From the client: ``start_run``, ``stop_run``, ``status``, ``runs``,
    ``devices``, ``budgets``, ``export``, ``close``.
    """

    def start(self, plan: str | os.PathLike[str]) -> str:
        """Start the run of a plan file; its id. Paths in the plan are relative to its folder, on the coordinator.

        Raises:
            PlanError: it cannot be read, or is no plan that can work.
        """
        path = Path(plan)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise PlanError(f"cannot be read ({reason})", where=str(path), fix="check the path") from error
        return self.start_run(text, path.resolve().parent)

    def run(self, which: str) -> RunStatus:
        """One run with all of its rounds and devices."""
        (found,) = self.status(which)
        return found

    def wait(
        self, which: str, timeout_s: float | None = None, *, on_round: Callable[[RoundStatus], None] | None = None
    ) -> RunStatus:
        """Wait until a run is over, however it ended; ``on_round`` is told of each round when it closes.

        Raises:
            WaitExpired: it is not over after ``timeout_s``; the run goes on.
        """
        follow(self, which, timeout_s=timeout_s, on_round=on_round)
        return self.run(which)

    def outcome(self, which: str) -> Outcome:
        """What came of a run so far, as rows."""
        return outcome_of(self.run(which))


def simulate(
    plan: str | os.PathLike[str] | Mapping[str, Any],
    *,
    devices: int,
    data: str,
    bundle: str | os.PathLike[str] | None = None,
    partition: str = "dirichlet:0.5",
    seed: int = 0,
    engine: str = "exact",
    boards: Sequence[str] = ("pi4", "pi5", "pi-zero-2", "coral-dev"),
    links: Sequence[str | Link] = ("wifi",),
    costs: Mapping[str, BoardCosts] | None = None,
    spread: float = 0.3,
    noise: float = 0.05,
    stragglers: float = 0.0,
    slowdown: float = 4.0,
    dropout: float = 0.0,
    away_s: float = 60.0,
    budget_j: float | None = None,
    on_round: Callable[[RoundStatus], None] | None = None,
) -> Simulated:
    """Run a plan over a fleet that does not exist, in this process and on virtual time; docs/simulation.md.

    The coordinator, its store, planner, codecs and ledger are the real ones, and so are the rounds of the devices; what
    boards draw, how long work takes and what bytes cost is reckoned. The same arguments give the same bits.

    Args:
        plan: a file, or its tables as a mapping. Paths in it are relative to its folder; of a mapping to this one.
        devices: virtual boards, from 1. A plan that does not say ``round.devices`` waits for all of them.
        data: what they and the held-out part are made of: FILE.npz, idx images, or a folder of images by class.
        bundle: in place of the plan's.
        partition: "iid", "dirichlet:ALPHA" or "natural".
        seed: of the partition, of the boards and of what happens to them; ``run.seed`` of the plan is the training's.
        engine: "exact"; "vectorised" for linear heads and very many devices; "ray": the exact one, with boards at work
            on a Ray cluster, for the same bits.
        boards: names of known boards, taken in turn.
        links: "ethernet", "wifi", "lte", "cat-m", "loopback", or a ``coordinator.simulation.links.Link``; in turn.
        costs: seconds and watts of work by board, as ``coordinator.simulation.costs.costs_of_run`` takes them from a
            metered run; None: those of the table of boards.
        spread: standard deviation of the logarithm of how much slower one board of a kind is than another.
        noise: the same of one round beside another.
        stragglers: share of the boards that work ``slowdown`` times slower.
        dropout: chance that a board loses its power in the middle of an order; it is away for ``away_s`` on average.
        budget_j: the boards' own limit a round, or None.
        on_round: told of each round when it has closed.

    Returns:
        A ``Simulated``: ``outcome`` as of a real run, ``head``, ``arrays`` by round and device, ``virtual_s``.

    Raises:
        EdgejouleError: a setting that cannot be, or a mistake in plan, bundle or data.
    """
    # Here: other programs need not wait for a TFLite runtime.
    from coordinator.simulation.fleet import FleetSettings
    from coordinator.simulation.simulating import simulate as run

    settings = FleetSettings(
        devices=devices, data=data, partition=partition, seed=seed, boards=boards, links=links, costs=costs,
        spread=spread, noise=noise, stragglers=stragglers, slowdown=slowdown, dropout=dropout, away_s=away_s,
        budget_j=budget_j,
    )  # fmt: skip
    return run(plan, settings, bundle=bundle, engine=engine, on_round=on_round)


def outcome_of(run: RunStatus) -> Outcome:
    """A run as rows."""
    # As JSON and back: rows hold plain values, the same as from a file.
    return _rows_of(json.loads(as_json.dump(as_json.run(run))))


def load_outcome(source: str | os.PathLike[str] | Mapping[str, Any]) -> Outcome:
    """Read what came of a run.

    Args:
        source: ``outcome.json`` of a demo or its folder, a file with what ``coordinator status RUN --json`` or
            ``coordinator start PLAN.toml --wait --json`` printed, or the values of such a file.

    Raises:
        DataError: it cannot be read, or is no outcome of a run.
    """
    if isinstance(source, Mapping):
        return _checked(source, "outcome")
    path = Path(source)
    path = path / "outcome.json" if path.is_dir() else path
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError("is too large for the outcome of a run", where=str(path), fix="name outcome.json")
        document = json.loads(path.read_text(encoding="utf-8"))
    except DataError:
        raise
    except OSError as error:
        fix = "name outcome.json, or a file of `coordinator status RUN --json`"
        raise DataError(f"cannot be read ({error.strerror or error})", where=str(path), fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=str(path), fix="name outcome.json") from error
    return _checked(document, str(path))


def _checked(document: Any, where: str) -> Outcome:
    fix = "name outcome.json, or a file of `coordinator status RUN --json`"
    if not isinstance(document, Mapping) or "run_id" not in document or not isinstance(document.get("rounds"), list):
        raise DataError("is no outcome of a run: it has no run_id with rounds", where=where, fix=fix)
    try:
        return _rows_of(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"is no outcome of a run ({type(error).__name__}: {error})", where=where, fix=fix) from error


def _rows_of(document: Mapping[str, Any]) -> Outcome:
    """Rows of a run as a status or a demo has it; they differ in where a device's phases stand."""
    made = Outcome({})
    for this_round in document["rounds"]:
        # A demo lists closed rounds alone, and says no state.
        if this_round.get("state", "closed") != "closed":
            continue
        in_round = _devices_of(this_round)
        for device_id, device, phases in in_round:
            made.devices.append(_device_row(this_round["round"], device_id, device, phases))
            named = [(name, phases[name]) for name in _PHASES if name in phases]
            made.phases.extend(_phase_row(this_round["round"], device_id, name, phase) for name, phase in named)
        mine = made.devices[len(made.devices) - len(in_round) :]
        accepted = [row for row in mine if row["outcome"] == "accepted"]
        made.rounds.append(
            {
                "round": this_round["round"],
                "accuracy": this_round["accuracy"],
                "r2": this_round.get("r2"),
                "auc": this_round.get("auc"),
                "loss": this_round["loss"],
                "bytes_up": this_round["bytes_up"],
                "bytes_down": this_round["bytes_down"],
                "devices": len(mine),
                "accepted": len(accepted),
                "energy_j": _sum(row["energy_j"] for row in accepted),
                "send_known": all(row["send_known"] for row in accepted),
            }
        )
    accuracies = [row["accuracy"] for row in made.rounds]
    made.run.update(
        {
            "run_id": document["run_id"],
            "name": document.get("name"),
            "state": document["state"],
            "reason": document["reason"],
            "initial_accuracy": accuracies[0] if accuracies else None,
            "final_accuracy": accuracies[-1] if accuracies else None,
            "exported_accuracy": document.get("exported_accuracy"),
            "energy_j": _sum(row["energy_j"] for row in made.rounds if row["round"]),
            "send_known": all(row["send_known"] for row in made.rounds),
            "bytes_up": sum(row["bytes_up"] for row in made.rounds),
            "bytes_down": sum(row["bytes_down"] for row in made.rounds),
        }
    )
    return made


def _devices_of(one: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Id, figures and phases of each device of a round."""
    devices = one["devices"]
    if isinstance(devices, Mapping):
        return [(name, device, one["energy"].get(name, {})) for name, device in devices.items()]
    return [(device["device_id"], device, device["energy"]) for device in devices]


def _device_row(number: int, device_id: str, device: Mapping[str, Any], phases: Mapping[str, Any]) -> Row:
    spent = [phase for name, phase in phases.items() if name != Phase.IDLE]
    # Errors of one sensor go together: half widths are added as they are.
    return {
        "round": number,
        "device_id": device_id,
        "outcome": device["outcome"],
        "stop_reason": device["stop_reason"],
        "steps_planned": device["steps_planned"],
        "steps_done": device["steps_done"],
        "examples": device["examples"],
        "embedded": device["embedded"],
        "weight": device["weight"],
        "loss": device.get("loss"),
        "budget_j": device["budget_j"],
        "energy_j": _sum(phase["energy_j"] for phase in spent),
        "uncertainty_j": _sum(phase["uncertainty_j"] for phase in spent),
        "send_known": str(Phase.SEND) in phases,
        "bytes_up": device["bytes_up"],
        "bytes_down": device["bytes_down"],
    }


def _phase_row(number: int, device_id: str, name: str, phase: Mapping[str, Any]) -> Row:
    keys = ("energy_j", "uncertainty_j", "covered_s", "uncovered_s", "coverage", "method", "sensor")
    row: Row = {"round": number, "device_id": device_id, "phase": name}
    return row | {key: phase[key] for key in keys} | {"flags": " ".join(phase["flags"])}


def _sum(values: Any) -> float | None:
    """The sum; None when there is nothing to add, or when one of them is not known."""
    known: Sequence[float | None] = list(values)
    return sum(value for value in known if value is not None) if known and None not in known else None
