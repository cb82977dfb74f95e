"""The ledger of a run, summed up to a round that lies two rounds back: what a round costs to open then does not grow
with those before it.

The rows of orders and energy stay the truth. A figure that changes behind the mark makes its device stale, in the same
transaction, and the device is summed again from its orders, by an index of its own. Sums go on from where they stood,
in the order of the rounds: the same bits as summed anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, delete, select, update

from coordinator.store.tables import account_marks, account_sums

if TYPE_CHECKING:
    from coordinator.store.ledger.accounts import Account

# Joules of sending come when the next order is asked for: so far back they have come, where they come at all.
BEHIND = 2

_OUTDATE = (
    update(account_sums)
    .where(account_sums.c.run_id == bindparam("of_run"), account_sums.c.device_id == bindparam("of_device"))
    .values(stale=1)
)
_MARKS = select(account_marks.c.run_id, account_marks.c.through).where(
    account_marks.c.run_id.in_(bindparam("runs", expanding=True))
)


@dataclass(frozen=True)
class Mark:
    """How far the ledger of a run is summed.

    Attributes:
        through: the last round that is in the sums; 0 for none.
        since_unix_s: from when on ``today_j`` counts.
    """

    through: int = 0
    since_unix_s: float = 0.0


def mark(connection: Connection, run_id: str) -> Mark:
    """How far a run is summed."""
    row = connection.execute(select(account_marks).where(account_marks.c.run_id == run_id)).first()
    return Mark() if row is None else Mark(row.through, row.since_unix_s)


def of_run(
    connection: Connection, run_id: str, only: Sequence[str] | None = None
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """By device, the fields of its account up to the mark; and the devices that must be summed again.

    Args:
        only: of these devices; None: of all.
    """
    query = select(account_sums).where(account_sums.c.run_id == run_id)
    if only is not None:
        query = query.where(account_sums.c.device_id.in_(only))
    rows = list(connection.execute(query).mappings())
    good = {row["device_id"]: {name: row[name] for name in _FIGURES} for row in rows if not row["stale"]}
    return good, [row["device_id"] for row in rows if row["stale"]]


_FIGURES = ("orders", "granted_j", "spent_j", "uncertain_j", "today_j", "unlimited", "pending_j")


def keep(connection: Connection, run_id: str, to: Mark, changed: Mapping[str, Account], *, anew: bool) -> None:
    """Write down sums up to a mark.

    Args:
        changed: accounts that are not what is written down, by device.
        anew: these are all that there are.
    """
    names = list(changed)
    if anew:
        connection.execute(delete(account_sums).where(account_sums.c.run_id == run_id))
    elif names:
        gone = account_sums.c.device_id == bindparam("of_device")
        connection.execute(
            delete(account_sums).where(account_sums.c.run_id == run_id, gone), [{"of_device": name} for name in names]
        )
    rows = [
        {"run_id": run_id, "device_id": name, "stale": 0} | {figure: getattr(account, figure) for figure in _FIGURES}
        for name, account in changed.items()
    ]
    if rows:
        connection.execute(account_sums.insert(), rows)
    values = {"through": to.through, "since_unix_s": to.since_unix_s}
    known = update(account_marks).where(account_marks.c.run_id == run_id).values(**values)
    if not connection.execute(known).rowcount:
        connection.execute(account_marks.insert().values(run_id=run_id, **values))


def outdate(connection: Connection, orders: Iterable[tuple[str, int, str]]) -> None:
    """Figures of these orders change: run, round and device of each."""
    told = list(orders)
    if not told:
        return
    runs = sorted({run_id for run_id, _, _ in told})
    through = {row.run_id: row.through for row in connection.execute(_MARKS, {"runs": runs})}
    behind = [
        {"of_run": run_id, "of_device": device_id}
        for run_id, number, device_id in told
        if number <= through.get(run_id, 0)
    ]
    if behind:
        connection.execute(_OUTDATE, behind)
