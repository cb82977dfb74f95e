"""Signing what boards run: bundles, wheels, firmware images and exported models.

``STATE/trust/signers.json`` says whose Ed25519 keys count, and how many must sign; the root's key signs it, here and
each time it changes. ``STATE/trust/signing.key`` is the first of those keys. It need not be on the coordinator, nor
should it: whoever has the coordinator cannot then make boards run what nobody signed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from coordinator.trust.authority import write_private
from protos.atomic import write_whole
from protos.errors import ConfigError, IntegrityError, StoreError, UsageError
from protos.model.bundle import open_bundle, record_of
from protos.model.manifest import MANIFEST_FILE
from protos.trust.signed import (
    MAX_BYTES,
    SignatureFile,
    Signers,
    Statement,
    key_id,
    signature_of,
    signed_text,
    verify,
)

__all__ = [
    "DELEGATION_SUFFIX",
    "KEY_FILE",
    "checked",
    "content_of",
    "cosign",
    "make_key",
    "private_pem",
    "public",
    "public_of",
    "read_key",
    "read_signature",
    "sign",
    "signers_of",
    "write_signers",
]

KEY_FILE, _SIGNERS_FILE = "signing.key", "signers.json"
DELEGATION_SUFFIX = ".delegation"
_SIGNERS_DAYS = 730
_DAY_S = 86_400


def make_key(path: Path) -> str:
    """A new Ed25519 key in a file for its owner alone; its public half, hexadecimal.

    Raises:
        UsageError: there is a file already. StoreError: it cannot be written.
    """
    if path.exists():
        raise UsageError("is there already", where=str(path), fix="give another name")
    key = ed25519.Ed25519PrivateKey.generate()
    write_private(path, private_pem(key))
    return public(key)


def private_pem(key: ed25519.Ed25519PrivateKey) -> bytes:
    """A private key as its file has it."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*form)


def public_of(path: Path) -> str:
    """The public half of a key file, hexadecimal. Raises ConfigError: it is none."""
    return public(read_key(path))


def write_signers(folder: Path, keys: Iterable[str], threshold: int, *, days: float = _SIGNERS_DAYS) -> Signers:
    """Say who may sign from now on. The root's key must be in the folder.

    Raises:
        ConfigError: it is not. UsageError: more must sign than there are keys. StoreError: it cannot be written.
    """
    try:
        root = serialization.load_pem_private_key((folder / "root.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the root's key is needed", where=str(folder / "root.key"), fix="bring it back from where it is kept"
        ) from error
    assert isinstance(root, ec.EllipticCurvePrivateKey)
    chosen = tuple(sorted(set(keys)))
    if not 1 <= threshold <= len(chosen):
        raise UsageError(f"{threshold} of {len(chosen)} keys cannot sign", where="--threshold", fix="add keys first")
    before = _read_signers(folder)
    now = int(time.time())
    made = Signers(1 if before is None else before[0].version + 1, threshold, now, now + int(days * _DAY_S), chosen)
    signature = root.sign(signed_text("signers", made.text()), ec.ECDSA(hashes.SHA256()))
    text = json.dumps({"signers": made.text().decode(), "root_signature": signature.hex()}, indent=1)
    try:
        with write_whole(folder / _SIGNERS_FILE) as file:
            file.write(text.encode())
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(folder)) from error
    return made


def signers_of(folder: Path) -> Signers | None:
    """Who may sign, or None before anybody was named. Raises ConfigError: the file is damaged."""
    found = _read_signers(folder)
    return None if found is None else found[0]


def content_of(path: Path) -> tuple[str, str, int]:
    """What a path is, and the digest and size that a statement of it has.

    Raises:
        UsageError: nothing that can be signed; ModelError, IntegrityError: a bundle that is not sound.
    """
    if path.is_dir():
        bundle = open_bundle(path)
        return "bundle", bundle.bundle_id.removeprefix("sha256:"), record_of(path / MANIFEST_FILE).size_bytes
    kinds = {
        ".whl": "wheel",
        ".hex": "firmware",
        ".uf2": "firmware",
        ".tflite": "model",
        DELEGATION_SUFFIX: "delegation",
    }
    if path.suffix not in kinds or not path.is_file():
        fix = "give a bundle's folder, a .whl, .hex, .uf2 or .tflite file"
        raise UsageError("is nothing that is signed", where=str(path), fix=fix)
    record = record_of(path)
    return kinds[path.suffix], record.sha256, record.size_bytes


