"""Upgrades of the devices' service, as rows. Functions take a connection; the caller says what one transaction is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from coordinator.store import clock
from coordinator.store.tables import upgrade_devices, upgrades
from protos.errors import UnknownRunError

__all__ = [
    "Kept",
    "Row",
    "add",
    "change",
    "change_devices",
    "device_of",
    "devices_of",
    "found",
    "last_stages",
    "on",
    "signatures",
    "wheel",
]

_CONTENT = ("data", "signature")
_HEADS = [column for column in upgrades.c if column.name not in _CONTENT]


@dataclass(frozen=True)
class Kept:
    """An upgrade without its content; the columns are described with the table."""

    upgrade_id: str
    sequence: int
    wheel: str
    sha256: str
    size_bytes: int
    line: str
    version: int
    ends_unix_s: float
    may_fail: int
    trial_s: float
    state: str
    reason: str
    stage: int
    started_by: str
    started_unix_s: float
    ended_unix_s: float | None


@dataclass(frozen=True)
class Row:
    """What one device did with an upgrade."""

    device_id: str
    stage: int
    state: str = "waiting"
    reason: str = ""
    changed_unix_s: float = 0.0


def add(connection: Connection, kept: Mapping[str, Any], data: bytes, signature: bytes, rows: Iterable[Row]) -> Kept:
    """Write down an upgrade that begins; ``kept`` has what :class:`Kept` has but sequence and times.

    Wheels of those that are over go: nobody fetches them any more.
    """
    connection.execute(update(upgrades).where(upgrades.c.state != "on").values(data=b""))
    now = clock.unix_s()
    sequence = int(connection.execute(select(func.max(upgrades.c.sequence))).scalar() or 0) + 1
    values = {**kept, "sequence": sequence, "started_unix_s": now, "ended_unix_s": None}
    connection.execute(upgrades.insert().values(**values, data=data, signature=signature))
    connection.execute(
        upgrade_devices.insert(),
        [{"upgrade_id": kept["upgrade_id"], **vars(row), "changed_unix_s": now} for row in rows],
    )
    return Kept(**values)


def on(connection: Connection) -> Kept | None:
    """The upgrade that is on, or None."""
    row = connection.execute(select(*_HEADS).where(upgrades.c.state == "on")).mappings().first()
    return None if row is None else Kept(**row)


def signatures(connection: Connection) -> list[bytes]:
    """The signature of every upgrade that was ever begun, in their order."""
    return [
        bytes(value)
        for value in connection.execute(select(upgrades.c.signature).order_by(upgrades.c.sequence)).scalars()
    ]


def found(connection: Connection, upgrade_id: str = "", *, every: bool = False) -> list[Kept]:
    """The one called so, else the newest, or every one; the newest first.

    Raises:
        UnknownRunError: none is called so.
    """
    query = select(*_HEADS).order_by(upgrades.c.sequence.desc())
    if upgrade_id:
        query = query.where(upgrades.c.upgrade_id == upgrade_id)
    made = [Kept(**row) for row in connection.execute(query if every else query.limit(1)).mappings()]
    if upgrade_id and not made:
        raise UnknownRunError("no upgrade is called so", where=upgrade_id[:80], fix="see: coordinator upgrade list")
    return made


def devices_of(connection: Connection, upgrade_id: str) -> dict[str, Row]:
    """Its devices, by stage and id."""
    query = select(upgrade_devices).where(upgrade_devices.c.upgrade_id == upgrade_id)
    rows = connection.execute(query.order_by(upgrade_devices.c.stage, upgrade_devices.c.device_id)).mappings()
    return {
        row["device_id"]: Row(row["device_id"], row["stage"], row["state"], row["reason"], row["changed_unix_s"])
        for row in rows
    }


def device_of(connection: Connection, upgrade_id: str, device_id: str) -> Row | None:
    """What one device did with an upgrade; None: it was not among its devices."""
    table = upgrade_devices
    query = select(table).where(table.c.upgrade_id == upgrade_id, table.c.device_id == device_id)
    one = connection.execute(query).mappings().first()
    return None if one is None else Row(device_id, one["stage"], one["state"], one["reason"], one["changed_unix_s"])


def last_stages(connection: Connection) -> dict[str, int]:
    """The last stage of every upgrade."""
    query = select(upgrade_devices.c.upgrade_id, func.max(upgrade_devices.c.stage)).group_by(
        upgrade_devices.c.upgrade_id
    )
    return {str(upgrade_id): int(stage) for upgrade_id, stage in connection.execute(query)}


def wheel(connection: Connection, upgrade_id: str) -> tuple[str, bytes, bytes]:
    """Name, content and signature of a wheel.

    Raises:
        UnknownRunError: no upgrade is called so.
    """
    query = select(upgrades.c.wheel, upgrades.c.data, upgrades.c.signature)
    row = connection.execute(query.where(upgrades.c.upgrade_id == upgrade_id)).first()
    if row is None:
        raise UnknownRunError("no upgrade is called so", where=upgrade_id[:80])
    return row.wheel, bytes(row.data), bytes(row.signature)


def change(connection: Connection, /, upgrade_id: str, **values: Any) -> None:
    """Change columns of an upgrade."""
    connection.execute(update(upgrades).where(upgrades.c.upgrade_id == upgrade_id).values(**values))


def change_devices(connection: Connection, upgrade_id: str, rows: Iterable[Row]) -> None:
    """Write down what these devices did last."""
    for row in rows:
        these = (upgrade_devices.c.upgrade_id == upgrade_id, upgrade_devices.c.device_id == row.device_id)
        values = {"state": row.state, "reason": row.reason, "changed_unix_s": row.changed_unix_s}
        connection.execute(update(upgrade_devices).where(*these).values(**values))
