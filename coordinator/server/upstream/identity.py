"""Who a site is to the coordinator above it: the identity that ``edge-runtime enroll`` keeps in a folder.

A site is a device of the one above, so it enrols as one: ``edge-runtime enroll TOKEN --state FOLDER``, and
``coordinator serve --upstream-identity FOLDER``. Making keys and asking for certificates stays the device's program,
which is started when two thirds of the certificate's life are over.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import ConfigError

__all__ = ["SiteIdentity", "read_site_identity", "renewed", "stamp_of"]

_FILE = Path("identity", "identity.json")
_KIND = "edgejoule identity 1"
_RENEWAL: Sequence[str] = (sys.executable, "-m", "edge_runtime.identity.renewal")
_RENEWAL_S = 120.0
_FIX = "enrol the site with: edge-runtime enroll TOKEN --state FOLDER --no-start"


@dataclass(frozen=True)
class SiteIdentity:
    """What a site shows to the coordinator above it.

    Attributes:
        name: its device id, as its certificate says.
        key_pem, chain_pem, root_pem: private key, certificate with the issuing one, the fleet's root.
        begins_unix_s, ends_unix_s: of the certificate.
        above_root_pem: root of the fleet above the one above, where that is a site itself; empty: it is none.
    """

    name: str
    key_pem: str
    chain_pem: str
    root_pem: str
    begins_unix_s: float
    ends_unix_s: float
    above_root_pem: str = ""

    @property
    def signing_root_pem(self) -> str:
        """Under which what comes from above is signed: the root at the top of the tree."""
        return self.above_root_pem or self.root_pem

    @property
    def due_unix_s(self) -> float:
        """When it is to be renewed."""
        return self.begins_unix_s + (self.ends_unix_s - self.begins_unix_s) * 2 / 3


def stamp_of(folder: Path) -> tuple[int, int] | None:
    """Changes whenever the identity is written again; None while there is none."""
    try:
        found = (folder / _FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def read_site_identity(folder: Path) -> SiteIdentity:
    """The identity in a folder.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = folder / _FILE
    try:
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if fields["kind"] != _KIND:
            raise ConfigError("is of another release", where=str(path), fix=_FIX)
        return SiteIdentity(
            name=str(fields["device_id"]),
            key_pem=str(fields["key_pem"]),
            chain_pem=str(fields["chain_pem"]),
            root_pem=str(fields["root_pem"]),
            begins_unix_s=float(fields["begins_unix_s"]),
            ends_unix_s=float(fields["ends_unix_s"]),
            above_root_pem=str(fields.get("above_root_pem", "")),
        )
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path), fix=_FIX) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("holds no identity", where=str(path), fix=_FIX) from error


def renewed(folder: Path, address: str) -> str:
    """Renew the identity in a folder; empty when that is done, else why not. Blocks.

    Args:
        address: HOST:PORT of the coordinator above.
    """
    try:
        done = subprocess.run(
            [*_RENEWAL, str(folder), address], capture_output=True, text=True, timeout=_RENEWAL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if not done.returncode else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