def sign(
    folder: Path, path: Path, keys: Iterable[Path], *, line: str, days: float, version: int | None = None
) -> Statement:
    """Write the signature beside what it is of.

    Args:
        folder: of the authority.
        keys: private key files.
        version: None: the seconds since 1970, which never go back.

    Raises:
        UsageError, ConfigError, StoreError, ModelError, IntegrityError: it cannot be signed, and why.
    """
    what, digest, size_bytes = content_of(path)
    now = int(time.time())
    made = Statement(what, line, now if version is None else version, now, now + int(days * _DAY_S), digest, size_bytes)
    signers, root_signature = _named(folder)
    _write(folder, path, made, signers, root_signature, _signatures(made.text(), signers, keys))
    return made


def cosign(folder: Path, path: Path, keys: Iterable[Path]) -> Statement:
    """Add signatures to the statement that is there already, by the newest signers.

    Raises:
        IntegrityError: it is of other content. Others as :func:`sign`.
    """
    there = read_signature(path)
    made, _ = there.said(str(path))
    what, digest, size_bytes = content_of(path)
    if (made.what, made.sha256, made.size_bytes) != (what, digest, size_bytes):
        raise IntegrityError("its signature is of other content", where=str(path), fix="sign it anew")
    signers, root_signature = _named(folder)
    names = {key_id(key) for key in signers.keys}
    kept = {name: signature for name, signature in there.signatures.items() if name in names}
    _write(folder, path, made, signers, root_signature, {**kept, **_signatures(there.statement, signers, keys)})
    return made


def read_signature(path: Path) -> SignatureFile:
    """The signature of a file or bundle. Raises IntegrityError: there is none, or it is damaged."""
    place = signature_of(path)
    try:
        with place.open("rb") as file:
            return SignatureFile.parse(file.read(MAX_BYTES + 1), str(place))
    except OSError as error:
        raise IntegrityError("is not signed", where=str(path), fix="sign it with `coordinator sign`") from error


def checked(folder: Path, path: Path) -> tuple[Statement, tuple[str, ...]]:
    """The statement of a path whose signatures and content are as they must be, and the keys that signed.

    Raises:
        IntegrityError: they are not.
    """
    root = (folder / "root.pem").read_bytes()
    statement, _, did = verify(read_signature(path), root, str(path))
    what, digest, size_bytes = content_of(path)
    if (statement.what, statement.sha256, statement.size_bytes) != (what, digest, size_bytes):
        raise IntegrityError("is not what was signed", where=str(path), fix="copy it again, or sign it anew")
    return statement, did


def _write(
    folder: Path, path: Path, made: Statement, signers: Signers, root_signature: bytes, signatures: dict[str, bytes]
) -> None:
    place = signature_of(path)
    file = SignatureFile(made.text(), signatures, signers.text(), root_signature)
    # What nobody could read back is not written down: a bad line, a version that is too large.
    SignatureFile.parse(file.text(), str(place)).said(str(place))
    try:
        with write_whole(place) as out:
            out.write(file.text())
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(place)) from error


def _signatures(text: bytes, signers: Signers, keys: Iterable[Path]) -> dict[str, bytes]:
    made = {}
    for path in keys:
        key = read_key(path)
        mine = public(key)
        if mine not in signers.keys:
            raise UsageError(
                f"its key {key_id(mine)} is none of the signers",
                where=str(path),
                fix="name it with `coordinator signers --add`",
            )
        made[key_id(mine)] = key.sign(signed_text("statement", text))
    return made


def _named(folder: Path) -> tuple[Signers, bytes]:
    found = _read_signers(folder)
    if found is None:
        raise ConfigError("nobody may sign yet", where=str(folder), fix="name a key with `coordinator signers --new`")
    return found


def _read_signers(folder: Path) -> tuple[Signers, bytes] | None:
    path = folder / _SIGNERS_FILE
    try:
        fields = json.loads(path.read_bytes())
        text = json.loads(fields["signers"])
        return Signers(**{**text, "keys": tuple(text["keys"])}), bytes.fromhex(fields["root_signature"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("is damaged", where=str(path), fix="bring it back from a backup") from error


def read_key(path: Path) -> ed25519.Ed25519PrivateKey:
    """A private key from its file. Raises ConfigError: it is none."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        fix = "make one with `coordinator signers --new FILE`"
        raise ConfigError("is no key to sign with", where=str(path), fix=fix) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise ConfigError("is no Ed25519 key", where=str(path), fix="make one with `coordinator signers --new FILE`")
    return key


def public(key: ed25519.Ed25519PrivateKey) -> str:
    """The public half of a key, hexadecimal."""
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex()
