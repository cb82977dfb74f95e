"""Files that runs need, kept on the database server beside the rows: a standby has another state folder, perhaps on
another machine. A SQLite file has no standby, and keeps none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from sqlalchemy import delete, select

from coordinator.store.database import Database
from coordinator.store.models import harvests
from coordinator.store.tables import shared_files
from protos.errors import StoreError

BUNDLES, EVALUATIONS = "bundles/", "evaluations"


def share(db: Database, folder: str, files: Iterable[Path]) -> None:
    """Keep copies of these files under ``folder``, unless they are there: their names say what is in them.

    Raises:
        StoreError: a file cannot be read, or nothing can be written now.
    """
    if db.dialect == "sqlite":
        return
    with db.reading() as connection:
        query = select(shared_files.c.name).where(shared_files.c.folder == folder)
        there = set(connection.execute(query).scalars())
    try:
        rows = [
            {"folder": folder, "name": path.name, "data": path.read_bytes()} for path in files if path.name not in there
        ]
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=str(error.filename)) from error
    if rows:
        with db.writing() as connection:
            connection.execute(shared_files.insert(), rows)


def shared(db: Database, folder: str, name: str | None = None) -> dict[str, bytes]:
    """The files kept under ``folder``, or one of them, by name."""
    query = select(shared_files.c.name, shared_files.c.data).where(shared_files.c.folder == folder)
    if name is not None:
        query = query.where(shared_files.c.name == name)
    with db.reading() as connection:
        return {row.name: bytes(row.data) for row in connection.execute(query) if "/" not in row.name}


def forget_all_but(db: Database, kept: Collection[str]) -> None:
    """Forget the copies that no run names.

    Args:
        kept: last parts of folders, and stems of names.
    """
    if db.dialect == "sqlite":
        return
    with db.writing() as connection:
        for folder, name in connection.execute(select(shared_files.c.folder, shared_files.c.name)).all():
            if folder == harvests.FOLDER:
                # They go with their runs.
                continue
            own = Path(name).stem if folder == EVALUATIONS else folder.removeprefix(BUNDLES)
            if own not in kept:
                which = (shared_files.c.folder == folder) & (shared_files.c.name == name)
                connection.execute(delete(shared_files).where(which))
