"""The coordinates in which the devices of a run train, kept like a head: by the version that its content gives it."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from coordinator.store.models import heads
from coordinator.store.tables import bases
from protos.statistics.whitening import Basis


def put(connection: Connection, run_id: str, basis: Basis) -> None:
    """Keep the basis of a run; it takes the place of an earlier one."""
    version = heads.put(connection, basis.tree)
    connection.execute(delete(bases).where(bases.c.run_id == run_id))
    connection.execute(bases.insert().values(run_id=run_id, version=version))


def get(connection: Connection, run_id: str) -> Basis | None:
    """The basis of a run, or None."""
    version = connection.execute(select(bases.c.version).where(bases.c.run_id == run_id)).scalar()
    return None if version is None else Basis(heads.get(connection, version))
