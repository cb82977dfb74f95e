"""The text of the unit, from the settings.

Rules kept here:

* No ``ProcSubset=pid``: it hides /proc/cpuinfo, and the engine then runs without XNNPACK, many times slower and with
  other bits in its answers.
* System calls that are filtered answer EPERM. Without ``SystemCallErrorNumber=`` they kill, and numpy makes one.
* Nothing ends the service for good but a mistake in its configuration: there is no limit of starts. The pause before a
  start grows, by systemd where it can (254 and later) and by the daemon where it cannot: see
  ``edge_runtime/systemd/starts.py``.
* Whatever else the board does comes first: it is there for that.
* The device list is closed: the nodes of pseudo devices and of the one sensor, no more.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.config import Resolved
from edge_runtime.service.access import Access
from protos.service_unit import HARDENING, plain, word

NAME = "edge-runtime.service"
MARK = "# Made by `edge-runtime service install`."
USER = STATE = "edgejoule"
# Mistakes that only a person can mend: usage and configuration (docs/exit-codes.md).
_NO_RESTART = (2, 4)
_FOREVER_S = 10_000_000

_HARDENING = f"{HARDENING}\nProtectHome=tmpfs\nTasksMax=128"


@dataclass(frozen=True)
class Written:
    """What a unit of ours says."""

    program: Path
    config: Path
    credentials: tuple[Credential, ...]


@dataclass(frozen=True)
class Credential:
    """A secret that systemd reads as root and shows to the service alone, in ``$CREDENTIALS_DIRECTORY/name``."""

    name: str
    path: Path


def unit_text(
    resolved: Resolved, access: Access, *, program: Path, config: Path, credentials: Iterable[Credential] = ()
) -> str:
    """The whole unit file.

    Args:
        resolved: settings of ``config`` alone: flags and variables of the installing shell do not reach the service.
        access: what the settings need; its groups must exist on the machine.
        program: ``edge-runtime``, absolute.
        config: absolute.

    Raises:
        UsageError: a path that no unit file can hold.
    """
    settings = resolved.settings
    sections = (
        f"{MARK} Change it with `systemctl edit {NAME}`.",
        "[Unit]",
        "Description=edgejoule: federated fine-tuning on this device",
        "Wants=network-online.target time-sync.target",
        "After=network-online.target time-sync.target",
        "StartLimitIntervalSec=0",
        *_mounts(resolved),
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={word(program)} run --config {word(config, argument=True)}",
        f"Environment=EDGEJOULE_STATE=%S/{STATE}",
        *_patience(resolved),
        "SyslogIdentifier=edge-runtime",
        f"WatchdogSec={settings.watchdog_s:g}",
        f"TimeoutStartSec={max(300.0, settings.watchdog_s):g}",
        "TimeoutStopSec=30",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartSec=5",
        f"RestartPreventExitStatus={' '.join(map(str, _NO_RESTART))}",
        "",
        "# Who it is, what it keeps",
        "DynamicUser=yes",
        f"User={USER}",
        f"StateDirectory={STATE}",
        "StateDirectoryMode=0700",
        f"RuntimeDirectory={STATE}",
        "RuntimeDirectoryMode=0755",
        *(f"LoadCredential={credential.name}:{plain(credential.path)}" for credential in credentials),
        *(f"BindReadOnlyPaths=-{word(path)}" for path in access.bound),
        "",
        "# Limits",
        "CPUWeight=20",
        "Nice=10",
        *_limits(resolved),
        "OOMScoreAdjust=500",
        "",
        "# Devices and network",
        "DevicePolicy=closed",
        *_devices(access),
        *(("IPAddressDeny=any", "IPAddressAllow=localhost") if access.loopback_only else ()),
        "",
        "# Hardening",
        _HARDENING,
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    )
    return "\n".join(sections) + "\n"


def read_back(text: str) -> Written | None:
    """What :func:`unit_text` was given, or None when the text is not from there."""
    if not text.startswith(MARK):
        return None
    keys = [line.partition("=")[::2] for line in text.splitlines()]
    command = next((shlex.split(value) for key, value in keys if key == "ExecStart"), [])
    if len(command) != 4 or command[1:3] != ["run", "--config"]:
        return None
    named = (value.replace("%%", "%").partition(":") for key, value in keys if key == "LoadCredential")
    credentials = tuple(Credential(name, Path(path)) for name, _, path in named)
    program, config = (one.replace("%%", "%") for one in (command[0], command[3].replace("$$", "$")))
    return Written(Path(program), Path(config), credentials)


def program_word(program: Path) -> str:
    """A program's path as the first word of ``ExecStart=``.

    Raises:
        UsageError: no unit file can hold it.
    """
    return word(program)


def _patience(resolved: Resolved) -> tuple[str, ...]:
    """A service waits for its coordinator without end, unless its file says how long."""
    if resolved.origins["wait_for_coordinator_s"] != "default":
        return ()
    return (f"Environment=EDGEJOULE_WAIT_FOR_COORDINATOR_S={_FOREVER_S}",)


def _mounts(resolved: Resolved) -> Iterable[str]:
    """Disks that hold what the service reads are mounted first."""
    settings = resolved.settings
    for path in (settings.data, settings.bundle):
        if path is not None:
            yield f"RequiresMountsFor={word(Path(path).expanduser().absolute())}"


def _limits(resolved: Resolved) -> Iterable[str]:
    settings = resolved.settings
    if settings.cpu_quota_percent is not None:
        yield f"CPUQuota={settings.cpu_quota_percent}%"
    if settings.memory_max_mb is not None:
        yield f"MemoryMax={settings.memory_max_mb}M"


def _devices(access: Access) -> Iterable[str]:
    if not access.devices:
        yield "PrivateDevices=yes"
        yield "PrivateUsers=yes"
        return
    for node in access.devices:
        yield f"DeviceAllow={word(node)} rw"
    if access.groups:
        yield f"SupplementaryGroups={' '.join(access.groups)}"
    if access.families:
        yield f"RestrictAddressFamilies={' '.join(access.families)}"
