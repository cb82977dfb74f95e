"""A tree of arrays as one file: a line of JSON that says what it is, then float32 in the order of the names.

Written whole. What comes back is what was written, or an error: the line holds a hash of the rest.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from protos.atomic import write_whole
from protos.errors import IntegrityError
from protos.update import trees
from protos.update.trees import Tree

SUFFIX = ".tree"


def write_tree(path: Path, tree: Tree, about: Mapping[str, Any]) -> None:
    """Write a tree of finite float32 arrays; it is on disk afterwards.

    Raises:
        OSError: it cannot be written.
    """
    data = b"".join(np.ascontiguousarray(tree[name], "<f4").tobytes() for name in sorted(tree))
    line = {"about": dict(about), "shapes": trees.shapes(tree), "sha256": hashlib.sha256(data).hexdigest()}
    with write_whole(path) as file:
        file.write(json.dumps(line).encode() + b"\n" + data)


def about(path: Path) -> dict[str, Any]:
    """What a file says of itself; empty when it says nothing that can be read."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.readline())["about"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def read_tree(path: Path) -> Tree:
    """The tree that was written.

    Raises:
        IntegrityError: it is damaged, or not there.
    """
    try:
        line, _, data = path.read_bytes().partition(b"\n")
        header = json.loads(line)
        if hashlib.sha256(data).hexdigest() != header["sha256"]:
            raise ValueError("its hash is another")
        tree, at = {}, 0
        for name, shape in sorted(header["shapes"].items()):
            count = math.prod(shape)
            tree[name] = np.frombuffer(data, "<f4", count, at).reshape(shape).astype(np.float32)
            at += 4 * count
        return tree
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"cannot be read ({error})", where=str(path)) from error
