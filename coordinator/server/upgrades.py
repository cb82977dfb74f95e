"""New versions of the devices' service, offered stage by stage to who asks for work.

Rules kept here:

* A wheel is taken only with a signature that this fleet's root stands behind, that has not ended, and whose version is
  not below one that was begun here before. Devices check all of it again, by what they themselves have seen.
* One upgrade is on at a time. It is on disk with its wheel before anybody is offered it, and each word of a device is
  on disk before anything follows from it.
* A device that works on an order is offered nothing: it finishes its round first. One that is away gets it when back.
* What happens is in the audit log: by whom it was begun and stopped, what each device made of it, and how it ended.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from coordinator.operator.upgrades import UpgradeDevice, UpgradeStatus, UpgradeWanted
from coordinator.run.workers import Store, Worker
from coordinator.server.fleet import Fleet
from coordinator.store import clock
from coordinator.store import upgrades as book
from coordinator.store.upgrades import Kept, Row
from coordinator.trust.authority import Authority
from coordinator.trust.register import Register
from coordinator.upgrade import stages
from coordinator.upgrade.spooled import SpooledWheel
from protos.catalog import hint
from protos.convert.checks import checked_name, finite
from protos.convert.upgrades import LEAST_TRIAL_S, MAX_WHEEL_BYTES, MOST_TRIAL_S
from protos.errors import IntegrityError, RefusedError, StoreError, UnknownRunError, UsageError
from protos.orders import UpgradeOffer, UpgradeState, WaitOrder
from protos.trust.admission import Memory, conflict, remembered
from protos.trust.names import Role
from protos.trust.signed import SignatureFile, Signers, Statement, verify

__all__ = ["ALL", "Upgrades", "UpgradesTrust"]

log = logging.getLogger("edgejoule.coordinator")

ALL = "all"
_MOST_DEVICES, _MOST_TO = 100_000, 1000
_TAKES_NONE = "takes no upgrades from its coordinator; allow them there: sudo edge-runtime service upgrades on"
_LOOK_S = 1.0


class UpgradesTrust:
    """The fleet's root and register as upgrades need them, in the one thread that uses the register."""

    def __init__(self, authority: Authority, register: Register, worker: Worker) -> None:
        self._authority, self._register, self._worker = authority, register, worker

    async def statement(self, wanted: UpgradeWanted) -> Statement:
        """What was signed of a wheel, by keys of this fleet.

        Raises:
            IntegrityError: its signature is missing, wrong, of other content, or has ended.
        """
        return await self._worker.do(self._statement, wanted)

    async def refuse_older(self, wanted: UpgradeWanted, before: Sequence[bytes]) -> None:
        """Let a wheel pass only where it can follow those that were begun before, by the rules that devices go by.

        Args:
            before: signatures of those, in their order.

        Raises:
            RefusedError: it is older, another of the same version, or signed for by older signers.
        """
        await self._worker.do(self._refuse_older, wanted, before)

    def _refuse_older(self, wanted: UpgradeWanted, before: Sequence[bytes]) -> None:
        memory, where = Memory(), wanted.wheel[:100]
        for signature in before:
            # What the root that is here now does not stand behind was seen by no device of this fleet.
            with suppress(IntegrityError):
                memory = remembered(memory, *self._verified(signature, where))
        statement, signers, _ = self._verified(wanted.signature, where)
        found = conflict(memory, statement, signers)
        if found is None:
            return
        line, version = statement.line, statement.version
        if found.kind == "signers":
            what = f"its signers are version {signers.version}, and {found.version} signed what was begun before"
            raise RefusedError(what, where=where, fix="sign it anew: `coordinator sign`")
        if found.kind == "older":
            raise RefusedError(
                f"is version {version} of {line}, and {found.version} was begun before",
                where=where,
                fix="sign it anew, or go back on a board with `edge-runtime service rollback`",
            )
        raise RefusedError(f"is another version {version}", where=where, fix="raise its version")

    def _verified(self, signature: bytes, where: str) -> tuple[Statement, Signers, tuple[str, ...]]:
        return verify(SignatureFile.parse(signature, where), self._authority.root_pem, where)

    def _statement(self, wanted: UpgradeWanted) -> Statement:
        where = wanted.wheel[:100]
        statement, signers, _ = self._verified(wanted.signature, where)
        said = (statement.what, statement.sha256, statement.size_bytes)
        if said != ("wheel", wanted.sha256.hex(), wanted.size_bytes):
            raise IntegrityError("its signature is of other content", where=where, fix="sign it: `coordinator sign`")
        if min(statement.ends_unix_s, signers.ends_unix_s) <= clock.unix_s():
            raise IntegrityError("its signature has ended", where=where, fix="sign it anew: `coordinator sign`")
        return statement

    async def members(self, to: Iterable[str]) -> list[str]:
        """Names of devices with a certificate that counts: of these groups, of these names, or all.

        Raises:
            UsageError: a word that is neither.
        """
        return await self._worker.do(self._members, tuple(to))

    def _members(self, to: tuple[str, ...]) -> list[str]:
        now = clock.unix_s()
        groups: dict[str, set[str]] = {}
        good = {
            certificate.peer.name: set(certificate.groups)
            for certificate in self._register.certificates()
            if certificate.peer.role is Role.DEVICE
            and certificate.revoked_unix_s is None
            and certificate.ends_unix_s > now
        }
        for name, mine in good.items():
            for group in mine:
                groups.setdefault(group, set()).add(name)
        found: set[str] = set()
        for word in to:
            if word == ALL:
                found |= set(good)
            elif word in groups or word in good:
                found |= groups.get(word, set()) | ({word} & set(good))
            else:
                fix = hint(word, [*groups, *good, ALL]) or "see: coordinator identities"
                raise UsageError(f"{word[:80]!r} is no group and no device of this fleet", where="--to", fix=fix)
        return sorted(found)

    async def revoked(self) -> frozenset[str]:
        """Names of devices whose certificates were all revoked."""
        return await self._worker.do(self._register.revoked_devices)

    async def noted(self, who: str, what: str, **details: Any) -> None:
        """Add a line to the audit log."""
        await self._worker.do(self._register.audit.write, who, what, **details)


