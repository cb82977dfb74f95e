"""Heads by version: raw float32 and the shapes. The version is made of the content, so a head is written once."""

from __future__ import annotations

import json
import math

import numpy as np
from sqlalchemy import Connection, select

from coordinator.store.database import DamagedError
from coordinator.store.tables import heads
from protos.errors import UnknownRunError
from protos.update import trees
from protos.update.trees import Tree


def put(connection: Connection, tree: Tree) -> str:
    """Keep a head; returns its version."""
    version = trees.version(tree)
    if connection.execute(select(heads.c.version).where(heads.c.version == version)).first() is None:
        data = b"".join(np.ascontiguousarray(tree[name], "<f4").tobytes() for name in sorted(tree))
        shapes = json.dumps(trees.shapes(tree), sort_keys=True)
        connection.execute(heads.insert(), {"version": version, "shapes": shapes, "data": data})
    return version


def holds(connection: Connection, version: str) -> bool:
    """Whether there is a head called so."""
    return connection.execute(select(heads.c.version).where(heads.c.version == version)).first() is not None


def get(connection: Connection, version: str) -> Tree:
    """The head called ``version``.

    Raises:
        UnknownRunError: no such head.
        DamagedError: what is stored is not what its name says.
    """
    row = connection.execute(select(heads.c.shapes, heads.c.data).where(heads.c.version == version)).first()
    if row is None:
        raise UnknownRunError(f"no head is called {version!r}", fix="see: coordinator status RUN --json")
    tree: Tree = {}
    at = 0
    try:
        for name, shape in sorted(json.loads(row.shapes).items()):
            count = math.prod(shape)
            tree[name] = np.frombuffer(row.data, "<f4", count, at).reshape(shape).astype(np.float32)
            at += 4 * count
        sound = at == len(row.data) and trees.version(tree) == version
    except (ValueError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise DamagedError("the stored head is damaged", where=version, fix="restore the state directory from a copy")
    return tree
