"""The units by which root takes up upgrades that the coordinator offered: one waits for a request, one installs it.

They are there where root has allowed upgrades. The program that installs is that of the version that the service runs,
so each switch of the service's unit writes them again.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.daemon.upgrading import FOLDER, REQUEST
from edge_runtime.service.install import OFFERED, Place
from edge_runtime.service.unit import program_word
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.service_unit import plain

__all__ = ["PATH", "SERVICE", "present", "put", "remove", "renew"]

PATH, SERVICE = OFFERED
MARK = "# Made by `edge-runtime service upgrades on`."


def put(place: Place, program: Path) -> None:
    """Both units are there, and start with the machine.

    Raises:
        StoreError: they cannot be written.
    """
    folder = place.unit.parent
    request = place.state / FOLDER / REQUEST
    with storing(folder):
        for name, text in ((PATH, _path_text(request)), (SERVICE, _service_text(program))):
            with write_whole(folder / name) as file:
                file.write(text.encode())
            (folder / name).chmod(0o644)
            link = place.link.parent / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(Path("..") / name)


def renew(place: Place, program: Path) -> None:
    """Where the units are, they run that program from now on. Raises StoreError."""
    if present(place):
        put(place, program)


def present(place: Place) -> bool:
    """Whether the units are there."""
    return (place.unit.parent / SERVICE).exists()


def remove(place: Place) -> None:
    """The units are gone. Raises StoreError."""
    with storing(place.unit.parent):
        for name in (PATH, SERVICE):
            for path in (place.link.parent / name, place.unit.parent / name):
                path.unlink(missing_ok=True)


def _path_text(request: Path) -> str:
    return f"""{MARK}
[Unit]
Description=edgejoule: looks for a new version that the coordinator offered

[Path]
PathExists={plain(request)}
Unit={SERVICE}

[Install]
WantedBy=multi-user.target
"""


def _service_text(program: Path) -> str:
    return f"""{MARK}
[Unit]
Description=edgejoule: installs a new version that the coordinator offered
After=edge-runtime-trial.service

[Service]
Type=oneshot
ExecStart={program_word(program)} service take-upgrade
SyslogIdentifier=edge-runtime-upgrade
TimeoutStartSec=infinity
Nice=10

[Install]
WantedBy=multi-user.target
"""