class Upgrades:
    """What there is to offer, and to whom.

    Args:
        store: where they stand.
        fleet: who is here.
        news: tells the calls that wait for an order to look again.
        now_s: the clock of silence, by which the fleet says when it heard of a device.
        trust: the fleet's certificates; None: without them nothing is ever offered.
    """

    def __init__(
        self,
        store: Store,
        fleet: Fleet,
        news: Callable[[], None],
        now_s: Callable[[], float],
        trust: UpgradesTrust | None = None,
    ) -> None:
        self._store, self._fleet, self._news, self.trust = store, fleet, news, trust
        self._now_s, self._since_s = now_s, now_s()
        self._on: Kept | None = None
        self._rows: dict[str, Row] = {}
        self._spooled: SpooledWheel | None = None
        self._spooling = asyncio.Lock()
        # What devices said last of upgrades that are over.
        self._heard_of: dict[str, UpgradeState] = {}
        # One change at a time: what follows from a word of a device is worked out from all that came before.
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Take up the upgrade that was on. Raises StoreError."""
        # Who had begun may have come back while nobody was there to hear it.
        self._since_s = self._now_s()
        self._on, self._rows = await self._store.read(_opened)

    # ------------------------------------------------------------ operators

    async def start(self, wanted: UpgradeWanted, data: bytes, who: str) -> UpgradeStatus:
        """Begin an upgrade; it is offered from now on.

        Raises:
            RefusedError: no certificates; another is on; or its version is below one that was begun before.
            IntegrityError: the wheel is not what was declared or signed.
            UsageError: no such group, nobody in it, or a figure out of range.
        """
        trust = self.trust
        if trust is None:
            raise RefusedError(
                "devices without certificates cannot check what was signed",
                where="upgrade",
                fix="make certificates with `coordinator init`, and enrol the devices",
            )
        _check(wanted)
        if len(data) != wanted.size_bytes or hashlib.sha256(data).digest() != wanted.sha256:
            raise IntegrityError("arrived damaged", where=wanted.wheel[:100], fix="send it again")
        statement = await trust.statement(wanted)
        members = await trust.members(wanted.to)
        if not members:
            raise UsageError("nobody is in it", where=f"--to {', '.join(wanted.to)[:100]}", fix="enrol devices first")
        rows = stages.order(members, self._is_here, wanted.canaries, wanted.wave)
        values = {
            "upgrade_id": f"upgrade-{secrets.token_hex(5)}",
            "wheel": wanted.wheel,
            "sha256": statement.sha256,
            "size_bytes": statement.size_bytes,
            "line": statement.line,
            "version": statement.version,
            "ends_unix_s": float(statement.ends_unix_s),
            "may_fail": wanted.may_fail,
            "trial_s": wanted.trial_s,
            "state": "on",
            "reason": "",
            "stage": 0,
            "started_by": who,
        }
        async with self._changing:
            if self._on is not None:
                fix = "wait for its end, or: coordinator upgrade stop"
                raise RefusedError(f"{self._on.wheel} is on its way", where=self._on.upgrade_id, fix=fix)
            said = {"sha256": statement.sha256, "version": statement.version, "to": list(wanted.to)}
            await trust.refuse_older(wanted, await self._store.read(book.signatures))
            await trust.noted(who, "upgrade begun", upgrade=values["upgrade_id"], wheel=wanted.wheel, **said)
            self._on = await self._store.write(book.add, values, data, wanted.signature, rows)
            self._rows = {row.device_id: row for row in rows}
            await self._decide()
            log.info("%s: %s to %d devices", values["upgrade_id"], wanted.wheel, len(rows))
        self._news()
        return await self.one(str(values["upgrade_id"]))

    async def stop(self, upgrade_id: str, who: str) -> UpgradeStatus:
        """Offer it to nobody else.

        Raises:
            UnknownRunError: none is called so, or none is on.
            RefusedError: it is over.
        """
        async with self._changing:
            on = self._on
            if on is None or (upgrade_id and upgrade_id != on.upgrade_id):
                over = (await self._store.read(book.found, upgrade_id)) if upgrade_id else []
                if over:
                    raise RefusedError(f"is {over[0].state}", where=upgrade_id[:80], fix="nothing is offered any more")
                raise UnknownRunError("no upgrade is on", where="upgrade", fix="see: coordinator upgrade list")
            await self._end("stopped", f"stopped by {who}", who)
        return await self.one(on.upgrade_id)

    async def one(self, upgrade_id: str) -> UpgradeStatus:
        """One upgrade, else the newest, with its devices. Raises UnknownRunError: there is none."""
        found = await self._store.read(book.found, upgrade_id)
        if not found:
            raise UnknownRunError("there was no upgrade yet", where="upgrade", fix="see: coordinator upgrade --help")
        return self._shown(found[0], await self._store.read(book.devices_of, found[0].upgrade_id))

    async def all(self) -> list[UpgradeStatus]:
        """Every upgrade without its devices, the newest first."""
        found, last = await self._store.read(_every)
        return [replace(self._shown(upgrade, {}), stages=1 + last.get(upgrade.upgrade_id, 0)) for upgrade in found]

    # ------------------------------------------------------------ devices

    async def heard(self, device_id: str, said: UpgradeState | None) -> None:
        """Take note of what a device says of an upgrade. Raises StoreError: it cannot be written."""
        if said is not None and said.state != "none" and (self._on is None or said.upgrade_id != self._on.upgrade_id):
            await self._heard_late(device_id, said)
            return
        if not self._is_news(device_id, said):
            return
        async with self._changing:
            on, row = self._on, self._rows.get(device_id)
            if on is None or row is None or said is None or not self._is_news(device_id, said):
                return
            made = replace(row, state=said.state, reason=said.reason, changed_unix_s=clock.unix_s())
            await self._note(on, [made], f"device {device_id}")
            await self._decide()

    async def _heard_late(self, device_id: str, said: UpgradeState) -> None:
        """What a device says of an upgrade that is over: it had begun before that, and nothing follows from how it went
        but that people are told."""
        if self._heard_of.get(device_id) == said:
            return
        async with self._changing:
            if self._on is not None and self._on.upgrade_id == said.upgrade_id:
                return
            row = await self._store.read(book.device_of, said.upgrade_id, device_id)
            if (
                row is not None
                and row.state not in stages.DONE
                and (row.state, row.reason) != (said.state, said.reason)
            ):
                made = replace(row, state=said.state, reason=said.reason, changed_unix_s=clock.unix_s())
                await self._write_down(said.upgrade_id, [made], f"device {device_id}")
            # Once each: every question for work says it again.
            self._heard_of[device_id] = said

    def _is_news(self, device_id: str, said: UpgradeState | None) -> bool:
        row = self._rows.get(device_id)
        if self._on is None or row is None or said is None or said.upgrade_id != self._on.upgrade_id:
            return False
        return (row.state, row.reason) != (said.state, said.reason) and said.state != "none"

    async def offer(self, device_id: str, said: UpgradeState | None) -> WaitOrder | None:
        """The upgrade, for a device whose turn it is and that has not dealt with it."""
        on, row = self._on, self._rows.get(device_id)
        if self.trust is None or on is None or row is None:
            # Without certificates, as after a restart without them, nobody could check anything.
            return None
        if not _is_due(row, on, said):
            return None
        async with self._changing:
            on, row = self._on, self._rows.get(device_id)
            if on is None or row is None or not _is_due(row, on, said):
                return None
            now = clock.unix_s()
            if said is None:
                made = replace(row, state="failed", reason=_TAKES_NONE, changed_unix_s=now)
            elif row.state != "offered":
                made = replace(row, state="offered", reason="", changed_unix_s=now)
            else:
                made = row
            if made != row:
                await self._note(on, [made])
            if made.state == "failed":
                await self._decide()
                return None
        wheel = UpgradeOffer(on.upgrade_id, on.wheel, on.size_bytes, bytes.fromhex(on.sha256), on.trial_s)
        return WaitOrder(0.0, f"a version of the service: {on.wheel}", None, wheel)

    def installs(self, device_id: str, said: UpgradeState | None) -> bool:
        """Whether it has the wheel, and is about to go for it: no order is given to it."""
        on = self._on
        return on is not None and said is not None and said.state == "checked" and said.upgrade_id == on.upgrade_id

    async def wheel(self, device_id: str, upgrade_id: str) -> SpooledWheel:
        """The wheel and its signature, for a device that was offered it: one for all devices.

        Raises:
            UnknownRunError: it is not offered any more, or never was.
            StoreError: it cannot be read, or laid out to be sent.
        """
        on, row = self._on, self._rows.get(device_id)
        if on is None or on.upgrade_id != upgrade_id or row is None or row.stage > on.stage:
            raise UnknownRunError("is not offered to this device", where=upgrade_id[:80])
        async with self._spooling:
            if self._spooled is None or self._spooled.upgrade_id != upgrade_id:
                self._spooled = await self._store.read(_spooled, upgrade_id)
            return self._spooled

    async def watch(self) -> None:
        """Look for who did not come back, and for what follows from who went away, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._on is None:
                continue
            try:
                async with self._changing:
                    if self._on is not None:
                        await self._look(self._on)
            except StoreError as error:
                log.warning("%s: %s; looked after again", self._on.upgrade_id if self._on else "upgrade", error)

    async def _look(self, on: Kept) -> None:
        now = clock.unix_s()
        gone = list(stages.lost(self._rows.values(), now, on.trial_s, self._silent_s))
        lost = {row.device_id for row in gone}
        if self.trust is not None:
            out = await self.trust.revoked()
            gone += [
                replace(row, state="revoked", reason="its certificate was revoked", changed_unix_s=now)
                for row in self._rows.values()
                if row.device_id in out and row.state not in stages.DONE and row.device_id not in lost
            ]
        if gone:
            await self._note(on, gone)
        await self._decide()

    async def _note(self, on: Kept, made: Sequence[Row], who: str = "") -> None:
        """Write down what became of devices of the upgrade that is on. Raises as :meth:`_write_down`."""
        await self._write_down(on.upgrade_id, made, who)

    async def _write_down(self, upgrade_id: str, made: Sequence[Row], who: str) -> None:
        """Write down what became of devices, and in the audit log where nothing more is to come: by whom, else by us.

        Raises:
            StoreError: it cannot be written.
        """
        await self._store.write(book.change_devices, upgrade_id, made)
        if self._on is not None and upgrade_id == self._on.upgrade_id:
            self._rows.update({device.device_id: device for device in made})
        for row in made:
            log.info("%s: %s: %s%s", upgrade_id, row.device_id, row.state, f": {row.reason}" if row.reason else "")
        for row in made:
            if row.state in stages.DONE and self.trust is not None:
                details = {"upgrade": upgrade_id, **({"reason": row.reason} if row.reason else {})}
                details |= {} if who else {"device": row.device_id}
                await self.trust.noted(who or "coordinator", f"upgrade {row.state}", **details)

    # ------------------------------------------------------------ what follows

    async def _decide(self) -> None:
        on = self._on
        if on is None:
            return
        state, reason, stage = stages.decided(self._rows, on.stage, on.may_fail, self._is_here)
        if state == "on" and on.ends_unix_s <= clock.unix_s():
            state, reason = "stopped", "its signature has ended"
        if state != "on":
            await self._end(state, reason, "coordinator")
        elif stage != on.stage:
            await self._store.write(book.change, on.upgrade_id, stage=stage)
            self._on = replace(on, stage=stage)
            log.info("%s: stage %d of %d begins", on.upgrade_id, stage, stages.stages_of(self._rows) - 1)
            self._news()

    async def _end(self, state: str, reason: str, who: str) -> None:
        on = self._on
        assert on is not None
        ended = {"state": state, "reason": reason, "ended_unix_s": clock.unix_s()}
        await self._store.write(book.change, on.upgrade_id, **ended)
        self._on, self._rows, self._spooled = None, {}, None
        (log.info if state == "finished" else log.warning)("%s: %s: %s", on.upgrade_id, state, reason)
        if self.trust is not None:
            await self.trust.noted(who, f"upgrade {state}", upgrade=on.upgrade_id, reason=reason)

    def _is_here(self, device_id: str) -> bool:
        member = self._fleet.get(device_id)
        return member is not None and member.state == "present"

    def _silent_s(self, device_id: str) -> float:
        member = self._fleet.get(device_id)
        if member is not None and member.state == "present":
            return 0.0
        return self._now_s() - max(self._since_s, member.seen_s if member is not None else 0.0)

    def _shown(self, kept: Kept, rows: dict[str, Row]) -> UpgradeStatus:
        devices = []
        for row in rows.values():
            member = self._fleet.get(row.device_id)
            version = member.card.software_version if member is not None else ""
            here = self._is_here(row.device_id)
            devices.append(
                UpgradeDevice(row.device_id, row.stage, row.state, row.reason, version, here, row.changed_unix_s)
            )
        return UpgradeStatus(
            kept.upgrade_id,
            kept.wheel,
            kept.sha256,
            kept.line,
            kept.version,
            kept.state,
            kept.reason,
            kept.stage,
            stages.stages_of(rows),
            kept.started_by,
            kept.started_unix_s,
            kept.ended_unix_s,
            tuple(devices),
        )


