"""`coordinator backup` and `coordinator restore`."""

from __future__ import annotations

import argparse
from pathlib import Path

from coordinator.commands.parts import example


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    take = commands.add_parser(
        "backup",
        help="copy a state folder, also while its coordinator runs",
        description="Writes database, bundles and embedded held-out data to a new folder, with the hash of each file.",
        **example("coordinator backup /mnt/backup/monday --state /var/lib/edgejoule-coordinator"),
    )
    take.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    take.add_argument("--state", required=True, type=Path, metavar="DIR", help="of `coordinator serve`")
    take.set_defaults(run=run_backup)
    back = commands.add_parser(
        "restore",
        help="make a state folder of a backup, checked",
        description="Checks every file of the backup against its hash, and makes a state folder of it.",
        **example("coordinator restore /mnt/backup/monday --state /var/lib/edgejoule-coordinator"),
    )
    back.add_argument("backup", type=Path, metavar="BACKUP")
    back.add_argument("--state", required=True, type=Path, metavar="DIR", help="a folder that is empty, or not there")
    back.set_defaults(run=run_restore)


def run_backup(arguments: argparse.Namespace) -> int:
    """Back up."""
    # Imported here, so that the other commands need no database.
    from coordinator.store import backup

    made = backup.take(arguments.state, arguments.out)
    print(f"{arguments.out}: {len(made.files)} files, layout {made.layout}")
    return 0


def run_restore(arguments: argparse.Namespace) -> int:
    """Restore."""
    from coordinator.store import backup

    held = backup.restore(arguments.backup, arguments.state)
    print(f"{arguments.state}: {len(held.files)} files, layout {held.layout}")
    return 0
