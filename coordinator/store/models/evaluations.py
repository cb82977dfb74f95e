"""How good heads are on the devices' own held-out examples, kept among the events of a run.

One row for each device that said something of the head after a round, with its counts; when no more are expected they
are added up to one. Means over all are weighted by counts: the sums of right answers, and of losses, over the sum of
examples.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from sqlalchemy import Connection, delete, select

from coordinator.operator.status import FederatedEvaluation
from coordinator.store import clock
from coordinator.store.tables import events
from protos.orders import HeadEvaluation

KIND = "evaluation"


@dataclass(frozen=True)
class Said:
    """What one device said of the head after a round.

    Attributes:
        evaluation: None where it has no held-out examples.
        adopted: whether it took the head to work with; None where it was not sent for that.
    """

    device_id: str
    evaluation: HeadEvaluation | None
    adopted: bool | None = None


def put(connection: Connection, run_id: str, number: int, said: Iterable[Said]) -> None:
    """Write down what devices say of the head after round ``number``; the newest word of each counts."""
    said = list(said)
    if not said:
        return
    mine = {judgement.device_id for judgement in said}
    query = select(events.c.sequence, events.c.detail).where(*_these(run_id, number))
    old = [row.sequence for row in connection.execute(query) if json.loads(row.detail).get("device") in mine]
    if old:
        connection.execute(delete(events).where(events.c.sequence.in_(old)))
    rows = [{**_row(run_id, number), "detail": json.dumps(_detail(judgement))} for judgement in said]
    connection.execute(events.insert(), rows)


def add_up(connection: Connection, run_id: str, number: int) -> None:
    """Make one row of those of round ``number``."""
    query = select(events.c.detail).where(*_these(run_id, number))
    details = [json.loads(detail) for detail in connection.execute(query).scalars()]
    if len(details) < 2:
        return
    connection.execute(delete(events).where(*_these(run_id, number)))
    connection.execute(events.insert().values(**_row(run_id, number), detail=json.dumps(_summed(details))))


def of_run(connection: Connection, run_id: str, since_round: int, last_round: int) -> dict[int, FederatedEvaluation]:
    """By round, of the rounds in this range of which something was said."""
    query = select(events.c.round, events.c.detail).where(
        events.c.run_id == run_id, events.c.kind == KIND, events.c.round >= since_round, events.c.round <= last_round
    )
    by_round: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in connection.execute(query):
        by_round[row.round].append(json.loads(row.detail))
    return {number: _shown(_summed(details)) for number, details in by_round.items()}


def _these(run_id: str, number: int) -> tuple[Any, ...]:
    return events.c.run_id == run_id, events.c.kind == KIND, events.c.round == number


def _row(run_id: str, number: int) -> dict[str, Any]:
    return {"run_id": run_id, "round": number, "unix_s": clock.unix_s(), "kind": KIND}


def _detail(judgement: Said) -> dict[str, Any]:
    found = judgement.evaluation
    taken = {"adopted": int(judgement.adopted is True), "kept": int(judgement.adopted is False)}
    if found is None:
        return {"device": judgement.device_id, "devices": 0, "examples": 0, "correct": 0, "loss_sum": 0.0,
                "class_examples": [], "class_correct": [], **taken}  # fmt: skip
    return {
        "device": judgement.device_id,
        "devices": 1,
        "examples": found.examples,
        "correct": found.correct,
        "loss_sum": found.loss * found.examples,
        "class_examples": list(found.class_examples),
        "class_correct": list(found.class_correct),
        **taken,
    }


def _summed(details: Iterable[dict[str, Any]]) -> dict[str, Any]:
    details = list(details)
    total: dict[str, Any] = {
        key: sum(detail[key] for detail in details)
        for key in ("devices", "examples", "correct", "loss_sum", "adopted", "kept")
    }
    for key in ("class_examples", "class_correct"):
        total[key] = [sum(column) for column in zip_longest(*(detail[key] for detail in details), fillvalue=0)]
    return total


def _shown(total: dict[str, Any]) -> FederatedEvaluation:
    examples = total["examples"]
    return FederatedEvaluation(
        devices=total["devices"],
        examples=examples,
        correct=total["correct"],
        loss=total["loss_sum"] / examples if examples else 0.0,
        class_examples=tuple(total["class_examples"]),
        class_correct=tuple(total["class_correct"]),
        adopted=total["adopted"],
        kept=total["kept"],
    )
