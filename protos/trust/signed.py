"""What was signed: a statement of one file or bundle, the keys that may sign, and a check that both hold.

A signature file is JSON beside what it is of: ``signature.json`` in a bundle's folder, ``FILE.signature.json`` else. In
it are two texts, each signed over its exact bytes:

* the **statement**: what it is (bundle, wheel, firmware, model, delegation), of which line, which version of that
  line, when it was signed, when it ends, and the SHA-256 and size of the content; signed by Ed25519 keys;
* the **signers**: those keys, how many of them must have signed, a version, an end; signed by the fleet's root (P-256),
  which every enrolled device knows and which is kept off the network.

The file has one form: other bytes that would read as the same are refused, so that no bit of it can change unseen.
Nothing here remembers anything; rollback and freeze are judged by :mod:`edge_runtime.identity.signatures`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protos.errors import IntegrityError

__all__ = [
    "BUNDLE_SIGNATURE",
    "MAX_BYTES",
    "MAX_KEYS",
    "MAX_VERSION",
    "WHAT",
    "WHEEL",
    "SignatureFile",
    "Signers",
    "Statement",
    "canonical",
    "key_id",
    "signature_of",
    "signed_text",
    "verify",
]

BUNDLE_SIGNATURE = "signature.json"
MAX_BYTES = 64 << 10
WHAT = ("bundle", "wheel", "firmware", "model", "delegation")
WHEEL = re.compile(r"edgejoule-([0-9A-Za-z.!+_]+)-py3-none-any\.whl")
"""What a wheel of the service is called, whole; the group is its version."""
_KIND = "edgejoule signature 1"
MAX_KEYS = 16
MAX_VERSION = 2**53
_LINE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Statement:
    """What is said of one content.

    Attributes:
        what: one of :data:`WHAT`.
        line: versions are counted along it, such as the name of a model.
        version: within the line; it never goes back.
        issued_unix_s, ends_unix_s: when it was signed, and until when it holds.
        sha256: of the content, hexadecimal; of a bundle, the digest in its id.
        size_bytes: of the content; of a bundle, of its manifest.
    """

    what: str
    line: str
    version: int
    issued_unix_s: int
    ends_unix_s: int
    sha256: str
    size_bytes: int

    def text(self) -> bytes:
        """The bytes that are signed."""
        return canonical(asdict(self))


@dataclass(frozen=True)
class Signers:
    """Who may sign.

    Attributes:
        keys: Ed25519 public keys, 32 bytes each in hexadecimal, sorted.
        threshold: how many of them must have signed, at least 1.
    """

    version: int
    threshold: int
    issued_unix_s: int
    ends_unix_s: int
    keys: tuple[str, ...]

    def text(self) -> bytes:
        """The bytes that are signed."""
        return canonical({**asdict(self), "keys": list(self.keys)})


@dataclass(frozen=True)
class SignatureFile:
    """A signature file, not checked yet.

    Attributes:
        statement, signers: the exact bytes that were signed.
        signatures: key id to Ed25519 signature of the statement.
        root_signature: ECDSA with SHA-256 of the signers.
    """

    statement: bytes
    signatures: Mapping[str, bytes]
    signers: bytes
    root_signature: bytes

    def text(self) -> bytes:
        """The file."""
        return canonical(
            {
                "kind": _KIND,
                "statement": base64.b64encode(self.statement).decode(),
                "signatures": {name: signature.hex() for name, signature in sorted(self.signatures.items())},
                "signers": base64.b64encode(self.signers).decode(),
                "root_signature": self.root_signature.hex(),
            }
        )

    @classmethod
    def parse(cls, data: bytes, where: str) -> SignatureFile:
        """A file from its bytes.

        Raises:
            IntegrityError: it is none, or not in the one form.
        """
        damaged = IntegrityError("is no signature file, or damaged", where=where, fix="sign it again")
        if len(data) > MAX_BYTES:
            raise damaged
        try:
            fields: dict[str, Any] = json.loads(data)
            if fields["kind"] != _KIND or len(fields["signatures"]) > MAX_KEYS:
                raise damaged
            found = cls(
                base64.b64decode(fields["statement"], validate=True),
                {str(name): bytes.fromhex(signature) for name, signature in fields["signatures"].items()},
                base64.b64decode(fields["signers"], validate=True),
                bytes.fromhex(fields["root_signature"]),
            )
            same = found.text() == data
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged from error
        if not same:
            raise damaged
        return found

    def said(self, where: str) -> tuple[Statement, Signers]:
        """The two texts, read strictly. Nothing is known of their signatures.

        Raises:
            IntegrityError: a field is not what it must be.
        """
        try:
            made, keys = json.loads(self.statement), json.loads(self.signers)
            statement = Statement(**made)
            signers = Signers(**{**keys, "keys": tuple(keys["keys"])})
            good = _is_sound(statement, signers) and statement.text() == self.statement
            good = good and signers.text() == self.signers
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IntegrityError("its statement cannot be read", where=where, fix="sign it again") from error
        if not good:
            raise IntegrityError("its statement is not what one must be", where=where, fix="sign it again")
        return statement, signers


def _is_sound(statement: Statement, signers: Signers) -> bool:
    numbers = [statement.version, statement.issued_unix_s, statement.ends_unix_s, statement.size_bytes]
    numbers += [signers.version, signers.threshold, signers.issued_unix_s, signers.ends_unix_s]
    hexadecimal = (statement.sha256, *signers.keys)
    return (
        all(type(number) is int and 0 <= number <= MAX_VERSION for number in numbers)
        and all(isinstance(text, str) for text in (statement.what, statement.line, *hexadecimal))
        and statement.what in WHAT
        and _LINE.fullmatch(statement.line) is not None
        and all(re.fullmatch("[0-9a-f]{64}", text) is not None for text in hexadecimal)
        and list(signers.keys) == sorted(set(signers.keys))
        and 1 <= signers.threshold <= len(signers.keys) <= MAX_KEYS
    )


def key_id(public: str) -> str:
    """A short name of a key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def signed_text(kind: str, text: bytes) -> bytes:
    """What a key signs: a statement can never be taken for signers, or for anything else of ours."""
    return b"edgejoule " + kind.encode() + b" 1\n" + text


