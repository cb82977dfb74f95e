"""`coordinator login`: which coordinator the commands speak to, and as whom."""

from __future__ import annotations

import argparse
from pathlib import Path

from coordinator.commands.parts import example
from coordinator.commands.trust.trust_parts import needing_cryptography
from coordinator.operator.credentials import Contexts, read_credentials
from coordinator.operator.tables import show
from protos.errors import UsageError
from protos.trust.token import MARK, read_token


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "login",
        help="keep credentials, and use them from now on; without a file, list them",
        **example("coordinator login admin.json --name lab"),
    )
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE|TOKEN",
        help="made by `coordinator init` or `operators add`; or a token of `operators invite`, - for one on stdin",
    )
    parser.add_argument("--name", metavar="NAME", help="what to call this coordinator (default: the host's name)")
    parser.add_argument("--use", metavar="NAME", help="use one that is kept already")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Keep, choose or list; 0."""
    contexts = Contexts()
    if arguments.use is not None:
        contexts.read(arguments.use)
        contexts.use(arguments.use)
        print(f"commands use {arguments.use}")
        return 0
    if arguments.file is None:
        if arguments.name:
            raise UsageError("a file is needed", where="FILE", fix="give the credentials to keep under that name")
        current = contexts.current()
        kept = {name: contexts.read(name) for name in contexts.names()}
        if kept:
            rows = [[f"{'*' if name == current else ' '} {name}", one.role, one.name, one.addresses[0]]
                    for name, one in kept.items()]  # fmt: skip
            show(["  context", "role", "name", "address"], rows)
        else:
            print("no credentials are kept; keep some with: coordinator login FILE")
        return 0
    text = input() if arguments.file == "-" else arguments.file
    if text.startswith(MARK):
        with needing_cryptography():
            from coordinator.operator.joining import join
        credentials = join(read_token(text))
    else:
        credentials = read_credentials(Path(text))
    host = credentials.addresses[0].rpartition(":")[0].strip("[]").replace(":", "-")
    name = arguments.name or host
    contexts.add(name, credentials)
    print(f"commands use {name}: {credentials.role} {credentials.name} at {credentials.addresses[0]}")
    return 0
