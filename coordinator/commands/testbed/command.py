"""`coordinator testbed`: a lab of boards, driven from one terminal over SSH."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from coordinator.commands.parts import add_json, example
from protos.commands.program import HelpFormatter

_DESCRIPTION = """\
Boards of a lab over SSH, all at once. An inventory in TOML names them; see docs/testbed.md. Host keys are verified:
`trust` shows and keeps them. Every verb goes on where it was cut when it is run again.

Exit codes: 0 when all boards are well; the code of the cause when all failures have one (5 does not answer, 17 hangs,
7 another host key, 16 not allowed or reserved, 3 something on the board); 3 when they have several."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its verbs."""
    top = commands.add_parser(
        "testbed",
        help="drive a lab of boards over SSH",
        description=_DESCRIPTION,
        epilog="example:\n  coordinator testbed check lab.toml --on 'pi4*3,coral'",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)

    init = verbs.add_parser(
        "init", help="write an inventory to begin with", **example("coordinator testbed init lab.toml")
    )
    init.add_argument("inventory", type=Path, metavar="FILE")
    init.add_argument("--host", action="append", default=[], metavar="[USER@]HOST", help="a board; may be repeated")
    _add_coordinator(init)
    _runs(init, "making", "run_init")
    read = verbs.add_parser(
        "import",
        help="make an inventory of one of Ansible, labgrid or CoLExT",
        **example("coordinator testbed import hosts.yaml -o lab.toml"),
    )
    read.add_argument("source", type=Path, metavar="SOURCE", help="YAML or INI of Ansible, YAML of labgrid or CoLExT")
    read.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the inventory; must not exist")
    read.add_argument("--from", dest="form", choices=("ansible", "labgrid", "colext"), help="what it is, if it is odd")
    read.add_argument("--hosts", type=Path, metavar="FILE", help="for CoLExT: lines of HOST KIND")
    _add_coordinator(read)
    add_json(read)
    _runs(read, "making", "run_import")

    trust = _verb(verbs, "trust", "look at host keys, and keep them", "coordinator testbed trust lab.toml", learn=False)
    trust.add_argument("--yes", action="store_true", help="keep new ones without asking")
    trust.add_argument("--replace", action="store_true", help="keep changed ones as well, in place of the old")
    _runs(trust, "looking", "run_trust")
    check = _verb(
        verbs,
        "check",
        "is each board fit: reach, clock, heat, disk, sensor, version",
        "coordinator testbed check lab.toml",
    )
    _runs(check, "looking", "run_check")
    status = _verb(
        verbs, "status", "does the daemon run, and who has the board", "coordinator testbed status lab.toml --json"
    )
    _runs(status, "looking", "run_status")

    deploy = _verb(
        verbs,
        "deploy",
        "program, data, settings, identity and service, where they miss",
        "coordinator testbed deploy lab.toml --wheel dist/edgejoule-0.1.0-py3-none-any.whl",
        who=True,
    )
    deploy.add_argument("--wheel", type=Path, metavar="FILE", help="the program to install; else that stays as it is")
    deploy.add_argument(
        "--find-links",
        type=Path,
        metavar="DIR",
        help="bring every wheel of this folder too, and let boards ask no index",
    )
    deploy.add_argument(
        "--pip", action="append", default=[], metavar="OPTION", help="for pip on the board, such as --pip=--no-deps"
    )
    deploy.add_argument("--no-start", action="store_true", help="leave a daemon that does not run as it is")
    deploy.add_argument("--dry-run", action="store_true", help="look, say what would be done, and change nothing")
    _runs(deploy, "making", "run_deploy")
    sync = _verb(
        verbs, "sync", "data and settings alone; daemons start again where they changed",
        "coordinator testbed sync lab.toml --dry-run", who=True,
    )  # fmt: skip
    sync.add_argument("--dry-run", action="store_true", help="look, say what would be done, and change nothing")
    _runs(sync, "making", "run_sync")

    for name, help_text in (("up", "start the daemons"), ("down", "stop the daemons")):
        parser = _verb(verbs, name, help_text, f"coordinator testbed {name} lab.toml --on coral", who=True)
        _runs(parser, "acting", f"run_{name}")
    power = _verb(
        verbs, "power", "switch boards on, off, or off and on", "coordinator testbed power cycle lab.toml --on pi-3",
        who=True, learn=False, first=("action", {"choices": ("on", "off", "cycle")}),
    )  # fmt: skip
    power.add_argument("--rest", default="2s", metavar="TIME", help="between off and on (default 2s)")
    power.add_argument("--dry-run", action="store_true", help="print the commands, and switch nothing")
    _runs(power, "acting", "run_power")
    blink = _verb(
        verbs, "blink", "let a LED of each board blink", "coordinator testbed blink lab.toml --on pi-3 --for 20s"
    )
    blink.add_argument("--for", dest="length", default="10s", metavar="TIME", help="how long (default 10s)")
    _runs(blink, "acting", "run_blink")
    run = _verb(
        verbs, "run", "run a command on each board", "coordinator testbed run lab.toml --on pi4 -- uptime", who=True
    )
    run.add_argument("words", nargs="+", metavar="COMMAND", help="after --; one word is a line for the board's shell")
    _runs(run, "acting", "run_run")
    logs = _verb(verbs, "logs", "lines of the daemons", "coordinator testbed logs lab.toml --on pi-3 -f")
    logs.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="the newest N of each (default 20)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with new lines")
    _runs(logs, "acting", "run_logs")
    shell = verbs.add_parser("shell", help="a shell on one board", **example("coordinator testbed shell lab.toml pi-3"))
    shell.add_argument("inventory", type=Path, metavar="FILE")
    shell.add_argument("board", metavar="BOARD")
    _runs(shell, "acting", "run_shell")
    collect = _verb(
        verbs, "collect", "fetch logs, recordings and results into one folder",
        "coordinator testbed collect lab.toml -o results --run digits",
    )  # fmt: skip
    collect.add_argument("-o", "--output", type=Path, metavar="DIR", required=True, help="gone on with if it is there")
    collect.add_argument("--also", action="append", default=[], metavar="PATH", help="a further file or folder there")
    collect.add_argument("--run", dest="which", metavar="RUN", help="and what the coordinator knows of this run")
    collect.add_argument("--coordinator", metavar="HOST:PORT", help="where it listens, for --run")
    collect.add_argument("--context", metavar="NAME", help="credentials for --run")
    _runs(collect, "looking", "run_collect")
    reserve = _verb(
        verbs, "reserve", "have boards for yourself for a while",
        "coordinator testbed reserve lab.toml --on pi4 --for 2h",
        who=True,
    )  # fmt: skip
    reserve.add_argument("--for", dest="length", default="2h", metavar="TIME", help="how long (default 2h)")
    _runs(reserve, "acting", "run_reserve")
    release = _verb(verbs, "release", "give boards back", "coordinator testbed release lab.toml", who=True)
    release.add_argument("--force", action="store_true", help="those of others as well")
    _runs(release, "acting", "run_release")


