"""What the server optimiser of a run remembers, kept like a head: by the version that its content gives it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from coordinator.store.models import heads
from coordinator.store.tables import heads as kept
from coordinator.store.tables import server_states
from protos.update.trees import Tree


def put(connection: Connection, run_id: str, state: Tree) -> None:
    """Keep the state of a run; it takes the place of the one before, which nothing else needs."""
    before = _version(connection, run_id)
    version = heads.put(connection, state)
    connection.execute(delete(server_states).where(server_states.c.run_id == run_id))
    connection.execute(server_states.insert().values(run_id=run_id, version=version))
    if before is not None and before != version and not _is_used(connection, before):
        connection.execute(delete(kept).where(kept.c.version == before))


def get(connection: Connection, run_id: str) -> Tree | None:
    """The state of a run, or None."""
    version = _version(connection, run_id)
    return None if version is None else heads.get(connection, version)


def _version(connection: Connection, run_id: str) -> str | None:
    return connection.execute(select(server_states.c.version).where(server_states.c.run_id == run_id)).scalar()


def _is_used(connection: Connection, version: str) -> bool:
    query = select(server_states.c.run_id).where(server_states.c.version == version)
    return connection.execute(query.limit(1)).first() is not None
