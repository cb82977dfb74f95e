"""`coordinator audit`: who did what and when, and whether the log is whole."""

from __future__ import annotations

import argparse
import contextlib
import json
from typing import TYPE_CHECKING

from coordinator.commands.parts import add_json, example
from coordinator.commands.trust.trust_parts import add_state, needing_cryptography, state_of, when
from protos.errors import IntegrityError

if TYPE_CHECKING:
    from coordinator.trust.audit import AuditLog


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "audit",
        help="show the log of who did what, or check that nothing of it was changed",
        **example("coordinator audit verify --state /var/lib/edgejoule-coordinator"),
    )
    parser.add_argument("verb", nargs="?", choices=["show", "verify"], default="show", help="default show")
    add_state(parser)
    parser.add_argument("--hash", metavar="HEX", help="verify: a line with this hash, noted earlier, must be there")
    add_json(parser)
    parser.set_defaults(run=run)


def _whole(log: AuditLog) -> None:
    """Compare the log with the register beside it. Raises IntegrityError: lines were cut off at its end."""
    from coordinator.trust.register import FILE, Register

    if not (log.path.parent / FILE).exists():
        return
    with contextlib.closing(Register(log.path.parent)) as register:
        missing = register.unlogged()
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise IntegrityError(
            f"lines were cut off: the register has the {missing[0]}{more}, and no line says so",
            where=str(log.path),
            fix="compare it with a backup",
        )


def run(arguments: argparse.Namespace) -> int:
    """Print or check; 0."""
    with needing_cryptography():
        from coordinator.trust.audit import AuditLog
        from coordinator.trust.authority import FOLDER
    log = AuditLog(state_of(arguments) / FOLDER)
    if arguments.verb == "verify":
        found = log.verify(arguments.hash)
        _whole(log)
        if arguments.json:
            print(json.dumps({"schema": "edgejoule.audit/1", "lines": found.lines, "newest_hash": found.newest_hash}))
        else:
            print(f"{found.lines} lines, none changed; newest hash {found.newest_hash}")
        return 0
    lines = log.lines()
    if arguments.json:
        print(json.dumps({"schema": "edgejoule.audit/1", "entries": lines}, indent=2, ensure_ascii=False))
        return 0
    for line in lines:
        rest = ", ".join(
            f"{key} {value}" for key, value in line.items() if key not in ("unix_s", "who", "what", "hash") and value
        )
        print(f"{when(line.get('unix_s'))}  {line.get('who')}: {line.get('what')}" + (f" ({rest})" if rest else ""))
    return 0
