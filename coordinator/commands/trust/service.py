"""`coordinator service`: the coordinator as a service of systemd."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from coordinator.commands.parts import example
from coordinator.service.unit import MARK, NAME, STATE, USER, sysusers_text, unit_text
from protos.atomic import write_whole
from protos.errors import RefusedError, StoreError, UsageError
from protos.extras import missing
from protos.systems import LINUX, require_system

_UNITS, _SYSUSERS = "etc/systemd/system", "etc/sysusers.d"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "service",
        help="run the coordinator as a service of systemd",
        **example("sudo coordinator service install --listen 0.0.0.0:50461"),
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    put = verbs.add_parser(
        "install",
        help="make its user, write the unit, and start it",
        description=f"The service runs as {USER}, keeps what must last in /var/lib/{STATE}, and reads the folders that "
        f"plans name. Commands on its files are run as that user: sudo -u {USER} coordinator enroll --state "
        f"/var/lib/{STATE} pi-1",
        **example("sudo coordinator service install --listen 0.0.0.0:50461 --dry-run"),
    )
    put.add_argument("--listen", default="127.0.0.1:50461", metavar="HOST:PORT", help="as for `coordinator serve`")
    put.add_argument("--program", type=Path, metavar="PATH", help="coordinator to start; else the one that runs now")
    put.add_argument(
        "--database-file", type=Path, metavar="FILE", help="holds EDGEJOULE_DATABASE=URL, for root's eyes alone"
    )
    put.add_argument("--dry-run", action="store_true", help="print the unit, and what would be done")
    remove = verbs.add_parser(
        "uninstall",
        help="stop it, and remove the unit; what it keeps stays",
        **example("sudo coordinator service uninstall"),
    )
    remove.add_argument("--dry-run", action="store_true", help="print what would be done")
    for verb in (put, remove):
        verb.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help="a machine's root in a folder")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Install or uninstall; 0.

    Raises:
        RefusedError: not as root, or a unit of somebody else is there. UsageError, StoreError: it cannot be written.
    """
    require_system("coordinator service", LINUX)
    return _install(arguments) if arguments.verb == "install" else _uninstall(arguments)


def _install(given: argparse.Namespace) -> int:
    if given.program is None and importlib.util.find_spec("sqlalchemy") is None:
        # The unit would start a program that cannot serve.
        raise missing("sqlalchemy")
    program = (given.program or Path(sys.executable).parent / "coordinator").absolute()
    if not os.access(program, os.X_OK):
        raise UsageError("is no program", where=str(program), fix="give --program PATH")
    if given.database_file is not None and (given.database_file.stat().st_mode & 0o077):
        fix = f"chmod 600 {given.database_file}"
        raise UsageError("holds a secret, and others may read it", where=str(given.database_file), fix=fix)
    text = unit_text(program, listen=given.listen, database_file=given.database_file)
    unit, users = given.root / _UNITS / NAME, given.root / _SYSUSERS / f"{USER}.conf"
    if given.dry_run:
        print(text, end="")
        print(f"would write {unit} and {users}, make the user, and start it", file=sys.stderr)
        return 0
    _check(given.root, unit)
    _write(users, sysusers_text())
    _write(unit, text)
    print(f"wrote {unit}")
    if _is_live(given.root):
        _do("systemd-sysusers", str(users))
        _do("systemctl", "daemon-reload")
        _do("systemctl", "enable", "--now", NAME)
        print(f"started; its lines: journalctl -u {NAME} -f")
    return 0


def _uninstall(given: argparse.Namespace) -> int:
    unit, users = given.root / _UNITS / NAME, given.root / _SYSUSERS / f"{USER}.conf"
    if given.dry_run:
        print(f"would stop it and remove {unit}; /var/lib/{STATE} and the user {USER} stay")
        return 0
    _check(given.root, unit)
    if not unit.exists():
        raise RefusedError("is not installed", where=str(unit))
    if _is_live(given.root):
        _do("systemctl", "disable", "--now", NAME)
    for path in (unit, users):
        path.unlink(missing_ok=True)
    if _is_live(given.root):
        _do("systemctl", "daemon-reload")
    print(f"removed {unit}; what it kept stays in /var/lib/{STATE}")
    return 0


def _check(root: Path, unit: Path) -> None:
    if root == Path("/") and os.geteuid() != 0:
        raise RefusedError("only root changes services", where=str(unit), fix="run it with sudo")
    if unit.exists() and not unit.read_text("utf-8", "replace").startswith(MARK):
        raise RefusedError("was not made by `coordinator service install`", where=str(unit), fix="move it away first")


def _is_live(root: Path) -> bool:
    return root == Path("/") and Path("/run/systemd/system").is_dir()


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as file:
            file.write(text.encode())
        path.chmod(0o644)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error


def _do(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise UsageError("is not there", where=command[0], fix="this machine has no systemd; run `coordinator serve`")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RefusedError(f"failed: {said}", where=" ".join(command))
