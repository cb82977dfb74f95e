"""Signing the heads that runs end with, by a key of the coordinator that the offline keys have let.

``STATE/trust/heads.key`` is that key, for its owner alone. ``STATE/trust/heads.delegation`` says which keys may sign
heads, of what, and its signature beside it until when (:mod:`protos.trust.delegated`). Without the two, heads are
delivered as they are.

What was signed is kept in ``STATE/trust/heads``, a file for each run: a head whose bytes in the database are not those
that were signed when its run ended is not signed a second time, and not delivered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from coordinator.run.publishing import Published
from coordinator.trust import signing
from coordinator.trust.authority import write_private
from protos.atomic import write_whole
from protos.errors import IntegrityError, StoreError, UsageError
from protos.trust.delegated import LINE, Delegation, HeadStatement, SignedHead
from protos.trust.signed import Statement, key_id, signature_of, signed_text
from protos.update import trees
from protos.update.trees import Tree

__all__ = ["DELEGATION_FILE", "KEY_FILE", "HeadSigner", "delegate", "delegation_in", "make_key", "replace_key"]

log = logging.getLogger("edgejoule.coordinator")

KEY_FILE, DELEGATION_FILE, _KEPT = "heads.key", "heads.delegation", "heads"
_REPLACED = ".replaced.json"
_KEEP = 256
_DAY_S = 86_400.0
_SOON_S = 7 * _DAY_S


def delegate(
    folder: Path, delegation: Delegation, keys: Iterable[Path], *, days: float, out: Path | None = None
) -> Statement:
    """Write a delegation and its signature, into the authority's folder unless said otherwise.

    Args:
        keys: private key files of who may sign (``coordinator signers``).
        out: another file, which need not be signed by all whom it takes yet.

    Raises:
        UsageError, ConfigError, StoreError: it cannot be signed or written, and why; what was there stays.
        IntegrityError: it takes more signatures.
    """
    path = folder / DELEGATION_FILE if out is None else out
    if path.suffix != signing.DELEGATION_SUFFIX:
        raise UsageError(
            "is no name of a delegation", where=str(path), fix=f"let it end in {signing.DELEGATION_SUFFIX}"
        )
    # Signed under another name first: a server never finds a new delegation with the signature of the one before.
    part = path.with_name(f".{path.name}.part{signing.DELEGATION_SUFFIX}")
    before = None
    if path.exists():
        before, _ = signing.read_signature(path).said(str(path))
    version = int(time.time()) if before is None else max(int(time.time()), before.version + 1)
    try:
        with write_whole(part) as file:
            file.write(delegation.text())
        made = signing.sign(folder, part, keys, line=LINE, days=days, version=version)
        if out is None:
            signing.checked(folder, part)
        signature_of(part).replace(signature_of(path))
        part.replace(path)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
    finally:
        part.unlink(missing_ok=True)
        signature_of(part).unlink(missing_ok=True)
    return made


def delegation_in(folder: Path) -> tuple[Delegation, Statement, bytes, bytes] | None:
    """The delegation of a folder, what its signature says, and the bytes of both; None where there is none.

    Raises:
        IntegrityError: it is damaged, or not what was signed.
    """
    path = folder / DELEGATION_FILE
    if not path.exists():
        return None
    statement, _ = signing.checked(folder, path)
    try:
        data = path.read_bytes()
        return Delegation.parse(data, str(path)), statement, data, signature_of(path).read_bytes()
    except OSError as error:
        raise IntegrityError(f"cannot be read ({error.strerror})", where=str(path)) from error


@dataclass(frozen=True)
class _Signed:
    """What was signed of one head: the id of the key, and its signature of the statement."""

    key: str
    statement: HeadStatement
    signature: bytes


class HeadSigner:
    """Signs heads for one server.

    Args:
        folder: of the authority.
        clock: wall time, unix seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._said = ""
        # What was signed, by the name of its file; None before it was read. Nobody else writes there.
        self._signed: dict[str, _Signed] | None = None
        self._delegated: tuple[object, tuple[Delegation, Statement, bytes, bytes]] | None = None

    def sign(self, published_head: Published, head: Tree) -> bytes:
        """What travels with this head: empty where nobody lets this coordinator sign.

        Raises:
            IntegrityError: it is not the head that was signed when its run ended.
            ConfigError, StoreError: the key or the delegation cannot be used; what is signed cannot be kept.
        """
        found, path = self._delegation(), self._folder / KEY_FILE
        if found is None or not path.exists():
            return b""
        delegation, statement, delegated, signature = found
        key = signing.read_key(path)
        public = signing.public(key)
        self._tell(published_head, delegation, statement, public)
        wanted = HeadStatement(
            bundle=published_head.bundle_id.removeprefix("sha256:"),
            run_id=published_head.run_id,
            run=published_head.name,
            round=published_head.round,
            sha256=trees.digest(head),
            shapes=trees.shapes(head),
            counter=0,
            issued_unix_s=int(self._clock()),
        )
        kept = self._all().get(_name(published_head.run_id))
        if kept is None or not self._counts(kept.statement, wanted) or kept.key != key_id(public):
            newest = max((each.statement.counter for each in self._all().values()), default=0)
            wanted = replace(wanted, counter=max(newest + 1, int(self._clock())))
            kept = _Signed(key_id(public), wanted, key.sign(signed_text("head", wanted.text())))
            self._keep(_name(published_head.run_id), kept)
        return SignedHead(kept.statement.text(), kept.key, kept.signature, delegated, signature).text()

    def forget(self, run_id: str) -> None:
        """The heads of a run are replaced, as where a device is taken out of it: sign what there is from now on.

        Raises:
            StoreError: what was signed cannot be put aside.
        """
        path = self._folder / _KEPT / _name(run_id)
        try:
            # Its counter stays: boards that saw it take no head with one that is not larger, whatever the clock says.
            path.replace(path.with_suffix(_REPLACED))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"cannot be put aside ({error.strerror})", where=str(path)) from error
        self._signed = None

    def _delegation(self) -> tuple[Delegation, Statement, bytes, bytes] | None:
        """The delegation of today, what its signature says, and the bytes of both; None where there is none."""
        path = self._folder / DELEGATION_FILE
        try:
            stamp = [(one.stat().st_ino, one.stat().st_mtime_ns) for one in (path, signature_of(path))]
        except OSError:
            stamp = []
        if self._delegated is None or not stamp or self._delegated[0] != stamp:
            found = delegation_in(self._folder)
            self._delegated = None if found is None else (stamp, found)
        return None if self._delegated is None else self._delegated[1]

    def _counts(self, kept: HeadStatement, wanted: HeadStatement) -> bool:
        """Whether what was signed may be sent again: it is of this head, and no other head of its bundle came later."""
        if (kept.run_id, kept.round) == (wanted.run_id, wanted.round) and kept.sha256 != wanted.sha256:
            raise IntegrityError(
                "is not the head that was signed when the run ended",
                where=f"round {wanted.round} of {wanted.run_id} in the database",
                fix="bring it back from a backup; boards keep the head that they have",
            )
        later = (one.statement.counter for one in self._all().values() if one.statement.bundle == kept.bundle)
        return kept.is_of(wanted) and kept.counter >= max(later, default=0)

    def _tell(self, published_head: Published, delegation: Delegation, statement: Statement, public: str) -> None:
        """Say once what boards will refuse, and a week before."""
        left_s, said = statement.ends_unix_s - self._clock(), ""
        again = "renew it with `coordinator delegate`"
        if public not in delegation.keys:
            said = f"{KEY_FILE} may sign no heads, and boards refuse them; {again}"
        elif left_s <= 0:
            said = f"the delegation that lets this coordinator sign heads has ended, and boards refuse them; {again}"
        elif not delegation.covers(published_head.bundle_id.removeprefix("sha256:"), published_head.name):
            said = f"the delegation does not cover the head of {published_head.run_id}, and boards refuse it; {again}"
        elif left_s < _SOON_S:
            said = f"the delegation that lets this coordinator sign heads ends in {left_s / _DAY_S:.1f} days; {again}"
        if said and said.partition(" ends in ")[0] != self._said:
            log.warning("%s", said)
        self._said = said.partition(" ends in ")[0]

    # ------------------------------------------------------------ what was signed

    def _all(self) -> dict[str, _Signed]:
        if self._signed is None:
            self._signed = {}
            for path in sorted((self._folder / _KEPT).glob("*.json")):
                try:
                    found = SignedHead.parse(path.read_bytes(), str(path))
                    statement = HeadStatement.parse(found.statement, str(path))
                except (OSError, IntegrityError) as error:
                    log.warning("%s; that head is signed anew", error)
                    continue
                self._signed[path.name] = _Signed(found.key, statement, found.signature)
        return self._signed

    def _keep(self, name: str, one: _Signed) -> None:
        folder, held = self._folder / _KEPT, self._all()
        # The statement and its signature, in the form in which they travel.
        text = SignedHead(one.statement.text(), one.key, one.signature, b"", b"").text()
        oldest = sorted(held, key=lambda each: held[each].statement.counter)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with write_whole(folder / name) as file:
                file.write(text)
            held[name] = one
            for each in oldest[: max(0, len(held) - _KEEP)]:
                (folder / each).unlink(missing_ok=True)
                del held[each]
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(folder)) from error


def make_key(folder: Path) -> str:
    """The public half of the key for heads, which is made if need be. Raises StoreError, ConfigError."""
    path = folder / KEY_FILE
    return signing.public_of(path) if path.exists() else signing.make_key(path)


def replace_key(folder: Path) -> str:
    """A new key for heads in the place of the old one; its public half. Raises StoreError: it cannot be written."""
    key = ed25519.Ed25519PrivateKey.generate()
    write_private(folder / KEY_FILE, signing.private_pem(key))
    return signing.public(key)


def _name(run_id: str) -> str:
    return f"{run_id.replace('/', '_')}.json"
