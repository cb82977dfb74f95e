"""Credentials of operators: one file with a key, its certificate and the fleet's root, and where it is kept.

``coordinator login FILE`` copies such a file into the operator's own folder under a name (a context) and makes it the
one that commands use; ``--context NAME`` takes another. Without any, commands speak to a coordinator on loopback.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protos.atomic import write_whole
from protos.errors import ConfigError, StoreError, UsageError
from protos.trust.names import is_name

__all__ = ["Contexts", "Credentials", "read_credentials"]

_KIND = "edgejoule credentials 1"


@dataclass(frozen=True)
class Credentials:
    """What an operator shows to a coordinator.

    Attributes:
        addresses: HOST:PORT of the coordinator, the likeliest first.
        key_pem, chain_pem, root_pem: private key, certificate with the issuing one, the fleet's root.
    """

    role: str
    name: str
    addresses: tuple[str, ...]
    key_pem: str
    chain_pem: str
    root_pem: str

    def text(self) -> bytes:
        """As a file holds it."""
        return json.dumps({"kind": _KIND, **asdict(self)}, indent=1).encode() + b"\n"


def read_credentials(path: Path) -> Credentials:
    """Credentials from their file.

    Raises:
        ConfigError: it cannot be read, others may read it, or it is none.
    """
    fix = "give the file that `coordinator init` or `coordinator operators add` wrote"
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError("may be read by others", where=str(path), fix=f"run `chmod 600 {path}`")
        fields: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path), fix=fix) from error
    except ValueError as error:
        raise ConfigError("holds no credentials", where=str(path), fix=fix) from error
    if not isinstance(fields, dict) or fields.pop("kind", None) != _KIND:
        raise ConfigError("holds no credentials", where=str(path), fix=fix)
    try:
        addresses = tuple(str(one) for one in fields.pop("addresses"))
        found = Credentials(addresses=addresses, **{key: str(value) for key, value in fields.items()})
    except (KeyError, TypeError) as error:
        raise ConfigError("holds credentials of another release", where=str(path), fix=fix) from error
    if not found.addresses:
        raise ConfigError("names no address", where=str(path), fix=fix)
    return found


class Contexts:
    """The coordinators that this user has credentials for, in a folder of the user's own."""

    def __init__(self, folder: Path | None = None) -> None:
        base = os.environ.get("XDG_CONFIG_HOME")
        self.folder = folder or (Path(base) if base else Path.home() / ".config") / "edgejoule" / "coordinators"

    def names(self) -> list[str]:
        """All of them, by name."""
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def current(self) -> str | None:
        """The one that commands use, or None."""
        try:
            name = (self.folder / "current").read_text("utf-8").strip()
        except OSError:
            return None
        return name if is_name(name) and (self.folder / f"{name}.json").exists() else None

    def read(self, name: str) -> Credentials:
        """One by name.

        Raises:
            ConfigError: there is none of that name, or it cannot be read.
        """
        if name not in self.names():
            known = ", ".join(self.names()) or "none"
            raise ConfigError(
                f"no context is called {name!r}",
                where="--context",
                fix=f"known: {known}; add one with `coordinator login FILE`",
            )
        path = self.folder / f"{name}.json"
        if os.name == "posix" and (mode := path.stat().st_mode) & 0o077:
            # Whoever read the key meanwhile is this person; nobody else can tell the two apart.
            raise ConfigError(
                f"its key can be read by others (mode {mode & 0o777:03o})",
                where=str(path),
                fix="`chmod 600` it, and ask for new credentials if others use this machine",
            )
        return read_credentials(path)

    def add(self, name: str, credentials: Credentials) -> None:
        """Keep credentials under a name, and use them from now on.

        Raises:
            UsageError: no name. StoreError: it cannot be written.
        """
        if not is_name(name):
            raise UsageError(f"{name!r} is no name", where="--name", fix="use letters, digits, dots and dashes")
        before = os.umask(0o077)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with write_whole(self.folder / f"{name}.json") as file:
                file.write(credentials.text())
            self.use(name)
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(self.folder)) from error
        finally:
            os.umask(before)

    def use(self, name: str) -> None:
        """Make one the one that commands use."""
        with write_whole(self.folder / "current") as file:
            file.write(f"{name}\n".encode())
