"""Is a compiled file the twin of a CPU model? Both ends must be the same to the bit, or embeddings would not be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from firmware_tools.child import Progress
from firmware_tools.compile.graph import COMPILED_OPERATOR, Graph, Tensor, read_graph
from protos.errors import ModelError

_FIELDS = ("shape", "dtype", "scale", "zero point")


def check_twin(model: Graph, twin: Graph, *, where: str) -> None:
    """Return when `twin` takes and gives exactly what `model` does, and has a part on the Edge TPU.

    Compared are shape, dtype, scale and zero point of every input and output.

    Raises:
        ModelError: it has no such part, or an end differs.
    """
    if not twin.is_compiled:
        raise ModelError("holds no Edge TPU operator: nothing in it runs there", where=where)
    for what, ours, theirs in (("input", model.inputs, twin.inputs), ("output", model.outputs, twin.outputs)):
        if len(ours) != len(theirs):
            raise ModelError(f"has {len(theirs)} {what}s, the CPU model has {len(ours)}", where=where)
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            for field, expected, found in zip(_FIELDS, end(mine), end(other), strict=True):
                if expected != found:
                    raise ModelError(
                        f"{what} {number} has {field} {found}, the CPU model has {expected}",
                        where=where, fix="compile the twin from this very model",
                    )  # fmt: skip


def end(tensor: Tensor) -> tuple[Any, ...]:
    """Shape, dtype, scales and zero points, as they are compared."""
    return list(tensor.shape), tensor.dtype, list(tensor.scales), list(tensor.zero_points)


def check_files(job: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """`check_twin` of the files ``job["model"]`` and ``job["twin"]``; runs in a child process.

    Returns:
        size_bytes of the twin, how many Edge TPU operators it has, and the names of those left on the CPU.
    """
    model, twin = (_read(Path(job[name])) for name in ("model", "twin"))
    check_twin(model, twin, where=Path(job["twin"]).name)
    names = [node.name for node in twin.nodes]
    return {
        "size_bytes": twin.size_bytes,
        "edge_tpu_operators": names.count(COMPILED_OPERATOR),
        "cpu_operators": [name for name in names if name != COMPILED_OPERATOR],
    }


def _read(path: Path) -> Graph:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return read_graph(data, where=path.name)
