"""The unit of a coordinator: what it may do, and what it is kept from.

It needs a folder to keep, a port or two, and the folders that plans name, which it only reads. It has a user of its own
that stays, so that `coordinator enroll` and the other commands on its files can be run as that user.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from protos.addresses import is_loopback
from protos.errors import UsageError
from protos.service_unit import HARDENING, plain, word

__all__ = ["MARK", "NAME", "STATE", "USER", "sysusers_text", "unit_text"]

NAME = "edgejoule-coordinator.service"
MARK = "# Made by `coordinator service install`."
USER = STATE = "edgejoule-coordinator"
# Mistakes that only a person can mend: usage, configuration, and a listen address without certificates.
_NO_RESTART = (2, 4, 16)

_HARDENING = f"""\
{HARDENING}
ProtectHome=read-only
PrivateDevices=yes
PrivateUsers=yes
LimitNOFILE=65536
TasksMax=256"""


def sysusers_text() -> str:
    """What systemd-sysusers makes the user of."""
    return f'u {USER} - "edgejoule coordinator" /var/lib/{STATE}\n'


def unit_text(program: Path, *, listen: str, database_file: Path | None = None, read: Sequence[Path] = ()) -> str:
    """The whole unit file.

    Args:
        program: ``coordinator``, absolute.
        listen: HOST:PORT.
        database_file: holds the URL of a database, as ``EDGEJOULE_DATABASE=URL``; for root alone.
        read: folders of bundles and data that must be mounted first.

    Raises:
        UsageError: a path or an address that no unit file can hold.
    """
    sections = (
        f"{MARK} Change it with `systemctl edit {NAME}`.",
        "[Unit]",
        "Description=edgejoule: the coordinator of a fleet",
        "Wants=network-online.target time-sync.target",
        "After=network-online.target time-sync.target postgresql.service",
        "StartLimitIntervalSec=0",
        *(f"RequiresMountsFor={word(path, colons=True)}" for path in read),
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={word(program, colons=True)} serve --state %S/{STATE} --listen {_address(listen)}",
        # A secret must be in no argument: ps shows those to everyone.
        *([f"EnvironmentFile={plain(database_file, colons=True)}"] if database_file is not None else []),
        "SyslogIdentifier=edgejoule-coordinator",
        "TimeoutStopSec=60",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartSec=2",
        f"RestartPreventExitStatus={' '.join(map(str, _NO_RESTART))}",
        "",
        "# Who it is, what it keeps",
        f"User={USER}",
        f"Group={USER}",
        f"StateDirectory={STATE}",
        "StateDirectoryMode=0700",
        "",
        "# Devices and network",
        "DevicePolicy=closed",
        *(
            ("IPAddressDeny=any", "IPAddressAllow=localhost")
            if is_loopback(listen.rpartition(":")[0]) and database_file is None
            else ()
        ),
        "",
        "# Hardening",
        _HARDENING,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return "\n".join(sections) + "\n"


def _address(listen: str) -> str:
    """Hosts and ports have nothing that a unit file would have to quote."""
    if any(mark in listen for mark in " ;$"):
        fix = "write it as HOST:PORT"
        raise UsageError(f"{listen!r} cannot stand in a unit file", where="--listen", fix=fix)
    return plain(listen, colons=True)
