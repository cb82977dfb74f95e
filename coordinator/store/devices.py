"""Devices, as they last introduced themselves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, union_all, update

from coordinator.store import clock
from coordinator.store.keys import batched
from coordinator.store.tables import cost_models, devices, earlier_energy, energy
from protos.energy.trace import Phase
from protos.orders import DeviceCard, Engine, MeterCard

# Made once: putting a statement together costs more than a small one takes.
_CARDS = select(devices.c.device_id, devices.c.card).where(
    devices.c.device_id.in_(bindparam("devices", expanding=True))
)


@dataclass(frozen=True)
class KnownDevice:
    """A card, whether its device said goodbye, and what it said last of why it cannot train or left."""

    card: DeviceCard
    left: bool
    last_seen_unix_s: float
    reason: str = ""


def join(connection: Connection, card: DeviceCard) -> None:
    """Write down who is there."""
    values: dict[str, Any] = {
        "session": card.session,
        "state": "here",
        "card": json.dumps(dataclasses.asdict(card), sort_keys=True),
        "last_seen_unix_s": clock.unix_s(),
        "reason": card.reason,
    }
    changed = connection.execute(update(devices).where(devices.c.device_id == card.device_id).values(**values))
    if not changed.rowcount:
        connection.execute(devices.insert().values(device_id=card.device_id, **values))


def leave(connection: Connection, device_id: str, reason: str = "") -> None:
    """Write down who said goodbye, and why."""
    values = {"state": "left", "last_seen_unix_s": clock.unix_s(), "reason": reason}
    connection.execute(update(devices).where(devices.c.device_id == device_id).values(**values))


def board_of(connection: Connection, device_id: str) -> str:
    """The board of a device in its own words, or "" for one that never joined."""
    card = connection.execute(select(devices.c.card).where(devices.c.device_id == device_id)).scalar()
    return "" if card is None else str(json.loads(card)["board"])


def boards_of(connection: Connection, device_ids: Iterable[str]) -> dict[str, str]:
    """The boards of these devices in their own words."""
    made: dict[str, str] = {}
    for some in batched(dict.fromkeys(device_ids)):
        found = connection.execute(_CARDS, {"devices": some})
        made |= {row.device_id: str(json.loads(row.card)["board"]) for row in found}
    return made


def meters_of(connection: Connection, device_ids: Iterable[str]) -> dict[str, MeterCard]:
    """What measures the joules of these devices, by their newest cards."""
    made: dict[str, MeterCard] = {}
    for some in batched(dict.fromkeys(device_ids)):
        found = connection.execute(_CARDS, {"devices": some})
        made |= {row.device_id: MeterCard(**json.loads(row.card)["meter"]) for row in found}
    return made


def meter_of(connection: Connection, device_id: str) -> MeterCard | None:
    """What measures the joules of a device, by its newest card; None for one that never joined."""
    card = connection.execute(select(devices.c.card).where(devices.c.device_id == device_id)).scalar()
    return None if card is None else MeterCard(**json.loads(card)["meter"])


def forget(connection: Connection, device_id: str) -> None:
    """Take a device off the list, with what its work was found to cost. Its orders and reports stay."""
    for table in (cost_models, devices):
        connection.execute(table.delete().where(table.c.device_id == device_id))


def known(connection: Connection) -> list[KnownDevice]:
    """Every device that ever joined."""
    return [
        KnownDevice(_card(json.loads(row.card)), row.state == "left", row.last_seen_unix_s, row.reason)
        for row in connection.execute(select(devices).order_by(devices.c.device_id))
    ]


def spent(connection: Connection, only: Iterable[str] | None = None) -> dict[str, tuple[float | None, int]]:
    """By device: joules of all phases but idling that are known, or None when none is; and how many are not known.

    Args:
        only: of these devices; None: of all.
    """
    if only is None:
        return _spent(connection, None)
    made: dict[str, tuple[float | None, int]] = {}
    for some in batched(only):
        made |= _spent(connection, some)
    return made


def _spent(connection: Connection, some: list[str] | None) -> dict[str, tuple[float | None, int]]:
    parts = [
        select(table.c.device_id, table.c.energy_j).where(
            table.c.phase != str(Phase.IDLE), *([] if some is None else [table.c.device_id.in_(some)])
        )
        for table in (energy, earlier_energy)
    ]
    told = union_all(*parts).subquery()
    query = select(
        told.c.device_id,
        func.sum(told.c.energy_j).label("known_j"),
        (func.count() - func.count(told.c.energy_j)).label("unknown"),
    ).group_by(told.c.device_id)
    return {row.device_id: (row.known_j, row.unknown) for row in connection.execute(query)}


def _card(value: dict[str, Any]) -> DeviceCard:
    value["engine"] = Engine(**value["engine"])
    value["meter"] = MeterCard(**value["meter"])
    return DeviceCard(**value)
