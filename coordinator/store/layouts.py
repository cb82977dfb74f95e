"""The layouts that a database had, and the steps from each to the next.

A step changes tables that are there; tables that are new are made from :mod:`coordinator.store.tables`. It runs in one
transaction with the new number, so that a database has one layout or the other, also after a power cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, inspect, text

from coordinator.store.tables import metadata

# A layout keeps its columns: `tests/coordinator/landed/tables-N.txt` is what this one has.
LAYOUT = 6


def _attempts(connection: Connection) -> None:
    """Layout 2: orders and reports know their attempt. Layout 1 counted every order of a round as one of its newest
    attempt, and did not know the attempt of a report."""
    connection.execute(text("ALTER TABLE orders ADD COLUMN attempt INTEGER DEFAULT 1 NOT NULL"))
    connection.execute(text("ALTER TABLE reports ADD COLUMN attempt INTEGER"))
    connection.execute(
        text(
            "UPDATE orders SET attempt = (SELECT rounds.attempt FROM rounds "
            "WHERE rounds.run_id = orders.run_id AND rounds.round = orders.round)"
        )
    )


def _reasons_and_sessions(connection: Connection) -> None:
    """Layout 3: devices say why they cannot train, or left; orders know the start of the device that they were handed
    to, and grants what earlier starts may have spent; runs know the coordinates in which their devices train, in a
    table of its own. Of older orders nobody knows the start: they are taken for handed to whoever asks."""
    connection.execute(text("ALTER TABLE devices ADD COLUMN reason TEXT DEFAULT '' NOT NULL"))
    connection.execute(text("ALTER TABLE orders ADD COLUMN session VARCHAR(256)"))
    connection.execute(text("ALTER TABLE grants ADD COLUMN lost_j FLOAT DEFAULT 0 NOT NULL"))


def _sums(connection: Connection) -> None:
    """Layout 4: the ledger is summed up to a round, in tables that are new and begin empty."""


def _late_reports(connection: Connection) -> None:
    """Layout 5: a report may count in a later round than its own, and a round knows the head that was trained from."""
    connection.execute(text("ALTER TABLE reports ADD COLUMN folded_in INTEGER"))
    connection.execute(text("ALTER TABLE rounds ADD COLUMN trained_from VARCHAR(64)"))


def _upgrades(connection: Connection) -> None:
    """Layout 6: upgrades of the devices' service, in tables that are new and begin empty."""


# By the layout that it starts from.
STEPS: Mapping[int, Callable[[Connection], None]] = {
    1: _attempts,
    2: _reasons_and_sessions,
    3: _sums,
    4: _late_reports,
    5: _upgrades,
}


def upgrade(connection: Connection, found: int) -> None:
    """Bring a database from an older layout to this one."""
    for number in range(found, LAYOUT):
        STEPS[number](connection)


def lacking(connection: Connection) -> list[str]:
    """Columns of this version that the database has not, as ``table.column``: it has the number of this layout, and
    was made by a build whose layout of that number was another."""
    there = inspect(connection).get_multi_columns(filter_names=list(metadata.tables))
    found = {table: {column["name"] for column in columns} for (_, table), columns in there.items()}
    return sorted(
        f"{table.name}.{column.name}"
        for table in metadata.sorted_tables
        for column in table.columns
        if column.name not in found.get(table.name, set())
    )