def signature_of(path: Path) -> Path:
    """Where the signature of a file or of a bundle's folder is."""
    return path / BUNDLE_SIGNATURE if path.is_dir() else path.with_name(f"{path.name}.signature.json")


def verify(file: SignatureFile, root_pem: bytes, where: str) -> tuple[Statement, Signers, tuple[str, ...]]:
    """Check every signature.

    Args:
        root_pem: certificate of the fleet's root.

    Returns:
        What was signed, who may sign, and the public keys that did.

    Raises:
        IntegrityError: the signers are not the root's, or too few of them signed.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    statement, signers = file.said(where)
    root = x509.load_pem_x509_certificate(root_pem).public_key()
    assert isinstance(root, ec.EllipticCurvePublicKey)
    try:
        root.verify(file.root_signature, signed_text("signers", file.signers), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        fix = "sign it with a key of this fleet: `coordinator sign`"
        raise IntegrityError("the root of this fleet did not name its signers", where=where, fix=fix) from error
    by_id = {key_id(text): text for text in signers.keys}
    did: list[str] = []
    for name, signature in file.signatures.items():
        public = by_id.get(name)
        if public is None:
            continue
        try:
            key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
            key.verify(signature, signed_text("statement", file.statement))
        except InvalidSignature as error:
            raise IntegrityError(f"the signature of key {name} is wrong", where=where, fix="sign it again") from error
        did.append(public)
    if len(did) < signers.threshold:
        fix = "let the others sign: `coordinator sign --cosign`"
        raise IntegrityError(f"signed by {len(did)} of the {signers.threshold} keys it takes", where=where, fix=fix)
    return statement, signers, tuple(sorted(did))


def canonical(fields: Mapping[str, Any]) -> bytes:
    """The one form of a text that is signed, or that holds signatures: JSON without spaces, keys sorted, ASCII."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
