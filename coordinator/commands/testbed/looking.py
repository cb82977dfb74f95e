"""`testbed trust`, `check`, `status` and `collect`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any

from coordinator.commands.parts import operator
from coordinator.commands.testbed.laboratory import Laboratory, print_json, tell
from coordinator.operator import as_json
from coordinator.operator.tables import show
from protos.commands.program import version
from protos.errors import CheckFailed, IntegrityError, RefusedError

if TYPE_CHECKING:
    from coordinator.testbed.across import Outcome, Progress
    from coordinator.testbed.ssh import Session


def run_trust(arguments: argparse.Namespace) -> int:
    """Show host keys, and keep those that a person takes; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.across import code_of
    from coordinator.testbed.host_keys import HostKeys

    keys = HostKeys(found.known_hosts)
    outcomes = asyncio.run(found.host_keys(keys, found.boards))
    seen = [outcome.values["seen"] for outcome in outcomes if outcome.error is None]
    if not arguments.json:
        rows = [[one.board.name, one.board.host, one.state, one.fingerprint] for one in seen]
        rows += [
            [outcome.board.name, outcome.board.host, "?", outcome.failure]
            for outcome in outcomes
            if outcome.error is not None
        ]
        show(["board", "host", "state", "host key"], rows)
    changed = [one for one in seen if one.state == "changed"]
    wanted = [one for one in seen if one.state == "new" or (one.state == "changed" and arguments.replace)]
    if wanted and not (arguments.yes or arguments.replace):
        wanted = wanted if _asked(len(wanted)) else []
        if not wanted:
            raise RefusedError("nothing was kept", where=str(keys.path), fix="compare them, and give --yes")
    if wanted:
        keys.keep(wanted)
    if arguments.json:
        boards = {
            outcome.board.name: {
                "host": outcome.board.host,
                "state": outcome.values["seen"].state if outcome.error is None else None,
                "host_key": outcome.values["seen"].fingerprint if outcome.error is None else None,
                "error": None if outcome.error is None else outcome.failure,
            }
            for outcome in outcomes
        }
        print_json({"verb": "trust", "boards": boards, "kept": [one.board.name for one in wanted]})
    else:
        print(f"kept {len(wanted)} in {keys.path}", file=sys.stderr)
    if changed and not arguments.replace:
        names = ", ".join(one.board.name for one in changed)
        fix = "find out why; if they were set up anew: --replace"
        raise IntegrityError("another host key than the one that is written down", where=names, fix=fix)
    return code_of(outcomes)


def _asked(count: int) -> bool:
    if not sys.stdin.isatty():
        return False
    print(f"keep {count} new host keys? They should be those that the boards show on their own screens. [y/N] ",
          end="", file=sys.stderr, flush=True)  # fmt: skip
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def run_check(arguments: argparse.Namespace) -> int:
    """Look at boards; 3 when one is not fit, else the exit code of the cause."""
    found = Laboratory.of(arguments)
    from coordinator.testbed import checks

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        return await checks.check(session, progress, version=version())

    outcomes = found.over_ssh(work)
    differing = checks.versions_differ([outcome.values for outcome in outcomes if outcome.ok])
    failed = [outcome.board.name for outcome in outcomes if _levels(outcome, "failed")]
    if not arguments.json:
        _show_checks(outcomes)
        if differing:
            print(differing, file=sys.stderr)
    code = tell("check", outcomes, as_json=arguments.json, more={"unfit": failed, "versions": differing})
    return code or (CheckFailed.exit_code if failed else 0)


def _levels(outcome: Outcome, level: str) -> list[dict[str, Any]]:
    return [finding for finding in outcome.values.get("findings", ()) if finding["level"] == level]


def _show_checks(outcomes: list[Outcome]) -> None:
    rows = []
    for outcome in outcomes:
        if outcome.error is not None:
            rows.append([outcome.board.name, "failed", "reach", outcome.failure])
            continue
        odd = [*_levels(outcome, "failed"), *_levels(outcome, "warning")]
        for finding in odd:
            said = f"{finding['said']}; {finding['fix']}" if finding["fix"] else finding["said"]
            rows.append([outcome.board.name, finding["level"], finding["name"], said])
        if not odd:
            facts = outcome.values["facts"]
            rows.append([outcome.board.name, "ok", "", f"{facts.get('version')}, daemon {facts.get('daemon')}"])
    show(["board", "", "what", "says"], rows)


def run_status(arguments: argparse.Namespace) -> int:
    """Say what each board does; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed import daemon, reservation

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        progress.say("looking")
        program = await daemon.program_of(session)
        who = await reservation.holder(session)
        return {
            "daemon": await daemon.state_of(session),
            "version": await daemon.version_of(session, program),
            "reserved": None if who is None else {"who": who.who, "until_unix_s": who.until_unix_s},
            "_says": "" if who is None else str(who),
        }

    outcomes = found.over_ssh(work)
    says = {outcome.board.name: outcome.values.pop("_says", "") for outcome in outcomes}
    if not arguments.json:
        rows = [
            [
                outcome.board.name, outcome.board.host, outcome.board.kind, outcome.values.get("daemon", "?"),
                str(outcome.values.get("version") or ("-" if outcome.ok else "?")), says[outcome.board.name] or "-",
                outcome.failure,
            ]
            for outcome in outcomes
        ]  # fmt: skip
        show(["board", "host", "kind", "daemon", "version", "reserved", "error"], rows)
    return tell("status", outcomes, as_json=arguments.json)


def run_collect(arguments: argparse.Namespace) -> int:
    """Fetch what boards wrote; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.collecting import MANIFEST, collect, folder_for, write_manifest
    from coordinator.testbed.reservation import me

    more: dict[str, bytes] = {}
    if arguments.which is not None:
        with operator(arguments) as connection:
            (status,) = connection.status(arguments.which)
            more["run.json"] = as_json.dump(as_json.run(status)).encode()
            more["devices.json"] = as_json.dump([as_json.device(device) for device in connection.devices()]).encode()
            more["plan.toml"] = connection.details(status.run_id).plan_toml.encode()
    folder = folder_for(arguments.output)

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        return await collect(session, progress, folder, also=arguments.also)

    outcomes = found.over_ssh(work)
    write_manifest(folder, outcomes, more, me())
    if not arguments.json:
        rows = [
            [
                outcome.board.name, str(len(outcome.values.get("files", ()))), str(outcome.values.get("fetched", 0)),
                str(sum(file["size_bytes"] for file in outcome.values.get("files", ()))), outcome.failure,
            ]
            for outcome in outcomes
        ]  # fmt: skip
        show(["board", "files", "fetched", "bytes", "error"], rows)
        print(folder / MANIFEST)
    return tell("collect", outcomes, as_json=arguments.json, more={"folder": str(folder)})
