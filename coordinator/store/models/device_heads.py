"""Which head the devices of a run hold, and the coded differences that led there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, update

from coordinator.store.models import heads
from coordinator.store.tables import differences, rounds, runs, shown
from coordinator.store.tables import heads as heads_table
from protos.update.trees import Tree

# Made once: putting a statement together costs more than a small one takes.
_USES = [
    select(column).where(column == bindparam("version")).limit(1)
    for column in (rounds.c.head_version, runs.c.initial_head, shown.c.version)
]
_FORGET = delete(heads_table).where(heads_table.c.version == bindparam("version"))
_LINKS = (
    select(differences.c.sequence, differences.c.before, differences.c.after)
    .where(differences.c.run_id == bindparam("run"))
    .order_by(differences.c.sequence)
)


@dataclass(frozen=True)
class StoredLink:
    """One difference as it is kept: serialised, and between which versions."""

    before: str
    after: str
    data: bytes


def put(connection: Connection, run_id: str, tree: Tree, links: Iterable[StoredLink]) -> None:
    """Keep what the devices of a run hold now, and just these links, oldest first. A head that was held before and
    that no round made is deleted."""
    earlier = connection.execute(select(shown.c.version).where(shown.c.run_id == run_id)).scalar()
    version = heads.put(connection, tree)
    if earlier is None:
        connection.execute(shown.insert().values(run_id=run_id, version=version))
    elif earlier != version:
        connection.execute(update(shown).where(shown.c.run_id == run_id).values(version=version))
        _forget(connection, earlier)
    _put_links(connection, run_id, list(links))


def _put_links(connection: Connection, run_id: str, links: list[StoredLink]) -> None:
    there = list(connection.execute(_LINKS, {"run": run_id}))
    wanted = [(link.before, link.after) for link in links]
    # Links are added at one end and dropped at the other: what stays is neither read nor written again.
    kept = next((n for n in range(min(len(there), len(wanted)), 0, -1) if _pairs(there)[-n:] == wanted[:n]), 0)
    stay = {row.sequence for row in there[len(there) - kept :]}
    for row in there:
        if row.sequence not in stay:
            connection.execute(
                delete(differences).where(differences.c.run_id == run_id, differences.c.sequence == row.sequence)
            )
    following = max((row.sequence for row in there), default=0) + 1
    for number, link in enumerate(links[kept:], following):
        connection.execute(differences.insert(), {"run_id": run_id, "sequence": number, **vars(link)})


def _pairs(rows: Iterable[object]) -> list[tuple[str, str]]:
    return [(row.before, row.after) for row in rows]  # type: ignore[attr-defined]


def get(connection: Connection, run_id: str) -> tuple[Tree, list[StoredLink]] | None:
    """What the devices of a run hold and the links to it, oldest first; None before its first round was closed.

    Raises:
        StoreError: what is stored is damaged.
    """
    version = connection.execute(select(shown.c.version).where(shown.c.run_id == run_id)).scalar()
    if version is None:
        return None
    query = select(differences).where(differences.c.run_id == run_id).order_by(differences.c.sequence)
    links = [StoredLink(row.before, row.after, row.data) for row in connection.execute(query)]
    return heads.get(connection, version), links


def _forget(connection: Connection, version: str) -> None:
    if any(connection.execute(query, {"version": version}).first() is not None for query in _USES):
        return
    connection.execute(_FORGET, {"version": version})
