"""What the commands on a coordinator's own files share: where they are, and durations as people write them."""

from __future__ import annotations

import argparse
import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protos.errors import UsageError


def add_state(parser: argparse.ArgumentParser) -> None:
    """Add `--state`."""
    parser.add_argument(
        "--state",
        type=Path,
        metavar="DIR",
        default=os.environ.get("EDGEJOULE_COORDINATOR_STATE"),
        help="the coordinator's state folder, on its own machine (default: EDGEJOULE_COORDINATOR_STATE)",
    )


def state_of(arguments: argparse.Namespace) -> Path:
    """The state folder that was named.

    Raises:
        UsageError: none was.
    """
    if arguments.state is None:
        raise UsageError("no state folder is named", where="--state", fix="give the folder of `coordinator serve`")
    return Path(arguments.state)


def when(unix_s: float | None) -> str:
    """A time for people, local, to the minute; `-` for none."""
    if unix_s is None:
        return "-"
    return datetime.datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M")


@contextmanager
def needing_cryptography() -> Iterator[None]:
    """One line when the package is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("cryptography", "segno"):
            raise
        raise UsageError(
            f"the package {error.name} is not installed", fix="install it with `pip install 'edgejoule[coordinator]'`"
        ) from error
