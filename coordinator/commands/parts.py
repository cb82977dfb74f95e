"""What the commands share: where the coordinator is, and how an example is shown."""

from __future__ import annotations

import argparse
import os
from typing import Any

from coordinator.operator.client import DEFAULT_ADDRESS, Operator
from coordinator.operator.credentials import Contexts
from protos.addresses import host_and_port, is_loopback
from protos.commands.program import HelpFormatter
from protos.errors import UsageError


def example(line: str) -> dict[str, Any]:
    """Arguments of a parser whose help ends with an example."""
    return {
        "epilog": f"example:\n  {line}",
        "formatter_class": HelpFormatter,
        "allow_abbrev": False,
    }


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the run that the command is about, as `which`."""
    parser.add_argument("which", metavar="RUN", help="an id, the beginning of one, or a name")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add `--coordinator` and `--context`."""
    parser.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help=f"where it listens (default: EDGEJOULE_COORDINATOR, the context's address, or {DEFAULT_ADDRESS})",
    )
    parser.add_argument(
        "--context",
        metavar="NAME",
        help="credentials to use, of those that `coordinator login` keeps (default: EDGEJOULE_CONTEXT, or the newest)",
    )


def add_max_drop(parser: argparse.ArgumentParser) -> None:
    """Add `--max-drop`."""
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="SHARE",
        help="accuracy that the integer model may lose against the float head, beyond chance (default 0.01, one point)",
    )


def check_max_drop(share: float | None) -> None:
    """Refuse what is no share, before anything is asked or started.

    Raises:
        UsageError: it is not between 0 and 1.
    """
    if share is not None and not 0 <= share <= 1:
        raise UsageError(f"{share:g} is no share of accuracy", where="--max-drop", fix="give 0 to 1, such as 0.02")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")


def operator(arguments: argparse.Namespace) -> Operator:
    """A connection to the coordinator that the command names.

    An address on loopback that no credentials name is spoken to without any: a demo's, or one of before `init`.

    Raises:
        UsageError: the address is none. ConfigError: the credentials cannot be used.
    """
    given: str | None = arguments.coordinator or os.environ.get("EDGEJOULE_COORDINATOR")
    if given is not None and host_and_port(given) is None:
        raise UsageError(f"{given!r} is not HOST:PORT", where="--coordinator", fix=f"such as {DEFAULT_ADDRESS}")
    contexts = Contexts()
    named = arguments.context or os.environ.get("EDGEJOULE_CONTEXT")
    context = named or contexts.current()
    if context is None:
        return Operator(given or DEFAULT_ADDRESS)
    credentials = contexts.read(context)
    if given is None:
        return Operator(credentials.addresses[0], credentials)
    local = is_loopback((host_and_port(given) or ("", 0))[0])
    return Operator(given, credentials if named or not local or given in credentials.addresses else None)
