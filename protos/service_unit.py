"""What the units of systemd of both ends have in common: words as unit files want them, what a service is kept from."""

from __future__ import annotations

from pathlib import Path

from protos.errors import UsageError

__all__ = ["HARDENING", "plain", "word"]

# Each end adds what it differs in: the homes and devices that it needs, and how many tasks and files.
HARDENING = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateTmp=yes
PrivateIPC=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
UMask=0077
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
LimitCORE=0"""


def word(value: Path | str, *, argument: bool = False, colons: bool = False) -> str:
    """One word of a unit file, quoted where systemd.syntax(7) wants it.

    Args:
        argument: of a command; there, and not in the command's own path, ``$`` begins a variable.
        colons: see :func:`plain`.

    Raises:
        UsageError: as :func:`plain`.

    >>> word("/srv/a b%"), word("$HOME", argument=True), word("[::1]:50461", colons=True)
    ('"/srv/a b%%"', '$$HOME', '[::1]:50461')
    """
    text = plain(value, colons=colons)
    if argument:
        text = text.replace("$", "$$")
    return f'"{text}"' if " " in text or ";" in text else text


def plain(value: Path | str, *, colons: bool = False) -> str:
    """The same where quotes are taken as they stand: with ``%`` doubled, since it begins a specifier.

    Args:
        colons: they are taken; in the paths of bindings they part one from the other.

    Raises:
        UsageError: no unit file can hold it; systemd starts no program whose path has quotes or backslashes.
    """
    text = str(value)
    bad = "\"'\\" if colons else ":\"'\\"
    if not text.isprintable() or any(mark in text for mark in bad):
        names = "quotes, backslashes" if colons else "colons, quotes, backslashes"
        raise UsageError(f"{text!r} cannot stand in a unit file", where="path", fix=f"use a path without {names}")
    return text.replace("%", "%%")
