"""Trees: named float32 arrays, the shape in which a head travels inside the program.

A tree is ``dict[str, numpy.ndarray]``; functions here never change their arguments, and walk names in sorted
order, so that both ends see the coordinates in one order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import NonFiniteError, ShapeError

FloatArray = npt.NDArray[np.float32]
Tree = dict[str, FloatArray]
Shapes = Mapping[str, Sequence[int]]


def subtract(left: Tree, right: Tree) -> Tree:
    """``left - right``, name by name."""
    return {name: left[name] - right[name] for name in sorted(left)}


def add_scaled(left: Tree, right: Mapping[str, npt.NDArray[np.floating]], factor: float) -> Tree:
    """``left + factor * right`` as float32; the sum is made in float64."""
    return {
        name: (left[name].astype(np.float64) + factor * right[name].astype(np.float64)).astype(np.float32)
        for name in sorted(left)
    }


def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """Name to shape."""
    return {name: tuple(tree[name].shape) for name in sorted(tree)}


def coordinates(tree: Tree) -> int:
    """How many numbers a tree holds."""
    return sum(int(array.size) for array in tree.values())


def norm(tree: Tree) -> float:
    """Euclidean norm over all coordinates, summed in float64."""
    return math.sqrt(sum(sum_of_squares(array) for array in tree.values()))


def sum_of_squares(values: npt.NDArray[np.floating]) -> float:
    """Of an array of any shape, in float64, in this thread alone.

    A product of BLAS (``np.vdot``) hands more than 10,000 numbers to threads that wait for each other: the sum then
    depends on how many cores there are, and on a busy machine it takes a hundred times as long.
    """
    flat = values.ravel()
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64, casting="same_kind"))


def check(tree: Tree, expected: Shapes, *, where: str) -> None:
    """Raise unless ``tree`` has just the expected names and shapes and is finite.

    Raises:
        ShapeError: a name is missing, too many, or has another shape.
        NonFiniteError: a coordinate is NaN or infinite.
    """
    missing, surplus = sorted(set(expected) - set(tree)), sorted(set(tree) - set(expected))
    if missing or surplus:
        raise ShapeError(f"tensors missing: {missing or 'none'}, unexpected: {surplus or 'none'}", where=where)
    for name, shape in expected.items():
        if tuple(tree[name].shape) != tuple(shape):
            raise ShapeError(f"{name} has shape {tree[name].shape}, expected {tuple(shape)}", where=where)
        if not np.isfinite(tree[name]).all():
            raise NonFiniteError(f"{name} holds NaN or infinity", where=where)


def flattened(tree: Mapping[str, npt.NDArray[np.floating]]) -> npt.NDArray[Any]:
    """All coordinates in a row, tensors in the order of their names: [coordinates], of the tree's dtype."""
    return np.concatenate([tree[name].reshape(-1) for name in sorted(tree)])


def unflattened(flat: npt.NDArray[Any], shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
    """The reverse: views of [coordinates], of its dtype.

    >>> unflattened(np.arange(3.0), {"b": (2,), "a": (1, 1)})
    {'a': array([[0.]]), 'b': array([1., 2.])}
    """
    made = {}
    at = 0
    for name in sorted(shapes):
        size = math.prod(shapes[name])
        made[name] = flat[at : at + size].reshape(tuple(shapes[name]))
        at += size
    return made


def version(tree: Tree) -> str:
    """A name made of the content: equal heads have equal versions, on every machine.

    >>> version({"out_bias": np.zeros(2, np.float32)})
    'head-6b324ad0ed70'
    """
    return f"head-{digest(tree)[:12]}"


def digest(tree: Tree) -> str:
    """SHA-256 of names, shapes and coordinates, 64 hexadecimal digits; with the shapes it stands for one tree."""
    hashed = hashlib.sha256()
    for name in sorted(tree):
        array = np.ascontiguousarray(tree[name], dtype="<f4")
        hashed.update(f"{name}{array.shape}".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()
