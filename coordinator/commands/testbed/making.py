"""`testbed init`, `import`, `deploy` and `sync`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator.commands.testbed.laboratory import Laboratory, print_json, tell
from coordinator.operator.tables import show
from coordinator.testbed.inventory import Board, Inventory, as_text, parse
from protos.atomic import write_whole
from protos.errors import UsageError
from protos.extras import require

if TYPE_CHECKING:
    from coordinator.testbed.across import Outcome, Progress
    from coordinator.testbed.ssh import Session

_TEMPLATE = """\
# The boards of a lab: docs/testbed.md has every key.
[lab]
name = "{name}"
# Where boards reach the coordinator, and the state folder in which it keeps its authority.
{coordinator}
{state}

# What holds for every board that does not say otherwise.
[defaults]
user = "pi"
sudo = true
# service = "process"   # without systemd and root: everything in ~/edgejoule

{boards}"""
_BOARD = """\
[board.{name}]
host = "{host}"
{user}# kind = "pi4"
# groups = ["shelf-a"]
# bridge = "/dev/serial/by-id/usb-1a86_USB_Serial-if00-port0"
# shard = "shards/device-1.npz"
# power = "uhubctl -l 1-1 -p {{outlet}} -a {{action}}"
# outlet = 2
"""


def run_init(arguments: argparse.Namespace) -> int:
    """Write an inventory to begin with; 0."""
    target: Path = arguments.inventory
    boards = []
    for number, text in enumerate(arguments.host or ["192.0.2.11"], 1):
        user, at, host = text.rpartition("@")
        name = host.partition(".")[0] if host[:1].isalpha() else f"board-{number}"
        boards.append(_BOARD.format(name=name, host=host, user=f'user = "{user}"\n' if at else ""))
    address, state = arguments.coordinator, arguments.coordinator_state
    made = _TEMPLATE.format(
        name=target.stem,
        boards="\n".join(boards),
        coordinator=f"coordinator = {json.dumps(address)}" if address else '# coordinator = "192.0.2.7:50461"',
        state=f"coordinator_state = {json.dumps(state)}"
        if state
        else '# coordinator_state = "/var/lib/edgejoule-coordinator"',
    )
    parse(made, target)
    _write_new(target, made)
    print(f"{target}: edit it, then: coordinator testbed trust {target}", file=sys.stderr)
    return 0


def run_import(arguments: argparse.Namespace) -> int:
    """Make an inventory of another's; 0."""
    require(("yaml",), "testbed")
    from coordinator.testbed.importing import import_inventory

    target: Path = arguments.output
    found = import_inventory(
        arguments.source,
        target,
        form=arguments.form,
        hosts=arguments.hosts,
        coordinator=arguments.coordinator or "",
        coordinator_state=arguments.coordinator_state or "",
    )
    _write_new(target, as_text(found.inventory, (f"From {arguments.source.name}.", *found.remarks)))
    for remark in found.remarks:
        print(f"left out: {remark}", file=sys.stderr)
    if arguments.json:
        print_json(
            {"verb": "import", "inventory": str(target), "boards": _rows(found.inventory), "left_out": found.remarks}
        )
    else:
        print(f"{target}: {len(found.inventory.boards)} boards")
    return 0


def _rows(lab: Inventory) -> dict[str, Any]:
    return {board.name: {"host": board.host, "kind": board.kind, "groups": list(board.groups)} for board in lab.boards}


def _write_new(target: Path, text: str) -> None:
    if target.exists():
        raise UsageError("is there already", where=str(target), fix="give another name")
    try:
        with write_whole(target) as file:
            file.write(text.encode())
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", where=str(target), fix="give another path") from error


def run_deploy(arguments: argparse.Namespace) -> int:
    """Make boards ready; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.deploying import Parts

    links: tuple[Path, ...] = ()
    if arguments.find_links is not None:
        if not arguments.find_links.is_dir():
            raise UsageError("is no folder", where=str(arguments.find_links), fix="give a folder of wheels")
        links = tuple(sorted(arguments.find_links.glob("*.whl")))
    if (links or arguments.pip) and arguments.wheel is None:
        raise UsageError("nothing is to be installed", where="--find-links, --pip", fix="give --wheel FILE")
    if arguments.wheel is not None:
        links = tuple(link for link in links if link.name != arguments.wheel.name)
    parts = Parts(arguments.wheel, links, tuple(arguments.pip)).checked()
    return _deployed(found, arguments, parts, "deploy", up=not arguments.no_start)


def run_sync(arguments: argparse.Namespace) -> int:
    """Bring data and settings; the exit code."""
    found = Laboratory.of(arguments)
    from coordinator.testbed.deploying import Parts

    return _deployed(found, arguments, Parts(), "sync", up=False)


def _deployed(found: Laboratory, arguments: argparse.Namespace, parts: Any, verb: str, *, up: bool) -> int:
    from coordinator.testbed.deploying import deploy
    from coordinator.testbed.reservation import me

    who = me(arguments.who)
    steps = ("data", "settings", "serve") if verb == "sync" else ("install", "data", "settings", "enrol", "serve")

    async def work(session: Session, progress: Progress) -> dict[str, Any]:
        return await deploy(
            found.lab, session, progress, parts, who=who, up=up, dry_run=arguments.dry_run, steps=steps
        )  # fmt: skip

    outcomes = found.over_ssh(work)
    if not arguments.json:
        _show(outcomes, dry_run=arguments.dry_run)
    return tell(verb, outcomes, as_json=arguments.json, more={"dry_run": arguments.dry_run})


def _show(outcomes: list[Outcome], *, dry_run: bool) -> None:
    rows = []
    for outcome in outcomes:
        done = ", ".join(outcome.values.get("done", ())) or "nothing"
        said = outcome.failure or done
        rows.append([outcome.board.name, f"{outcome.took_s:.1f}", said])
    show(["board", "s", "would be done" if dry_run else "done"], rows)


def board_named(lab: Inventory, name: str) -> Board:
    """The board of that name.

    Raises:
        UsageError: there is none.
    """
    from protos.catalog import pick

    return pick({board.name: board for board in lab.boards}, name, what="board", where=str(lab.path))
