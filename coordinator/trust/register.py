"""The register of a fleet: tokens that were given out, certificates that were issued, and those that were revoked.

A SQLite file of its own, ``STATE/trust/register.db``: commands on the coordinator's machine write into it while the
server runs, which looks for changes (:meth:`Register.version`). Every change is in the audit log as well.

A token's secret is kept while the token is open, since its proof needs it, and wiped when it was used.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.trust.audit import AuditLog
from coordinator.trust.authority import Issued
from protos.errors import RefusedError, StoreError, UnknownRunError, UsageError
from protos.trust.names import PeerName, Role, is_name
from protos.trust.token import SECRET_BYTES, token_id

__all__ = ["FILE", "Certificate", "OpenToken", "Register"]

FILE = "register.db"
TRIES = 5
"""Wrong proofs after which a token is void."""
RENEWALS, RENEWALS_S = 12, 3600.0
"""So many certificates in so many seconds one peer gets by itself: each is a line on disk for ever."""
_LAYOUT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tokens (
    token_id BLOB PRIMARY KEY, secret BLOB, device_id TEXT NOT NULL, machine TEXT NOT NULL DEFAULT '',
    groups TEXT NOT NULL DEFAULT '', ends_unix_s REAL NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
    used_unix_s REAL);
CREATE TABLE IF NOT EXISTS certificates (
    serial TEXT PRIMARY KEY, role TEXT NOT NULL, name TEXT NOT NULL, machine TEXT NOT NULL DEFAULT '',
    groups TEXT NOT NULL DEFAULT '', issued_unix_s REAL NOT NULL, ends_unix_s REAL NOT NULL, revoked_unix_s REAL,
    reason TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS certificates_by_name ON certificates (role, name);
CREATE TABLE IF NOT EXISTS token_roles (token_id BLOB PRIMARY KEY, role TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rules (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class OpenToken:
    """A token that may be used once.

    Attributes:
        device_id: the name of who may use it.
        machine: the only machine that may use it; empty for any.
        role: what its certificate will be for.
    """

    device_id: str
    secret: bytes
    machine: str
    groups: tuple[str, ...]
    ends_unix_s: float
    role: Role = Role.DEVICE


@dataclass(frozen=True)
class Certificate:
    """A certificate that was issued."""

    serial: str
    peer: PeerName
    machine: str
    groups: tuple[str, ...]
    issued_unix_s: float
    ends_unix_s: float
    revoked_unix_s: float | None
    reason: str


class Register:
    """The register in ``folder``, opened for as long as needed; several processes may have it open.

    Raises:
        StoreError: it cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.audit = AuditLog(folder)
        try:
            # Made with the owner's rights alone, before anything secret is in it.
            if not self.path.exists():
                self.path.touch(mode=0o600)
            self._db = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA secure_delete = ON")
            (layout,) = self._db.execute("PRAGMA user_version").fetchone()
            if layout not in (0, _LAYOUT):
                raise StoreError(
                    f"has layout {layout}, and this release reads {_LAYOUT}",
                    where=str(self.path),
                    fix="use the release that wrote it",
                )
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_LAYOUT}")
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot be opened ({error})", where=str(self.path)) from error

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def version(self) -> int:
        """A number that changes when another process has changed the register."""
        (number,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(number)

    # ---- tokens

    def new_token(
        self,
        device_id: str,
        *,
        ttl_s: float,
        machine: str = "",
        groups: tuple[str, ...] = (),
        who: str = "local",
        role: Role = Role.DEVICE,
    ) -> OpenToken:
        """A token for one device, or for one person of another role; one that was open for it before is void.

        Raises:
            UsageError: no name, or no time.
            RefusedError: a device of that name has a certificate that counts.
        """
        if not is_name(device_id):
            raise UsageError(
                f"{device_id!r} is no name", where="device", fix="use letters, digits, dots and dashes, up to 64"
            )
        if not 1 <= ttl_s <= 7 * 86400:
            raise UsageError(f"{ttl_s:g} s is no time for a token", where="--ttl", fix="give 1s to 7d, such as 15m")
        with self._writing():
            if self.valid(PeerName(role, device_id)):
                raise RefusedError(
                    "has a certificate already",
                    where=device_id,
                    fix=f"take another name, or `coordinator revoke {device_id}` first",
                )
            secret = secrets.token_bytes(SECRET_BYTES)
            token = OpenToken(device_id, secret, machine, groups, time.time() + ttl_s, role)
            self._db.execute(
                "UPDATE tokens SET secret = NULL WHERE device_id = ? AND used_unix_s IS NULL", (device_id,)
            )
            self._db.execute(
                "INSERT INTO tokens (token_id, secret, device_id, machine, groups, ends_unix_s) VALUES (?,?,?,?,?,?)",
                (token_id(token.secret), token.secret, device_id, machine, json.dumps(groups), token.ends_unix_s),
            )
            if role is not Role.DEVICE:
                self._db.execute("INSERT INTO token_roles VALUES (?, ?)", (token_id(secret), role.value))
            said = {"device_id": device_id, "machine": machine, "ends_unix_s": token.ends_unix_s}
            self.audit.write(who, "token made", **said, **({} if role is Role.DEVICE else {"role": role.value}))
        return token

    def open_token(self, identity: bytes) -> OpenToken | None:
        """The token of that id while it may be used, else None."""
        row = self._db.execute(
            "SELECT device_id, secret, machine, groups, ends_unix_s, coalesce(role, 'device') FROM tokens "
            "LEFT JOIN token_roles USING (token_id) WHERE token_id = ? "
            "AND secret IS NOT NULL AND used_unix_s IS NULL AND ends_unix_s > ? AND tries < ?",
            (identity, time.time(), TRIES),
        ).fetchone()
        if row is None:
            return None
        return OpenToken(row[0], row[1], row[2], tuple(json.loads(row[3] or "[]")), row[4], Role(row[5]))

    def wrong_proof(self, identity: bytes, *, where: str) -> None:
        """Count a proof that was not right; after :data:`TRIES` the token is void."""
        with self._writing():
            self._db.execute("UPDATE tokens SET tries = tries + 1 WHERE token_id = ?", (identity,))
            self.audit.write(where, "enrolment refused", reason="wrong proof", token=identity.hex())

    def use_token(self, identity: bytes, issued: Issued, machine: str, *, where: str) -> None:
        """Mark a token used, and its certificate issued, both or neither.

        Raises:
            RefusedError: somebody else has used it in the meantime.
        """
        with self._writing():
            done = self._db.execute(
                "UPDATE tokens SET used_unix_s = ?, secret = NULL WHERE token_id = ? AND used_unix_s IS NULL "
                "AND secret IS NOT NULL AND ends_unix_s > ? RETURNING groups",
                (time.time(), identity, time.time()),
            ).fetchone()
            if done is None:
                raise RefusedError(
                    "this token was used already, or has ended", fix="make another with `coordinator enroll`"
                )
            self._keep(issued, machine, tuple(json.loads(done[0] or "[]")))
            what = "device enrolled" if issued.peer.role is Role.DEVICE else f"{issued.peer.role.value} enrolled"
            self.audit.write(where, what, device_id=issued.peer.name, serial=issued.serial, machine=machine)
        # Out of the log that goes before the file, too.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ---- certificates

    def issued(self, issued: Issued, *, who: str, what: str, machine: str = "", by: str | None = None) -> None:
        """Keep a certificate that was made.

        Args:
            by: serial number of the certificate that asked for it; None where an operator did.

        Raises:
            RefusedError: that one was revoked in the meantime, or its owner has had too many lately.
        """
        with self._writing():
            if by is not None:
                # In the transaction that keeps the new one: who is revoked at this moment gets none that outlives it.
                if by in self.revoked():
                    raise RefusedError(
                        "its certificate was revoked", where=str(issued.peer), fix="enrol it again with a new token"
                    )
                since = time.time() - RENEWALS_S
                if sum(certificate.issued_unix_s > since for certificate in self.certificates(issued.peer)) >= RENEWALS:
                    raise RefusedError(
                        f"has had {RENEWALS} certificates within an hour", where=str(issued.peer), fix="wait an hour"
                    )
            groups: tuple[str, ...] = ()
            if issued.peer.role is Role.DEVICE:
                earlier = [
                    certificate
                    for certificate in self.certificates(issued.peer)
                    if certificate.machine or certificate.groups
                ]
                machine = machine or (earlier[-1].machine if earlier else "")
                groups = earlier[-1].groups if earlier else ()
            self._keep(issued, machine, groups)
            details = {"role": issued.peer.role.value, "name": issued.peer.name, "serial": issued.serial}
            self.audit.write(who, what, **details, **({"by": by} if by is not None else {}))

    def unlogged(self) -> list[str]:
        """What the register holds and the audit log does not say, in words: lines that were cut off at its end.

        A line is on disk before what it says counts, so the register never knows more than the log.

        Raises:
            StoreError, IntegrityError: the log cannot be read.
        """
        held = self.certificates()
        lines = self.audit.lines()
        made = {line.get("serial") for line in lines if line.get("what") != "certificate revoked"}
        revoked = {line.get("serial") for line in lines if line.get("what") == "certificate revoked"}
        return [f"certificate {one.serial} of {one.peer}" for one in held if one.serial not in made] + [
            f"revocation of {one.serial} of {one.peer}"
            for one in held
            if one.revoked_unix_s is not None and one.serial not in revoked
        ]

    def certificates(self, peer: PeerName | None = None) -> list[Certificate]:
        """All that were issued, or those of one peer; the oldest first."""
        where, values = ("WHERE role = ? AND name = ?", (peer.role.value, peer.name)) if peer else ("", ())
        rows = self._db.execute(
            "SELECT serial, role, name, machine, groups, issued_unix_s, ends_unix_s, revoked_unix_s, reason "
            f"FROM certificates {where} ORDER BY issued_unix_s, rowid",
            values,
        ).fetchall()
        return [
            Certificate(row[0], PeerName(Role(row[1]), row[2]), row[3], tuple(json.loads(row[4] or "[]")), *row[5:9])
            for row in rows
        ]

    def valid(self, peer: PeerName) -> list[Certificate]:
        """A peer's certificates that are neither revoked nor at their end."""
        now = time.time()
        return [
            certificate
            for certificate in self.certificates(peer)
            if certificate.revoked_unix_s is None and certificate.ends_unix_s > now
        ]

    def revoke(self, name: str, *, reason: str = "", who: str = "local") -> list[Certificate]:
        """Revoke every certificate of a device or a person; those that this call revoked.

        Raises:
            UnknownRunError: nobody has that name.
        """
        with self._writing():
            found = [certificate for certificate in self.certificates() if certificate.peer.name == name]
            if not found:
                raise UnknownRunError("no certificate has that name", where=name, fix="see `coordinator identities`")
            self._db.execute(
                "UPDATE tokens SET secret = NULL WHERE device_id = ? AND used_unix_s IS NULL",
                (name,),
            )
            fresh = [certificate for certificate in found if certificate.revoked_unix_s is None]
            for certificate in fresh:
                self._db.execute(
                    "UPDATE certificates SET revoked_unix_s = ?, reason = ? WHERE serial = ?",
                    (time.time(), reason, certificate.serial),
                )
                self.audit.write(who, "certificate revoked", name=name, serial=certificate.serial, reason=reason)
        return fresh

    def revoked(self) -> frozenset[str]:
        """Serial numbers that no longer count."""
        rows = self._db.execute("SELECT serial FROM certificates WHERE revoked_unix_s IS NOT NULL").fetchall()
        return frozenset(row[0] for row in rows)

    def revoked_devices(self) -> frozenset[str]:
        """Names of devices all of whose certificates were revoked; one that was enrolled anew is none."""
        rows = self._db.execute(
            "SELECT name FROM certificates WHERE role = ? GROUP BY name HAVING count(*) = count(revoked_unix_s)",
            (Role.DEVICE.value,),
        ).fetchall()
        return frozenset(row[0] for row in rows)

    # ---- rules

    def rule(self, name: str, default: str) -> str:
        """A rule that the operator set."""
        row = self._db.execute("SELECT value FROM rules WHERE name = ?", (name,)).fetchone()
        return default if row is None else str(row[0])

    def set_rule(self, name: str, value: str, *, who: str = "local") -> None:
        """Set a rule."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO rules VALUES (?, ?)", (name, value))
            self.audit.write(who, "rule set", rule=name, value=value)

    def _keep(self, issued: Issued, machine: str, groups: tuple[str, ...]) -> None:
        self._db.execute(
            "INSERT INTO certificates (serial, role, name, machine, groups, issued_unix_s, ends_unix_s) "
            "VALUES (?,?,?,?,?,?,?)",
            (
                issued.serial,
                issued.peer.role.value,
                issued.peer.name,
                machine,
                json.dumps(groups),
                time.time(),
                issued.not_after.timestamp(),
            ),
        )

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StoreError(f"cannot be written ({error})", where=str(self.path)) from error
