"""``edge-runtime service upgrade``, ``rollback``, ``check``, and the watch that systemd runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protos.commands.json_document import document
from protos.commands.program import HelpFormatter, example
from protos.errors import CheckFailed, RefusedError, UsageError

if TYPE_CHECKING:
    from edge_runtime.service.install import Place
    from edge_runtime.service.upgrade.switching import Switching

VERBS = ("upgrade", "rollback", "watch-trial")
_LEAST_TRIAL_S, _MOST_TRIAL_S = 10.0, 86400.0


def add_arguments(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Put the verbs on a parser. They are for the machine that runs, so none takes ``--root``."""
    up = verbs.add_parser("upgrade", help="install a new version beside the old, and put it on trial",
                          epilog=_UPGRADE_EXAMPLE, formatter_class=HelpFormatter)  # fmt: skip
    source = up.add_mutually_exclusive_group()
    source.add_argument("--wheel", metavar="FILE", type=Path, help="edgejoule-VERSION-py3-none-any.whl")
    source.add_argument("--version", metavar="V", help="fetch this version with pip; else the newest")
    up.add_argument("--find-links", metavar="DIR", type=Path, help="take every wheel from here, and ask no index")
    up.add_argument("--trial", metavar="S", type=float, default=600.0,
                    help="seconds until it must have shown that it works (default 600)")  # fmt: skip
    up.add_argument("--force", action="store_true", help="although this version was rolled back before")
    back = verbs.add_parser(
        "rollback",
        help="end a trial, or go back to the version before",
        **example("sudo edge-runtime service rollback --dry-run"),
    )
    for verb in (up, back):
        verb.add_argument("--dry-run", action="store_true", help="print what would be done")
        verb.add_argument("--json", action="store_true", help="print JSON on stdout")
    check = verbs.add_parser(
        "check",
        help="whether this version is fit for this machine's settings and state",
        **example("edge-runtime service check --json"),
    )
    check.add_argument("--config", metavar="FILE", type=Path, default=None, help="settings of the service")
    check.add_argument("--credential", metavar="NAME:FILE", action="append", default=[], help="as for install")
    check.add_argument("--json", action="store_true", help="print JSON on stdout, with the unit it would have")
    # systemd runs this one.
    watch = verbs.add_parser("watch-trial")
    for verb in (up, back, check, watch):
        verb.set_defaults(root=Path("/"))


_UPGRADE_EXAMPLE = """example:
  sudo edge-runtime service upgrade --wheel edgejoule-0.2.0-py3-none-any.whl --find-links wheels/

The version before comes back by itself when the new one does not come up, does not stay up, or the machine is switched
off meanwhile. Exit code 22 when it was not fit, or came back."""


def run(given: argparse.Namespace, place: Place) -> int:
    """Run one of :data:`VERBS`; the exit code.

    Raises:
        EdgejouleError: what cannot be done, and why.
    """
    from edge_runtime.service.install import may_change
    from edge_runtime.service.systemctl import Systemd
    from edge_runtime.service.upgrade.switching import Switching

    may_change(place, instead="run this on the board")
    switching = Switching(place, Systemd())
    if given.verb == "watch-trial":
        return _watch(switching)
    return _upgrade(given, switching) if given.verb == "upgrade" else _rollback(given, switching)


def check(given: argparse.Namespace, place: Place, unit: str, resolved: Any) -> int:
    """Run ``check``; its exit code."""
    from edge_runtime.service.upgrade.selfcheck import examine, lines

    found = examine(resolved, unit, place.state)
    print(json.dumps(document("service-check", found), indent=1) if given.json else "\n".join(lines(found)))
    return 0 if found["ok"] else CheckFailed.exit_code


def _upgrade(given: argparse.Namespace, switching: Switching) -> int:
    from edge_runtime.service.upgrade.upgrade import UpgradeRequest, upgrade, wait

    if not _LEAST_TRIAL_S <= given.trial <= _MOST_TRIAL_S:
        fix = f"give {_LEAST_TRIAL_S:g} to {_MOST_TRIAL_S:g} seconds"
        raise UsageError(f"{given.trial:g}", where="--trial", fix=fix)
    for flag, path in (("--wheel", given.wheel), ("--find-links", given.find_links)):
        if path is not None and not path.exists():
            raise UsageError("is not there", where=f"{flag} {path}", fix="check the path")
    wanted = UpgradeRequest(given.wheel, given.version, given.find_links, given.trial, given.force)
    name = upgrade(switching, wanted, dry_run=given.dry_run, say=_say)
    told = "nothing was done"
    if name is not None and not given.dry_run:
        _say("the trial goes on without this command; edge-runtime service status tells how it ends")
        told = wait(switching, name, given.trial, say=_say)
    return _tell(given, {"version": name, "done": told if not given.dry_run else "nothing", "dry_run": given.dry_run})


def _rollback(given: argparse.Namespace, switching: Switching) -> int:
    from edge_runtime.service.upgrade.upgrade import rollback

    return _tell(given, {"done": rollback(switching, dry_run=given.dry_run, say=_say), "dry_run": given.dry_run})


def _tell(given: argparse.Namespace, told: dict[str, Any]) -> int:
    if given.json:
        print(json.dumps(document("service-change", told), indent=1))
    else:
        _say(str(told["done"]))
    return 0


def _watch(switching: Switching) -> int:
    from edge_runtime.service.upgrade.trial import watch
    from edge_runtime.systemd.notify import Notifier

    if not os.environ.get("NOTIFY_SOCKET"):
        raise RefusedError("is for systemd to run", where="watch-trial", fix="use upgrade, rollback or status")
    watch(switching, Notifier.of(os.environ), say=_say)
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
