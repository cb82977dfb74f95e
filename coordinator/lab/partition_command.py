"""``coordinator partition``: one data set divided over boards, a file each, with a table of who has what."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coordinator.commands.parts import add_json, example
from coordinator.lab.partition import check_scheme
from coordinator.operator.tables import show
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.errors import UsageError

_HOW = ("natural", "iid", "dirichlet")
MANIFEST = "partition.json"


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "partition",
        help="divide data over boards, a file each",
        description="Writes device-1.npz and so on, held-out.npz for the coordinator, and partition.json, which says "
        "how they came about, with each file's SHA-256. The same arguments give the same files.",
        **example("coordinator partition cifar10.npz --boards 10 --how dirichlet --alpha 0.5 --seed 1 -o shards"),
    )
    add = parser.add_argument
    add("data", metavar="DATA", help="FILE.npz, idx images, or a folder of images by class")
    add("--boards", type=int, required=True, metavar="N", help="how many")
    add("--names", metavar="NAME[,NAME...]", help="of the boards, for their files (default device-1 and so on)")
    add("--how", choices=_HOW, default="natural", help="natural: by owner; iid: alike; dirichlet: by class, unlike")
    add("--alpha", type=float, metavar="A", help="of dirichlet: the smaller, the fewer classes on each (default 0.5)")
    add("--seed", type=int, default=0, metavar="S", help="(default 0)")
    add("--bundle", type=Path, metavar="DIR", help="a bundle that the data must fit")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder, or an empty one")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Divide; 0."""
    # Imported late: the other commands of the coordinator need not wait for numpy.
    from coordinator.lab import shards
    from protos.model.bundle import open_bundle

    if arguments.alpha is not None and arguments.how != "dirichlet":
        raise UsageError(f"{arguments.how} takes no number", where="--alpha", fix="leave it out, or take dirichlet")
    alpha = 0.5 if arguments.alpha is None else arguments.alpha
    scheme = f"dirichlet:{alpha!r}" if arguments.how == "dirichlet" else arguments.how
    check_scheme(scheme)
    if arguments.boards < 1:
        raise UsageError(f"{arguments.boards} boards cannot share data", where="--boards", fix="give 1 or more")
    names = _names(arguments.names, arguments.boards)
    folder: Path = arguments.output
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError("is there already, and not empty", where=str(folder), fix="give another folder with -o")
    manifest = None if arguments.bundle is None else open_bundle(arguments.bundle).manifest
    made = shards.cut(
        arguments.data, manifest, folder, devices=arguments.boards, scheme=scheme, seed=arguments.seed, names=names
    )
    values = _described(arguments, scheme, made)
    with write_whole(folder / MANIFEST) as file:
        file.write((json.dumps(values, indent=2) + "\n").encode())
    print(made.account, file=sys.stderr)
    if made.unlike:
        print(f"warning: {made.unlike}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(values, indent=2))
    else:
        _show(values)
    return 0


def _names(given: str | None, count: int) -> Sequence[str] | None:
    if given is None:
        return None
    names = [part.strip() for part in given.split(",")]
    if len(names) != count or len(set(names)) != count:
        raise UsageError(f"{len(set(names))} names for {count} boards", where="--names", fix=f"give {count} of them")
    for name in names:
        if not name or not all(letter.isalnum() or letter in "._-" for letter in name) or name.startswith("."):
            raise UsageError(f"{name!r} is no name of a file", where="--names", fix="letters, digits, . _ and -")
    return names


def _described(arguments: argparse.Namespace, scheme: str, made: Any) -> dict[str, Any]:
    from hashlib import file_digest

    rows = []
    for path, counts in [*zip(made.devices, made.class_counts, strict=True), (made.held_out, made.held_out_counts)]:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        row = {"file": path.name, "examples": sum(counts.values()), "classes": counts, "sha256": digest}
        rows.append({**row, "size_bytes": path.stat().st_size})
    return document(
        "partition",
        {
            "data": str(arguments.data), "boards": arguments.boards, "scheme": scheme, "seed": arguments.seed,
            "shards": rows[:-1], "held_out": rows[-1], "account": made.account, "output": str(arguments.output),
        },
    )  # fmt: skip


def _show(values: dict[str, Any]) -> None:
    rows = [*values["shards"], values["held_out"]]
    classes = list(dict.fromkeys(name for row in rows for name in row["classes"]))
    body = [
        [row["file"], str(row["examples"]), *(str(row["classes"].get(name, 0)) for name in classes)] for row in rows
    ]
    show(["file", "examples", *classes], body)
