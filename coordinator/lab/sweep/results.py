"""What one run came to, as figures that are compared, and a sweep's folder, in which every finished run stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator.lab.outcome import best_of
from coordinator.operator import as_json
from coordinator.operator.status import RunStatus
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.errors import DataError

__all__ = ["FIGURES", "Kept", "Result", "result_of"]

FIGURES = ("final", "best", "energy_j", "bytes_up", "bytes_down", "rounds", "run_s")
"""Figures of a run that are compared: score of the last head and of the best one, joules of all devices (idling left
out), bytes, rounds that closed, seconds from the first round's opening to the last one's closing."""


@dataclass(frozen=True)
class Result:
    """One finished run. ``None`` is a figure that is not known; ``measure`` says what ``final`` and ``best`` are."""

    run_id: str
    cell: str
    seed: int
    plan_sha256: str
    measure: str
    final: float | None
    best: float | None
    energy_j: float | None
    bytes_up: int
    bytes_down: int
    rounds: int
    run_s: float | None
    reason: str = ""

    def figure(self, name: str) -> float | None:
        """One of `FIGURES`."""
        value = getattr(self, name)
        return None if value is None else float(value)


def result_of(status: RunStatus, *, cell: str, seed: int, plan_toml: str) -> Result:
    """The figures of a run. Joules are known where every device that was asked told all of its phases."""
    closed = [this_round for this_round in status.rounds if this_round.state == "closed"]
    best = best_of(closed)
    spent = [
        device.spent_j for one in closed for device in one.devices if one.round and device.outcome != "ordered"
    ]  # fmt: skip
    known = [value for value in spent if value is not None]
    trained = [this_round for this_round in closed if this_round.round]
    ends = [this_round.closed_unix_s for this_round in trained if this_round.closed_unix_s is not None]
    return Result(
        run_id=status.run_id,
        cell=cell,
        seed=seed,
        plan_sha256=hashlib.sha256(plan_toml.encode()).hexdigest(),
        measure=next((this_round.measure for this_round in closed if this_round.score is not None), "accuracy"),
        final=closed[-1].score if closed else None,
        best=None if best is None else best.score,
        energy_j=sum(known) if known and len(known) == len(spent) else None,
        bytes_up=sum(this_round.bytes_up for this_round in closed),
        bytes_down=sum(this_round.bytes_down for this_round in closed),
        rounds=len(trained),
        run_s=max(ends) - min(this_round.opened_unix_s for this_round in trained) if ends else None,
        reason=status.reason,
    )


class Kept:
    """A sweep's folder: ``plans/``, ``runs/`` (all that the coordinator says of each), ``started.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plans").mkdir(parents=True, exist_ok=True)
        (folder / "runs").mkdir(exist_ok=True)

    def plan(self, slug: str, text: str) -> Path:
        """Keep a plan; its file."""
        path = self.folder / "plans" / f"{slug}.toml"
        with write_whole(path) as file:
            file.write(text.encode())
        return path

    def done(self, slug: str, plan_toml: str) -> Result | None:
        """The result of a run that has finished with this very plan, or None."""
        path = self.folder / "runs" / f"{slug}.json"
        if not path.exists():
            return None
        found = read_result(path)
        return found if found.plan_sha256 == hashlib.sha256(plan_toml.encode()).hexdigest() else None

    def keep(self, slug: str, result: Result, status: RunStatus) -> None:
        """Write down a run that has finished."""
        values = document("sweep-run", {**asdict(result), "run": as_json.run(status)})
        with write_whole(self.folder / "runs" / f"{slug}.json") as file:
            file.write((json.dumps(values, indent=2) + "\n").encode())

    def started(self) -> dict[str, str]:
        """Runs that were started and are not known to be over: digest of the plan to id."""
        try:
            found = json.loads((self.folder / "started.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def start(self, plan_toml: str, run_id: str) -> None:
        """Write down that a run was started, before it is waited for."""
        values = {**self.started(), hashlib.sha256(plan_toml.encode()).hexdigest(): run_id}
        with write_whole(self.folder / "started.json") as file:
            file.write(json.dumps(values, indent=2).encode())


def read_result(path: Path) -> Result:
    """The result in a file of a sweep.

    Raises:
        DataError: it is none.
    """
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] != "edgejoule.sweep-run/1":
            raise ValueError(values["schema"])
        names = Result.__dataclass_fields__
        return Result(**{name: values[name] for name in names})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("is no run of a sweep", where=str(path), fix="give a file of its runs/ folder") from error


def by_cell(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results of each cell, by seed."""
    made: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        made.setdefault(result.cell, []).append(result)
    return made
