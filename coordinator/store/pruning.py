"""What a coordinator may forget: runs that are long over, the heads and bundles that only they had, and the bytes of
reports whose round is settled.

A run that is not over is never touched, and none that ended less than :data:`KEEP_S` ago: the ledger of a day's budget
counts every run of that day. What a device's work was found to cost stays.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, bindparam, delete, select, text, update

from coordinator.store.database import Database
from coordinator.store.models import harvests, shared_files
from coordinator.store.runs import OPEN_STATES
from coordinator.store.tables import (
    account_marks,
    account_sums,
    bases,
    differences,
    earlier_energy,
    energy,
    events,
    grants,
    heads,
    orders,
    refusals,
    reports,
    round_plans,
    rounds,
    runs,
    server_states,
    shown,
    strains,
)

KEEP_S = 2 * 86_400.0
# In the order in which rows may go, since they name each other.
_OF_RUN = (
    events, account_marks, account_sums, differences, shown, bases, server_states, round_plans, refusals, strains,
    energy, earlier_energy, grants, reports, orders, rounds, runs,
)  # fmt: skip
_FOLDERS = ("bundles", "evaluations")
_OWN = (reports.c.round == bindparam("number")) & reports.c.folded_in.is_(None)
_FORGET_BYTES = (
    update(reports)
    .where((reports.c.run_id == bindparam("of_run")) & (_OWN | (reports.c.folded_in == bindparam("number"))))
    .values(data=b"")
)


@dataclass(frozen=True)
class Pruned:
    """What was forgotten.

    Attributes:
        runs: their ids, the oldest first.
        before_bytes, after_bytes: of the state folder.
    """

    runs: tuple[str, ...]
    before_bytes: int
    after_bytes: int


def prune(
    db: Database, state: Path, *, older_than_s: float, most_bytes: int | None = None, now_unix_s: float | None = None
) -> Pruned:
    """Forget runs that ended longer ago than ``older_than_s``; and then the oldest of the others, until the state
    folder has ``most_bytes`` at most.

    Raises:
        StoreError: nothing can be written now; what was forgotten before stays forgotten.
    """
    now_s = time.time() if now_unix_s is None else now_unix_s
    before = size_of(state)
    forgotten: list[str] = []
    for run_id, ended_s in _ended(db):
        age_s = now_s - ended_s
        if age_s < KEEP_S:
            continue
        too_large = most_bytes is not None and size_of(state) > most_bytes
        if age_s < older_than_s and not too_large:
            continue
        with db.writing() as connection:
            _forget(connection, run_id)
        forgotten.append(run_id)
        if most_bytes is not None:
            _shrink(db)
    _sweep(db, state)
    _shrink(db)
    return Pruned(tuple(forgotten), before, size_of(state))


def size_of(state: Path) -> int:
    """Bytes of a state folder."""
    return sum(path.stat().st_size for path in state.rglob("*") if path.is_file())


def forget_bytes(connection: Connection, run_id: str, number: int) -> None:
    """Forget the bytes of the reports that counted in a round that is settled; their figures and hashes stay."""
    connection.execute(_FORGET_BYTES, {"of_run": run_id, "number": number})


def _ended(db: Database) -> list[tuple[str, float]]:
    with db.reading() as connection:
        query = (
            select(runs.c.run_id, runs.c.finished_unix_s)
            .where(runs.c.state.not_in(OPEN_STATES), runs.c.finished_unix_s.is_not(None))
            .order_by(runs.c.finished_unix_s)
        )
        return [(row.run_id, row.finished_unix_s) for row in connection.execute(query)]


def _forget(connection: Connection, run_id: str) -> None:
    for table in _OF_RUN:
        connection.execute(delete(table).where(table.c.run_id == run_id))
    harvests.forget(connection, run_id)
    named = (
        select(rounds.c.head_version).where(rounds.c.head_version.is_not(None)),
        select(runs.c.initial_head),
        select(shown.c.version),
        select(bases.c.version),
        select(server_states.c.version),
    )
    left = [version for query in named for version in connection.execute(query).scalars()]
    there = list(connection.execute(select(heads.c.version)).scalars())
    for version in sorted(set(there) - set(left)):
        connection.execute(delete(heads).where(heads.c.version == version))


def _sweep(db: Database, state: Path) -> None:
    """Remove bundles and embedded held-out data that no run names any more."""
    with db.reading() as connection:
        rows = list(connection.execute(select(runs.c.bundle_id, runs.c.evaluation_key)))
    kept = {row.bundle_id.removeprefix("sha256:") for row in rows} | {row.evaluation_key for row in rows}
    shared_files.forget_all_but(db, {one for one in kept if one is not None})
    for folder in _FOLDERS:
        for path in (state / folder).glob("*"):
            if path.stem not in kept and path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else os.unlink(path)


def _shrink(db: Database) -> None:
    """Give the space back that rows have left."""
    if db.dialect != "sqlite":
        return
    with db.outside() as connection:
        connection.execute(text("VACUUM"))
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
