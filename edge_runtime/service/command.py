"""``edge-runtime service``: the daemon as a service of systemd."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.config import SERVICE_CONFIG
from edge_runtime.service.upgrade import command as upgrade_command
from protos.commands.json_document import document
from protos.commands.program import example
from protos.errors import CheckFailed, RefusedError, UsageError

if TYPE_CHECKING:
    from edge_runtime.config import Resolved
    from edge_runtime.service.install import Place
    from edge_runtime.service.unit import Credential

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """examples:
  edge-runtime service install --config /etc/edgejoule/device.toml --dry-run
  sudo edge-runtime service install
  edge-runtime service status --json
  edge-runtime service logs -f
  sudo edge-runtime service upgrade --wheel edgejoule-0.2.0-py3-none-any.whl
  sudo edge-runtime service rollback

status leaves with exit code 3 when the service is not running."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Put the verbs of ``service`` on a parser."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    put = verbs.add_parser(
        "install",
        help="write the unit, and start it",
        **example("sudo edge-runtime service install --config /etc/edgejoule/device.toml"),
    )
    put.add_argument("--config", metavar="FILE", type=Path, default=None,
                     help=f"settings of the service (default {SERVICE_CONFIG})")  # fmt: skip
    put.add_argument("--program", metavar="PATH", type=Path, help="edge-runtime to start; else the one that runs now")
    put.add_argument("--credential", metavar="NAME:FILE", action="append", default=[],
                     help="a key that root alone may read, handed to the service; may be repeated")  # fmt: skip
    put.add_argument("--again", action="store_true",
                     help="with file and keys of the unit that is there; restarted only if it runs")  # fmt: skip
    put.add_argument("--dry-run", action="store_true", help="print the unit, and what would be done")
    remove = verbs.add_parser(
        "uninstall",
        help="stop it, and remove the unit",
        **example("sudo edge-runtime service uninstall --purge --dry-run"),
    )
    remove.add_argument("--purge", action="store_true", help="remove its state as well: bundles and unsent reports")
    remove.add_argument("--dry-run", action="store_true", help="print what would be done")
    status = verbs.add_parser(
        "status", help="whether it runs, and what it says of itself", **example("edge-runtime service status --json")
    )
    status.add_argument("--json", action="store_true", help="print JSON on stdout")
    logs = verbs.add_parser("logs", help="its lines in the journal", **example("edge-runtime service logs -f"))
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    logs.add_argument("-n", "--lines", metavar="N", type=int, default=100, help="at most this many (default 100)")
    logs.add_argument("--json", action="store_true", help="one JSON object a line, with run, round, phase and joules")
    upgrade_command.add_arguments(verbs)
    for verb in (put, remove, status, logs):
        verb.add_argument("--root", metavar="DIR", type=Path, default=Path("/"), help="a machine's root in a folder")


def run(given: argparse.Namespace) -> int:
    """Run ``service``; the exit code.

    Raises:
        EdgejouleError: what cannot be done, and why.
    """
    from edge_runtime.service.install import Place

    if not given.root.is_dir():
        raise UsageError("is no folder", where=f"--root {given.root}", fix="make it first")
    place = Place(given.root.resolve())
    if given.verb in upgrade_command.VERBS:
        return upgrade_command.run(given, place)
    if given.verb == "install":
        return _install(given, place)
    if given.verb == "check":
        return _check(given, place)
    if given.verb == "uninstall":
        return _uninstall(place, purge=given.purge, dry_run=given.dry_run)
    return _status(place, as_json=given.json) if given.verb == "status" else _logs(given, place)


def _unit(given: argparse.Namespace, place: Place, program: Path) -> tuple[str, Resolved]:
    """The unit's text, and the settings it was made from."""
    from edge_runtime.config import resolve
    from edge_runtime.service.install import prepare

    config = given.config.absolute() if place.live else _inside(given.config)
    seen = place.root / config.relative_to("/")
    # Flags and variables of this shell do not reach the service: its file alone counts, as seen from its machine.
    resolved = resolve({}, {}, seen, at=config)
    text = prepare(
        resolved, place, config=config, program=program, credentials=[_credential(one) for one in given.credential]
    )
    return text, resolved


