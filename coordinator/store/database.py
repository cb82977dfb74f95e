"""Opening a database, and transactions that are whole or not at all.

SQLite: write-ahead log with `synchronous=FULL`, so that a commit is on disk when it returns; `BEGIN IMMEDIATE` for
writing, so that a transaction never fails half-way for want of the lock. Any other SQLAlchemy URL works the same way;
PostgreSQL is tested (`postgresql+psycopg://...`).

Every database error leaves here as :class:`~protos.errors.StoreError`, in one line and without the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, select, text, update
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import QueuePool

from coordinator.store import time_limits
from coordinator.store.layouts import LAYOUT, STEPS, lacking, upgrade
from coordinator.store.tables import fence, layout, metadata
from protos.errors import ConfigError, EdgejouleError, RefusedError, StoreError
from protos.extras import advice

BUSY_MS = 5000
# Any number that no other program is likely to lock on.
_ADVISORY_LOCK = 0x65646A6F756C65
# What PostgreSQL and SQLite call a row whose key is taken.
_UNIQUE = frozenset({"23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID"})


class AlreadyThereError(Exception):
    """A row that must be unique is there already. Internal: never shown to a user."""


class FencedError(StoreError):
    """Another coordinator has taken over this database. Nothing was written, and nothing will be."""


class DamagedError(StoreError):
    """What is stored is bad, or was asked for wrongly: trying again changes nothing. Whoever finds it gives up what
    needs it; any other StoreError passes when the disk, the lock or the server is back."""


def sqlite_url(path: Path) -> URL:
    """The URL of a SQLite file, whatever its name: in a text, what follows a `?` would be no part of it."""
    return URL.create("sqlite", database=str(path))


class Database:
    """One database of a coordinator.

    Args:
        url: an SQLAlchemy URL.

    Attributes:
        on_fenced: called, in the thread that writes, when another coordinator has taken over.

    Raises:
        ConfigError: a URL that cannot be used, or whose driver is not installed.
        StoreError: the database does not open, or has a newer layout. An older one is brought up to date.
        RefusedError: another coordinator uses this database (PostgreSQL; a SQLite file is kept by the lock of the
            state directory).
    """

    def __init__(self, url: str | URL) -> None:
        self._where, self._engine = _engine(url)
        self._patience = None if self.dialect == "sqlite" else time_limits.limit(self._engine)
        self._guard: Connection | None = None
        self._epoch: int | None = None
        self.on_fenced: Callable[[], None] = lambda: None
        try:
            self._guard = self._only_one()
            with self.writing() as connection:
                metadata.create_all(connection)
                versions = list(connection.execute(select(layout.c.version)).scalars())
                if not versions:
                    connection.execute(layout.insert().values(version=LAYOUT))
                elif len(versions) == 1 and versions[0] in STEPS:
                    upgrade(connection, versions[0])
                    connection.execute(update(layout).values(version=LAYOUT))
                elif versions != [LAYOUT]:
                    raise StoreError(
                        f"has layout {versions}, this version reads up to {LAYOUT}",
                        where=self._where,
                        fix="use another state directory, or the version that wrote it",
                    )
                if missing := lacking(connection):
                    raise StoreError(
                        f"has layout {LAYOUT} without {', '.join(missing)}: another build wrote it",
                        where=self._where,
                        fix="use that build, or another state directory",
                    )
                _add_indices(connection)
                if self._guard is not None:
                    self._epoch = _next_epoch(connection)
        except BaseException:
            self.close()
            raise

    def _only_one(self) -> Connection | None:
        if self._engine.dialect.name != "postgresql":
            return None
        with self._translated():
            guard = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            held = guard.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": _ADVISORY_LOCK}).scalar()
        if held:
            return guard
        guard.close()
        raise RefusedError(
            "another coordinator uses this database", where=self._where, fix="stop it, or use another database"
        )

    @property
    def dialect(self) -> str:
        """ "sqlite", "postgresql", ..."""
        return self._engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that changes nothing."""
        with self._translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction: committed, and on disk, when the block ends; undone when it raises.

        Raises:
            AlreadyThereError: a unique row is there already.
            DamagedError: what is stored is bad.
            FencedError: another coordinator has taken over.
            StoreError: disk full, locked, unreachable: it may pass.
        """
        with self._translated(), self._engine.connect() as connection:
            writer = connection.execution_options(edgejoule_writes=True)
            with writer.begin():
                self._check_epoch(writer)
                yield writer

    @contextmanager
    def outside(self) -> Iterator[Connection]:
        """A connection that is in no transaction, for what can be done in none, such as giving space back."""
        with self._translated(), self._engine.connect() as connection:
            yield connection.execution_options(edgejoule_outside=True, isolation_level="AUTOCOMMIT")

    def _check_epoch(self, connection: Connection) -> None:
        """The lock of a server goes with its connection, whatever ended that. So each transaction looks whether
        another coordinator has come since, and holds it off until it is done."""
        if self._epoch is None:
            return
        now = connection.execute(select(fence.c.epoch).with_for_update(read=True)).scalar()
        if now != self._epoch:
            self.on_fenced()
            raise FencedError(
                "another coordinator has taken over this database",
                where=self._where,
                fix="leave it, or stop it first",
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError as error:
            if _is_unique_violation(error):
                raise AlreadyThereError(_one_line(error)) from error
            raise DamagedError(
                _one_line(error), where=self._where, fix="what is stored does not fit together; restore a backup"
            ) from error
        except SQLAlchemyError as error:
            if _may_pass(error):
                fix = "free space, or check permissions and the server"
                raise StoreError(_one_line(error), where=self._where, fix=fix) from error
            fix = "restore the database from a copy"
            raise DamagedError(_one_line(error), where=self._where, fix=fix) from error

    def keep_lease(self) -> None:
        """Look after the lock that a server holds for this coordinator. It goes with its connection, whatever ends
        that: then it is taken again, unless another coordinator has come, and a standby would have.

        Raises:
            FencedError: another coordinator has taken over; :attr:`on_fenced` was called.
            StoreError: the server does not answer now.
        """
        if self._guard is None:
            return
        try:
            with self._translated():
                self._guard.execute(text("SELECT 1"))
            return
        except StoreError:
            with suppress(SQLAlchemyError):
                self._guard.invalidate()
                self._guard.close()
        try:
            self._guard = self._only_one()
        except RefusedError as error:
            self.on_fenced()
            fix = "leave it, or stop it first"
            raise FencedError("another coordinator has taken over this database", where=self._where, fix=fix) from error
        # Another may have come and gone meanwhile.
        with self.writing():
            pass

    def close(self) -> None:
        """Let go of every connection."""
        pool = self._engine.pool
        if self._guard is not None:
            with suppress(SQLAlchemyError):
                # Asked for, and answered: the server ends a closed connection, and with it its locks, some time later.
                self._guard.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
            with suppress(SQLAlchemyError):
                self._guard.close()
        with suppress(SQLAlchemyError):
            self._engine.dispose()
            # Where the server was gone, the engine has another pool by now, and has let go of this one as it was.
            pool.dispose()
        if self._patience is not None:
            self._patience.close()


def _next_epoch(connection: Connection) -> int:
    """Take over: whoever wrote before finds another number, and writes no more."""
    taken = connection.execute(update(fence).values(epoch=fence.c.epoch + 1).returning(fence.c.epoch)).scalar()
    if taken is None:
        connection.execute(fence.insert().values(epoch=1))
        return 1
    return int(taken)


def _add_indices(connection: Connection) -> None:
    """Indices that this version has and the one that made the tables had not. They change no row, so that an older
    version of this layout goes on reading and writing."""
    for table in metadata.sorted_tables:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            index.create(connection, checkfirst=True)


def _engine(url: str | URL) -> tuple[str, Engine]:
    try:
        parsed = make_url(url)
        where = parsed.render_as_string(hide_password=True)
        sqlite = parsed.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"poolclass": QueuePool, "pool_size": 4}
        if sqlite:
            options["connect_args"] = {"check_same_thread": False}
        else:
            options["connect_args"] = time_limits.connect_arguments(parsed.get_driver_name(), parsed.query)
        engine = create_engine(parsed, **options)
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise ConfigError(
            f"not a usable database URL ({_one_line(error)})",
            where="--database",
            fix=f"give sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME ({advice('postgresql')})",
        ) from error
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return where, engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    # The driver's own habit of beginning transactions late is turned off; `_begin_sqlite` says when.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {BUSY_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}").fetchall()
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    if connection.get_execution_options().get("edgejoule_outside", False):
        return
    writes = connection.get_execution_options().get("edgejoule_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _is_unique_violation(error: IntegrityError) -> bool:
    """A missing order or an empty column is no row that is there already."""
    cause = error.orig
    code = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)
    return code in _UNIQUE


def _may_pass(error: SQLAlchemyError) -> bool:
    """Whether the same statement may succeed later: a full disk, a lock, a server that is away. A damaged file, a row
    or column that is not there, or a value that does not fit stay as they are."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # SQLite says so of a missing table as well.
    if getattr(getattr(error, "orig", None), "sqlite_errorname", None) == "SQLITE_ERROR":
        return False
    return isinstance(error, OperationalError | InterfaceError | PoolTimeout)


def _one_line(error: BaseException) -> str:
    if isinstance(error, EdgejouleError):
        return error.what
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return lines[0][:200]
