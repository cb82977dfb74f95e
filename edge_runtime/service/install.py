"""The unit put on a machine, and taken away again; or the same in a folder that will be a machine's root.

Rules kept here:

* A unit that somebody else wrote is not touched.
* Under ``--root`` nothing is started and nobody needs to be root: only files are written.
* Removing the service keeps its state, unless that is asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.config import Resolved
from edge_runtime.service.access import access_of
from edge_runtime.service.unit import MARK, NAME, STATE, Credential, Written, read_back, unit_text
from edge_runtime.service.upgrade.environments import HOME
from edge_runtime.state import storing
from edge_runtime.systemd import vitals
from protos.atomic import write_whole
from protos.errors import ConfigError, EdgejouleError, RefusedError, UsageError

UNITS = Path("etc/systemd/system")
_WANTS = UNITS / "multi-user.target.wants" / NAME
_STATES = (Path("var/lib/private") / STATE, Path("var/lib") / STATE)
START: tuple[tuple[str, ...], ...] = (
    ("systemctl", "daemon-reload"),
    ("systemctl", "enable", NAME),
    ("systemctl", "restart", NAME),
)
AGAIN: tuple[tuple[str, ...], ...] = (("systemctl", "daemon-reload"), ("systemctl", "try-restart", NAME))
STOP: tuple[tuple[str, ...], ...] = (("systemctl", "disable", "--now", NAME),)
# The units of `service upgrades on`: edge_runtime/service/upgrade/ordered_units.py.
OFFERED = ("edge-runtime-upgrade.path", "edge-runtime-upgrade.service")
RELOAD: tuple[tuple[str, ...], ...] = (("systemctl", "daemon-reload"), ("systemctl", "reset-failed", NAME))


@dataclass(frozen=True)
class Place:
    """A machine: this one, whose root is ``/``, or one that is being made in a folder."""

    root: Path

    @property
    def live(self) -> bool:
        return self.root == Path("/")

    @property
    def unit(self) -> Path:
        return self.root / UNITS / NAME

    @property
    def link(self) -> Path:
        """What makes the unit start with the machine."""
        return self.root / _WANTS

    @property
    def home(self) -> Path:
        """Versions beside each other, and the record of them."""
        return self.root / HOME

    @property
    def vitals(self) -> Path:
        """What the running daemon shows of itself."""
        return self.root / "run" / STATE / vitals.FILE

    @property
    def state(self) -> Path:
        """The daemon's state; root's way there."""
        return self.root / _STATES[0]

    def program(self) -> Path | None:
        """What the unit starts, or None when there is no unit of ours."""
        return None if (written := self.written()) is None else written.program

    def written(self) -> Written | None:
        """What the unit says, or None when there is no unit of ours."""
        try:
            return read_back(self.unit.read_text("utf-8", "replace"))
        except OSError:
            return None


def default_program() -> Path:
    """``edge-runtime`` of the environment that runs now.

    Raises:
        UsageError: it has none.
    """
    program = Path(sys.prefix) / "bin" / "edge-runtime"
    if not program.exists():
        raise UsageError(f"{program} is not there", where="--program", fix="give the path of edge-runtime")
    return program


def prepare(resolved: Resolved, place: Place, *, config: Path, program: Path, credentials: Iterable[Credential]) -> str:
    """The unit's text for that machine.

    Raises:
        ConfigError: settings with which a service cannot run.
        UsageError, RefusedError: see the rooms ``access`` and ``unit``.
    """
    settings = resolved.settings
    if settings.data is None:
        raise ConfigError("no data is named", where=str(config), fix='write data = "FILE.npz" into it')
    if settings.pid_file is not None and not settings.pid_file.is_relative_to(f"/run/{STATE}"):
        raise ConfigError(
            "a service may not write there, and systemd knows its process anyway",
            where=f"{config}: pid_file",
            fix=f"leave it out, or put it into /run/{STATE}",
        )
    access = access_of(settings, config, program)
    access = replace(access, groups=_existing(access.groups, place))
    return unit_text(resolved, access, program=program, config=config, credentials=credentials)


def install(text: str, place: Place, *, again: bool = False) -> None:
    """The unit is there, starts with the machine, and on a live machine runs now.

    Args:
        again: whether it starts with the machine, and whether it runs, stays as it is.

    Raises:
        RefusedError: not root; or a unit of this name that we did not make.
        StoreError: it cannot be written.
        EdgejouleError: systemd does not start it.
    """
    may_change(place)
    with storing(place.unit):
        place.unit.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(place.unit) as file:
            file.write(text.encode())
        place.unit.chmod(0o644)
        if not place.live and not again and not place.link.is_symlink():
            place.link.parent.mkdir(parents=True, exist_ok=True)
            place.link.symlink_to(Path("..") / NAME)
    if place.live:
        for command in AGAIN if again else START:
            _call(command, fix="edge-runtime service logs says why; edge-runtime doctor checks the machine")


def uninstall(place: Place, *, purge: bool) -> bool:
    """The unit is gone, and with ``purge`` its state and the versions that upgrades made; False when there was none.

    Raises:
        RefusedError, StoreError, EdgejouleError: as for :func:`install`.
    """
    there = place.unit.exists()
    if there or purge:
        may_change(place)
    if there and place.live:
        for command in STOP:
            _call(command, fix=f"look at: systemctl status {NAME}")
    if there and place.live:
        subprocess.run(["systemctl", "stop", OFFERED[0]], capture_output=True, check=False)
    with storing(place.unit):
        for name in (NAME, *OFFERED):
            (place.link.parent / name).unlink(missing_ok=True)
            (place.unit.parent / name).unlink(missing_ok=True)
        for folder in (*(place.root / state for state in _STATES), place.home) if purge else ():
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
    if there and place.live:
        # There is a failure to forget only when the unit failed.
        for command in RELOAD:
            subprocess.run(command, capture_output=True, check=False)
    return there


def _existing(groups: tuple[str, ...], place: Place) -> tuple[str, ...]:
    """Those groups that the machine has: systemd does not start a unit that names another."""
    try:
        table = (place.root / "etc/group").read_text("utf-8", "replace")
    except OSError:
        return groups
    known = {line.partition(":")[0] for line in table.splitlines()}
    return tuple(group for group in groups if group in known)


def may_change(place: Place, *, instead: str = "start `edge-runtime run` yourself, or give --root DIR") -> None:
    """Raise RefusedError unless this process may change the service: root, systemd, and a unit of ours or none."""
    if place.live and os.geteuid() != 0:
        raise RefusedError("only root may change services", where=NAME, fix="put sudo in front of the command")
    if place.live and not Path("/run/systemd/system").is_dir():
        raise RefusedError("systemd does not run this machine", where=NAME, fix=instead)
    with storing(place.unit):
        foreign = place.unit.exists() and not place.unit.read_text("utf-8", "replace").startswith(MARK)
    if foreign:
        raise RefusedError("was not made by this command", where=str(place.unit), fix="move it away first")


def _call(command: tuple[str, ...], *, fix: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EdgejouleError(lines[0], where=" ".join(command), fix=fix)
