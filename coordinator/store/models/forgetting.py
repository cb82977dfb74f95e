"""Heads of a run that must not stay: taken out of its rounds, and deleted where nothing else needs them."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from coordinator.store import clock
from coordinator.store.models import heads as kept
from coordinator.store.tables import bases, differences, heads, rounds, runs, server_states, shown
from protos.update.trees import Tree


def replace_heads(connection: Connection, run_id: str, head: Tree, accuracy: float | None, loss: float | None) -> str:
    """Take every head after round 0 out of a run that is over, and publish this one as a round of its own; returns its
    version. The rounds stay, with their accuracy and what they cost."""
    gone = set(
        connection.execute(
            select(rounds.c.head_version).where(
                rounds.c.run_id == run_id, rounds.c.round > 0, rounds.c.head_version.is_not(None)
            )
        ).scalars()
    )
    for table in (shown, bases, server_states):
        gone |= set(connection.execute(select(table.c.version).where(table.c.run_id == run_id)).scalars())
    connection.execute(delete(shown).where(shown.c.run_id == run_id))
    connection.execute(delete(bases).where(bases.c.run_id == run_id))
    connection.execute(delete(server_states).where(server_states.c.run_id == run_id))
    connection.execute(delete(differences).where(differences.c.run_id == run_id))
    connection.execute(update(rounds).where(rounds.c.run_id == run_id, rounds.c.round > 0).values(head_version=None))
    version = kept.put(connection, head)
    last = connection.execute(
        select(rounds.c.round).where(rounds.c.run_id == run_id).order_by(rounds.c.round.desc()).limit(1)
    ).scalar_one()
    now = clock.unix_s()
    connection.execute(
        rounds.insert().values(
            run_id=run_id, round=last + 1, state="closed", attempt=1, opened_unix_s=now, closed_unix_s=now,
            head_version=version, accuracy=accuracy, loss=loss,
        )
    )  # fmt: skip
    _drop(connection, gone - {version})
    return version


def _drop(connection: Connection, versions: set[str]) -> None:
    """Delete heads that no run, round or device holds."""
    for version in versions:
        used = (
            select(rounds.c.head_version).where(rounds.c.head_version == version),
            select(runs.c.initial_head).where(runs.c.initial_head == version),
            select(shown.c.version).where(shown.c.version == version),
            select(bases.c.version).where(bases.c.version == version),
            select(server_states.c.version).where(server_states.c.version == version),
        )
        if all(connection.execute(query.limit(1)).first() is None for query in used):
            connection.execute(delete(heads).where(heads.c.version == version))
