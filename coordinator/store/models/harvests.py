"""The table of a harvest that the plan of a run names, as it was when the run was given that plan: in the database,
since a restart, a standby or a restored backup may find no such file any more, or another one."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from coordinator.store.tables import shared_files

FOLDER = "harvests"


def keep(connection: Connection, run_id: str, table: bytes | None) -> None:
    """Keep the table of a run in place of the one before; None: it has none."""
    forget(connection, run_id)
    if table is not None:
        connection.execute(shared_files.insert().values(folder=FOLDER, name=run_id, data=table))


def of_run(connection: Connection, run_id: str) -> bytes | None:
    """The table of a run; None: it has none, or was started by a version that kept none."""
    query = select(shared_files.c.data).where(shared_files.c.folder == FOLDER, shared_files.c.name == run_id)
    found = connection.execute(query).scalar()
    return None if found is None else bytes(found)


def forget(connection: Connection, run_id: str) -> None:
    """Keep no table of a run."""
    connection.execute(delete(shared_files).where(shared_files.c.folder == FOLDER, shared_files.c.name == run_id))
