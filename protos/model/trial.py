"""Child process of `protos.model.engine.try_in_subprocess`: open models one by one, run each on zeros, and say how it
went.

Run as ``python3 -m protos.model.trial MODEL.tflite...``. A line ``{"trying": NUMBER}`` on stdout goes before each, from
0. Exit code 0: all of them run. Exit code 1 and ``{"error": ...}`` as the last line: the last one does not. Death by a
signal speaks for itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from protos.errors import EdgejouleError, ModelError
from protos.model.engine import open_interpreter

# A crafted shape can ask for any amount of memory: it must hit this wall, not the board's.
_DATA_LIMIT_BYTES = 2 << 30


def _run_signatures(interpreter: Any, where: str) -> None:
    signatures = interpreter.get_signature_list()
    # Variables must be written before anything reads them.
    for name in sorted(signatures, key=lambda signature: (signature != "write", signature)):
        runner = interpreter.get_signature_runner(name)
        values = {}
        for key, tensor in runner.get_input_details().items():
            if len(tensor["shape"]) == 0:
                raise ModelError(f"input {key} of signature {name} is 0-D, which crashes on aarch64", where=where)
            values[key] = np.zeros(tensor["shape"], tensor["dtype"])
        runner(**values)
    if not signatures:
        for tensor in interpreter.get_input_details():
            if len(tensor["shape"]) == 0:
                raise ModelError(f"input {tensor['name']} is 0-D, which crashes on aarch64", where=where)
            interpreter.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
        interpreter.invoke()


# Tables of words and keys, and what another library would run: no part of a network that trains or infers numbers here.
_REFUSED_OPERATORS = frozenset(
    {
        "CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES", "HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT",
        "HASHTABLE_LOOKUP", "HASHTABLE_SIZE", "EMBEDDING_LOOKUP_SPARSE", "LSH_PROJECTION", "SKIP_GRAM",
    }
)  # fmt: skip


def check_operators(path: Path) -> None:
    """Refuse a model with an operator that none of ours has, before the engine opens it.

    Raises:
        ModelError: it has one, or is damaged.
    """
    try:
        from protos.model.flatbuffer import operators
    except ModuleNotFoundError:  # tflite-runtime brings no schema; it has no custom operators either
        return
    for operator in operators(path.read_bytes(), where=path.name):
        if operator.name.startswith(("custom:", "builtin:")) or operator.name in _REFUSED_OPERATORS:
            raise ModelError(f"has the operator {operator.name}, which is run nowhere here", where=path.name)


def confine() -> None:
    """This process can hold so much data and no more, and leaves no core behind."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows: nothing confines it but the machine
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _DATA_LIMIT_BYTES if hard == resource.RLIM_INFINITY else min(_DATA_LIMIT_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(arguments: list[str]) -> int:
    """Try the models named by the arguments; see the module for what comes back."""
    confine()
    for number, path in enumerate(map(Path, arguments)):
        print(json.dumps({"trying": number}), flush=True)
        try:
            check_operators(path)
            _run_signatures(open_interpreter(path), path.name)
        except EdgejouleError as error:
            print(json.dumps({"error": error.what}))
            return 1
        except (ValueError, RuntimeError, TypeError, MemoryError) as error:
            print(json.dumps({"error": f"loads, but does not run: {' '.join(str(error).split())[:300]}"}))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