def _as_before(given: argparse.Namespace, place: Place) -> None:
    written = place.written()
    if written is None:
        raise RefusedError("is not there, or not of this command", where=str(place.unit), fix="leave --again out")
    if given.config is not None or given.credential:
        raise UsageError("goes without --config and --credential", where="--again", fix="leave one of them out")
    given.config = written.config
    given.credential = [f"{credential.name}:{credential.path}" for credential in written.credentials]


def _check(given: argparse.Namespace, place: Place) -> int:
    from edge_runtime.service.install import default_program

    written = place.written()
    given.config = given.config or (written.config if written else SERVICE_CONFIG)
    text, resolved = _unit(given, place, default_program())
    return upgrade_command.check(given, place, text, resolved)


def _install(given: argparse.Namespace, place: Place) -> int:
    from edge_runtime.service.install import AGAIN, START, default_program, install

    if given.again:
        _as_before(given, place)
    given.config = given.config or SERVICE_CONFIG
    program = given.program or default_program()
    if not program.is_absolute():
        raise UsageError("is not absolute", where=f"--program {program}", fix="write the whole path")
    text, resolved = _unit(given, place, program)
    if given.dry_run:
        print(text, end="")
        _say(f"would write {place.unit}")
        for command in (AGAIN if given.again else START) if place.live else ():
            _say(f"would run {shlex.join(command)}")
        return 0
    if place.live:
        from edge_runtime.service.upgrade.record import load
        from edge_runtime.service.upgrade.upgrade import refuse_in_trial

        refuse_in_trial(load(place.home))
    install(text, place, again=given.again)
    done = "as it was" if given.again else "running" if place.live else "enabled"
    _say(f"{place.unit} is written, and {done}")
    if resolved.origins["state"] != "default":
        _say("the state is in /var/lib/edgejoule; the folder that the file names is not used")
    return 0


def _inside(config: Path) -> Path:
    if not config.is_absolute():
        raise UsageError("is not absolute", where=f"--config {config}", fix="write the path as seen inside --root")
    return config


def _credential(text: str) -> Credential:
    from edge_runtime.service.unit import Credential

    name, _, path = text.partition(":")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name) or not path.startswith("/"):
        raise UsageError(f"{text!r}", where="--credential", fix="write it like device.key:/etc/edgejoule/device.key")
    return Credential(name, Path(path))


def _uninstall(place: Place, *, purge: bool, dry_run: bool) -> int:
    from edge_runtime.service.install import RELOAD, STOP, uninstall

    if dry_run:
        for command in STOP if place.live else ():
            _say(f"would run {shlex.join(command)}")
        _say(f"would remove {place.unit}" + (", and the state" if purge else ""))
        for command in RELOAD if place.live else ():
            _say(f"would run {shlex.join(command)}")
        return 0
    if place.live:
        from edge_runtime.service.upgrade.upgrade import abandon

        abandon(place)
    there = uninstall(place, purge=purge)
    _say(f"{place.unit} is {'removed' if there else 'not there'}")
    return 0


def _status(place: Place, *, as_json: bool) -> int:
    from edge_runtime.service.status import read

    status = read(place)
    print(json.dumps(document("service", status.as_json()), indent=2) if as_json else "\n".join(status.lines()))
    good = status.running if place.live else status.installed
    return 0 if good else CheckFailed.exit_code


def journal_command(place: Place, *, follow: bool, lines: int, as_json: bool) -> list[str]:
    """``journalctl`` for the lines of the service, as words."""
    from edge_runtime.service.unit import NAME

    words = ["journalctl", f"--unit={NAME}", f"--lines={lines}", "--no-pager"]
    words += [f"--root={place.root}"] if not place.live else []
    return [*words, *(["--follow"] if follow else []), *(["--output=json"] if as_json else [])]


def _logs(given: argparse.Namespace, place: Place) -> int:
    if given.lines < 0:
        raise UsageError(f"{given.lines}", where="--lines", fix="give 0 or more")
    words = journal_command(place, follow=given.follow, lines=given.lines, as_json=given.json)
    if shutil.which(words[0]) is None:
        raise RefusedError("journalctl is not there", where="logs", fix="run this on a machine with systemd")
    sys.stdout.flush()
    os.execvp(words[0], words)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
