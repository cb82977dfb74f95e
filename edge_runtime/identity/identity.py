"""The device's key and certificate, in one file of its state folder: ``identity/identity.json``, for its owner alone.

One file, so that a power cut leaves a key and a certificate that belong together. Reading it needs no cryptography;
only :mod:`edge_runtime.identity.enrolment`, which makes it, does.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import ConfigError

__all__ = ["FOLDER", "Identity", "read_identity", "stamp_of", "write_identity"]

FOLDER = "identity"
_FILE = "identity.json"
_KIND = "edgejoule identity 1"


@dataclass(frozen=True)
class Identity:
    """Who this device is.

    Attributes:
        device_id: its name, as the certificate says.
        addresses: HOST:PORT of the coordinator, the likeliest first.
        enroll_port: where enrolment is spoken, on the same hosts.
        key_pem, chain_pem, root_pem: private key, certificate with the issuing one, the fleet's root.
        begins_unix_s, ends_unix_s: of the certificate.
        above_root_pem: root of the fleet above, where the coordinator is a site of it: heads of runs come to work by
            that one alone, and bundles by either. Empty: there is none above.
    """

    device_id: str
    addresses: tuple[str, ...]
    enroll_port: int
    key_pem: str
    chain_pem: str
    root_pem: str
    begins_unix_s: float
    ends_unix_s: float
    above_root_pem: str = ""

    def due_unix_s(self) -> float:
        """When it is to be renewed: after two thirds of its life."""
        return self.begins_unix_s + (self.ends_unix_s - self.begins_unix_s) * 2 / 3

    def renewed(self, key_pem: str, chain_pem: str, begins_unix_s: float, ends_unix_s: float) -> Identity:
        """The same device with a new key and certificate."""
        return replace(self, key_pem=key_pem, chain_pem=chain_pem, begins_unix_s=begins_unix_s, ends_unix_s=ends_unix_s)


def stamp_of(state: Path) -> tuple[int, int] | None:
    """Changes whenever the identity is written again; None while there is none."""
    try:
        found = (state / FOLDER / _FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def read_identity(state: Path) -> Identity | None:
    """The identity in a state folder, or None when the device was never enrolled.

    Raises:
        ConfigError: it cannot be read.
    """
    path = state / FOLDER / _FILE
    fix = "enrol this board again with a new token"
    try:
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path), fix="check its owner") from error
    except ValueError as error:
        raise ConfigError("is damaged", where=str(path), fix=fix) from error
    if not isinstance(fields, dict) or fields.pop("kind", None) != _KIND:
        raise ConfigError("is of another release", where=str(path), fix=fix)
    try:
        addresses = tuple(str(one) for one in fields.pop("addresses"))
        found = Identity(addresses=addresses, **fields)
    except (KeyError, TypeError) as error:
        raise ConfigError("is damaged", where=str(path), fix=fix) from error
    if not addresses:
        raise ConfigError("names no coordinator", where=str(path), fix=fix)
    return found


def write_identity(state: Path, identity: Identity) -> Path:
    """Put an identity into a state folder, owned by who owns the folder; its path.

    Raises:
        StoreError: it cannot be written.
    """
    folder = state / FOLDER
    path = folder / _FILE
    before = os.umask(0o077)
    try:
        with storing(path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with write_whole(path) as file:
                fields = asdict(identity)
                if not identity.above_root_pem:
                    # A version of the service that knows no sites can read what this one wrote.
                    del fields["above_root_pem"]
                file.write(json.dumps({"kind": _KIND, **fields}, indent=1).encode() + b"\n")
            owner = state.stat()
            if os.geteuid() == 0 and owner.st_uid != 0:
                # Written by root for a service that is another user.
                for each_path in (folder, path):
                    os.chown(each_path, owner.st_uid, owner.st_gid)
    finally:
        os.umask(before)
    return path