def _check(wanted: UpgradeWanted) -> None:
    checked_name(wanted.wheel, "wheel")
    if not 0 < wanted.size_bytes <= MAX_WHEEL_BYTES or len(wanted.sha256) != 32:
        raise UsageError(
            "is no wheel of the service", where=wanted.wheel[:100], fix=f"{MAX_WHEEL_BYTES >> 20} MB at most"
        )
    finite(wanted.trial_s, "trial_s", at_least=LEAST_TRIAL_S, at_most=MOST_TRIAL_S)
    for figure, flag, least in (
        (wanted.canaries, "--canary", 0),
        (wanted.wave, "--wave", 1),
        (wanted.may_fail, "--may-fail", 0),
    ):
        if not least <= figure <= _MOST_DEVICES:
            raise UsageError(f"{figure} is no number of devices", where=flag, fix=f"give {least} to {_MOST_DEVICES}")
    if not 0 < len(wanted.to) <= _MOST_TO:
        raise UsageError("nobody is named", where="--to", fix=f"give a group, a device, or {ALL}")


def _is_due(row: Row, on: Kept, said: UpgradeState | None) -> bool:
    """Whether a device that says this is to be offered the upgrade, or can have none: its stage is open, and it knows
    of none of it. One that had begun and lost that, as with a new card, begins anew."""
    if row.stage > on.stage or row.state in stages.DONE:
        return False
    return row.state in ("waiting", "offered") or said is None or said.upgrade_id != on.upgrade_id


def _opened(connection: Connection) -> tuple[Kept | None, dict[str, Row]]:
    on = book.on(connection)
    return on, book.devices_of(connection, on.upgrade_id) if on is not None else {}


def _spooled(connection: Connection, upgrade_id: str) -> SpooledWheel:
    return SpooledWheel(upgrade_id, *book.wheel(connection, upgrade_id))


def _every(connection: Connection) -> tuple[list[Kept], dict[str, int]]:
    return book.found(connection, every=True), book.last_stages(connection)