def _add_coordinator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where boards reach the coordinator, for [lab]")
    parser.add_argument("--coordinator-state", metavar="DIR", help="its state folder on this machine, for [lab]")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help_text: str,
    shown: str,
    *,
    who: bool = False,
    learn: bool = True,
    first: tuple[str, dict[str, Any]] | None = None,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=help_text, **example(shown))
    if first is not None:
        parser.add_argument(first[0], **first[1])
    parser.add_argument("inventory", type=Path, metavar="FILE", help="the inventory")
    parser.add_argument("--on", metavar="BOARDS", help="names, kinds and groups, such as 'pi4*3,coral'; else all")
    parser.add_argument("--parallel", type=int, metavar="N", help="boards at a time (default: the inventory's, or 32)")
    parser.add_argument(
        "--timeout", default="10s", metavar="TIME", help="a board that says nothing so long hangs (default 10s)"
    )
    if learn:
        parser.add_argument(
            "--learn-host-keys", action="store_true", help="keep the host keys of boards of which none is known"
        )
    if who:
        parser.add_argument("--as", dest="who", metavar="NAME", help="who you are to others (default: USER@HOST)")
    add_json(parser)
    return parser


def _runs(parser: argparse.ArgumentParser, module: str, name: str) -> None:
    """What a verb does stands in a module that only it imports."""

    def run(arguments: argparse.Namespace) -> int:
        found = importlib.import_module(f"coordinator.commands.testbed.{module}")
        code: int = getattr(found, name)(arguments)
        return code

    parser.set_defaults(run=run)
