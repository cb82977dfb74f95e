"""Heads that a coordinator signs with a key of its own, for as long as the offline keys let it.

The keys that sign bundles and wheels are on no network (:mod:`protos.trust.signed`); heads are made while nobody
looks. So the offline keys sign a **delegation**: which online keys may sign heads, of which bundles and runs, until
when. It is content like any other, of the line ``heads``: its version never goes back, and it ends. A newer one that
leaves a key out withdraws that key; one without keys lets nobody sign. That is what The Update Framework does with its
online roles (theupdateframework.github.io/specification, section 2.1).

A **signed head** travels with the head, and is one text that holds the statement of the head, the online key's
signature of it, the delegation, and the delegation's signature. It has one form, as signature files have.

The statement has a **counter**, which only grows: a device takes no head of a bundle with a smaller one than it saw
from a key that still counts. The time in it is for people: an online key must not be able to tell devices that it is
later than it is, which would end what the offline keys signed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from protos.errors import IntegrityError
from protos.trust.admission import COUNTERS, Memory, admitted
from protos.trust.signed import MAX_BYTES, MAX_KEYS, MAX_VERSION, SignatureFile, canonical, key_id, signed_text, verify

__all__ = ["LINE", "MAX_SIGNED_BYTES", "Delegation", "HeadStatement", "SignedHead", "admitted_head"]

LINE = "heads"
"""Delegations are versions of this line."""
MAX_SIGNED_BYTES = 4 * MAX_BYTES
_KIND, _HEAD_KIND = "edgejoule delegation 1", "edgejoule signed head 1"
_MAX_NAMES, _MAX_NAME, _MAX_TENSORS, _MAX_RANK = 64, 512, 1024, 8
_DIGEST = re.compile("[0-9a-f]{64}")
_ANEW = "make a delegation with `coordinator delegate`"


@dataclass(frozen=True)
class Delegation:
    """Who may sign heads.

    Attributes:
        keys: Ed25519 public keys, 32 bytes each in hexadecimal, sorted; none: nobody may.
        bundles: SHA-256 in the ids of the bundles whose heads they may sign, sorted; none: of all.
        runs: names of the runs whose heads they may sign, sorted; none: of all.
    """

    keys: tuple[str, ...]
    bundles: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    def text(self) -> bytes:
        """The bytes of its file, which are signed like a bundle or a wheel."""
        return canonical({"kind": _KIND, **{name: list(one) for name, one in asdict(self).items()}})

    @classmethod
    def parse(cls, data: bytes, where: str) -> Delegation:
        """A delegation from its bytes.

        Raises:
            IntegrityError: it is none, or not in the one form.
        """
        damaged = IntegrityError("is no delegation, or damaged", where=where, fix=_ANEW)
        if len(data) > MAX_BYTES:
            raise damaged
        try:
            fields = json.loads(data)
            found = cls(*(tuple(fields[name]) for name in ("keys", "bundles", "runs")))
            same = found._is_sound() and found.text() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged from error
        if not same:
            raise damaged
        return found

    def covers(self, bundle: str, run: str) -> bool:
        """Whether heads of this bundle (its digest), made by a run of this name, may be signed."""
        return (not self.bundles or bundle in self.bundles) and (not self.runs or run in self.runs)

    def _is_sound(self) -> bool:
        lists = (self.keys, self.bundles, self.runs)
        return (
            all(isinstance(name, str) for names in lists for name in names)
            and all(list(names) == sorted(set(names)) for names in lists)
            and all(_DIGEST.fullmatch(one) is not None for one in (*self.keys, *self.bundles))
            and all(0 < len(run) <= _MAX_NAME for run in self.runs)
            and len(self.keys) <= MAX_KEYS
            and max(len(self.bundles), len(self.runs)) <= _MAX_NAMES
        )


@dataclass(frozen=True)
class HeadStatement:
    """What a coordinator says of one head.

    Attributes:
        bundle: SHA-256 in the id of the bundle that it is a head of.
        run_id, run, round: the run that it came of, by its id and its name, and the round.
        sha256: of the head, :func:`protos.update.trees.digest`.
        shapes: of its tensors, by name.
        counter: grows with each head that this coordinator signs.
        issued_unix_s: when it was signed.
    """

    bundle: str
    run_id: str
    run: str
    round: int
    sha256: str
    shapes: Mapping[str, tuple[int, ...]]
    counter: int
    issued_unix_s: int

    def text(self) -> bytes:
        """The bytes that are signed."""
        return canonical({**asdict(self), "shapes": {name: list(shape) for name, shape in self.shapes.items()}})

    @classmethod
    def parse(cls, data: bytes, where: str) -> HeadStatement:
        """A statement from its bytes. Raises IntegrityError: it is none, or not in the one form."""
        unread = IntegrityError("its statement is not what one must be", where=where, fix="sign the head again")
        try:
            fields: dict[str, Any] = json.loads(data)
            shapes = {str(name): tuple(shape) for name, shape in fields["shapes"].items()}
            found = cls(**{**fields, "shapes": shapes})
            same = found._is_sound() and found.text() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise unread from error
        if not same:
            raise unread
        return found

    def is_of(self, other: HeadStatement) -> bool:
        """Whether both say the same of one head, whenever it was said."""
        return replace(self, counter=0, issued_unix_s=0) == replace(other, counter=0, issued_unix_s=0)

    def _is_sound(self) -> bool:
        numbers = [
            self.round,
            self.counter,
            self.issued_unix_s,
            *(size for shape in self.shapes.values() for size in shape),
        ]
        names = (self.run_id, self.run, *self.shapes)
        return (
            all(type(number) is int and 0 <= number <= MAX_VERSION for number in numbers)
            and all(isinstance(name, str) and len(name) <= _MAX_NAME for name in names)
            and all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in (self.bundle, self.sha256))
            and len(self.shapes) <= _MAX_TENSORS
            and all(len(shape) <= _MAX_RANK for shape in self.shapes.values())
        )


@dataclass(frozen=True)
class SignedHead:
    """A head's statement and who vouches for it, not checked yet.

    Attributes:
        statement: the exact bytes of a :class:`HeadStatement`.
        key: of the online key that signed it: :func:`protos.trust.signed.key_id`.
        signature: Ed25519.
        delegation: the exact bytes of a :class:`Delegation`.
        delegation_signature: the bytes of its signature file.
    """

    statement: bytes
    key: str
    signature: bytes
    delegation: bytes
    delegation_signature: bytes

    def text(self) -> bytes:
        """As it travels."""
        return canonical(
            {
                "kind": _HEAD_KIND,
                "statement": base64.b64encode(self.statement).decode(),
                "key": self.key,
                "signature": self.signature.hex(),
                "delegation": base64.b64encode(self.delegation).decode(),
                "delegation_signature": base64.b64encode(self.delegation_signature).decode(),
            }
        )

    @classmethod
    def parse(cls, data: bytes, where: str) -> SignedHead:
        """From the bytes that travelled.

        Raises:
            IntegrityError: it is none, or not in the one form.
        """
        damaged = IntegrityError("its signature is damaged", where=where, fix="it is sent again")
        if len(data) > MAX_SIGNED_BYTES:
            raise damaged
        try:
            fields: dict[str, Any] = json.loads(data)
            texts = {name: base64.b64decode(fields[name], validate=True) for name in _TEXTS}
            found = cls(key=str(fields["key"]), signature=bytes.fromhex(fields["signature"]), **texts)
            same = found.text() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged from error
        if not same:
            raise damaged
        return found


_TEXTS = ("statement", "delegation", "delegation_signature")


def admitted_head(
    memory: Memory, signed: SignedHead, head: HeadStatement, root_pem: bytes, now_unix_s: float, where: str
) -> tuple[Memory, IntegrityError | None]:
    """Whether a head may be let in, and what is remembered.

    Args:
        head: what is to be let in; its counter and time do not count.
        root_pem: certificate of the fleet's root.
        where: the head, for messages.

    Returns:
        The memory, which has a good delegation in it also where the head itself is refused: else one that withdraws a
        key would be forgotten with the head that it came with. And why the head is refused, or None.

    Raises:
        IntegrityError: the delegation is not to be believed; nothing is to be remembered.
    """
    file = SignatureFile.parse(signed.delegation_signature, where)
    statement, signers, keys = verify(file, root_pem, where)
    digest = hashlib.sha256(signed.delegation).hexdigest()
    if (statement.what, statement.line) != ("delegation", LINE) or statement.sha256 != digest:
        raise IntegrityError("its delegation is not what was signed", where=where, fix=_ANEW)
    if statement.size_bytes != len(signed.delegation):
        raise IntegrityError("its delegation is not what was signed", where=where, fix=_ANEW)
    delegation = Delegation.parse(signed.delegation, where)
    seen = admitted(memory, statement, signers, keys, now_unix_s, f"the delegation of {where}")
    # Counters of a key that was withdrawn bind nobody, as with any signature.
    lines = {
        name: line
        for name, line in seen.lines.items()
        if not name.startswith(COUNTERS) or line["keys"][0] in delegation.keys
    }
    # That heads must be signed says nothing of bundles.
    seen = replace(seen, required=memory.required, heads_required=True, lines=lines)
    try:
        said, public = _verified(signed, delegation, where)
        if not said.is_of(head):
            what = "its signature is of another head"
            raise IntegrityError(what, where=where, fix="look at the coordinator's log and database")
        name = _counter(said.bundle)
        before = lines.get(name)
        if before is not None and said.counter < before["version"]:
            what = f"is head {said.counter} of its bundle, and {before['version']} was seen here"
            raise IntegrityError(what, where=where, fix="begin a run, whose head is newer")
        if before is not None and said.counter == before["version"] and said.sha256 != before["sha256"]:
            what = f"is another head {said.counter} of its bundle"
            raise IntegrityError(what, where=where, fix="begin a run, whose head is newer")
    except IntegrityError as refusal:
        return seen, refusal
    lines = {**lines, name: {"version": said.counter, "sha256": said.sha256, "keys": [public]}}
    return replace(seen, lines=lines), None


def _verified(signed: SignedHead, delegation: Delegation, where: str) -> tuple[HeadStatement, str]:
    """What is said of the head, by which public key. Raises IntegrityError: by none that may."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ed25519

    head = HeadStatement.parse(signed.statement, where)
    public = next((each_key for each_key in delegation.keys if key_id(each_key) == signed.key), None)
    if public is None:
        what = f"the key {signed.key[:16]} that signed it may sign no heads, or no more"
        raise IntegrityError(what, where=where, fix="let it with `coordinator delegate`")
    try:
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(signed.signature, signed_text("head", signed.statement))
    except InvalidSignature as error:
        raise IntegrityError(f"the signature of key {signed.key} is wrong", where=where, fix="sign it again") from error
    if not delegation.covers(head.bundle, head.run):
        what = f"the key that signed it may sign no heads of bundle {head.bundle[:12]} by runs called {head.run!r}"
        raise IntegrityError(what, where=where, fix=_ANEW)
    return head, public


def _counter(bundle: str) -> str:
    return f"{COUNTERS}{bundle}"
