"""The layouts that a database had, and the steps from each to the next.

A step changes tables that are there; tables that are new are made from :mod:`coordinator.store.tables`. It runs in one
transaction with the new number, so that a database has one layout or the other, also after a power cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, text

LAYOUT = 3


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


def _bases(connection: Connection) -> None:
    """Layout 3: runs know the coordinates in which their devices train, and what their server optimiser remembers, in
    tables of their own, which are made from :mod:`coordinator.store.tables`. No run of an earlier layout has any."""


# By the layout that it starts from.
STEPS: Mapping[int, Callable[[Connection], None]] = {1: _attempts, 2: _bases}


def upgrade(connection: Connection, found: int) -> None:
    """Bring a database from an older layout to this one."""
    for number in range(found, LAYOUT):
        STEPS[number](connection)
