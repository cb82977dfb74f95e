"""`coordinator prune`."""

from __future__ import annotations

import argparse
from pathlib import Path

from coordinator.commands.parts import add_json, example
from coordinator.operator import as_json
from protos.commands.json_document import document
from protos.errors import UsageError
from protos.ranges import Range

_DAY_S = 86_400.0


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "prune",
        help="forget runs that are long over",
        description="Removes runs that ended so many days ago from a state folder whose coordinator is stopped, with "
        "the heads and bundles that only they had; then the oldest of the others, until the folder is small enough. "
        "Runs that are not over stay, and so do those of the last two days, since budgets of a day count them.",
        **example("coordinator prune --state /var/lib/edgejoule-coordinator --older-than 90 --max-mb 2000"),
    )
    parser.add_argument("--state", required=True, type=Path, metavar="DIR", help="of `coordinator serve`")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="forget runs that ended so long ago")
    parser.add_argument("--max-mb", type=float, metavar="MB", help="forget the oldest until the folder has so much")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Prune."""
    # Imported here, so that the other commands need no database.
    from coordinator.server.serving import only_one
    from coordinator.store import pruning
    from coordinator.store.backup import DATABASE
    from coordinator.store.database import Database, sqlite_url

    days, most_mb = arguments.older_than, arguments.max_mb
    if days is None and most_mb is None:
        raise UsageError("nothing says what to forget", where="prune", fix="give --older-than DAYS, or --max-mb MB")
    for name, value in (("--older-than", days), ("--max-mb", most_mb)):
        if value is not None and value not in Range(0, 1e9):
            raise UsageError(f"{value:g} is not {Range(0, 1e9)}", where=name)
    if not (arguments.state / DATABASE).is_file():
        raise UsageError("holds no SQLite database", where=str(arguments.state), fix="check --state")
    with only_one(arguments.state):
        db = Database(sqlite_url(arguments.state / DATABASE))
        try:
            made = pruning.prune(
                db,
                arguments.state,
                older_than_s=float("inf") if days is None else days * _DAY_S,
                most_bytes=None if most_mb is None else int(most_mb * 1e6),
            )
        finally:
            db.close()
    if arguments.json:
        told = {"runs": list(made.runs), "before": made.before_bytes, "after": made.after_bytes}
        print(as_json.dump(document("pruned", told)))
    else:
        size = f"{made.before_bytes / 1e6:.1f} MB before, {made.after_bytes / 1e6:.1f} MB now"
        print(f"{arguments.state}: {len(made.runs)} runs forgotten, {size}")
    return 0
