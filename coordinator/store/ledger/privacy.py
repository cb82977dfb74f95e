"""Who took part in which closed rounds: what the ledger of epsilon is worked out from."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from coordinator.store.tables import reports, rounds


def participations(connection: Connection, run_id: str) -> dict[str, int]:
    """Device to the closed rounds of a run in whose head its change is; abandoned rounds published nothing."""
    query = (
        select(reports.c.device_id, func.count().label("times"))
        .join(rounds, (rounds.c.run_id == reports.c.run_id) & (rounds.c.round == reports.c.round))
        .where(reports.c.run_id == run_id, rounds.c.state == "closed", reports.c.steps_done > 0)
        .group_by(reports.c.device_id)
    )
    return {row.device_id: int(row.times) for row in connection.execute(query)}
