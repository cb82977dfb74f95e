"""The Edge TPU tried in a throw-away child process: it loads, runs the twin, and answers as the CPU model does.

A mismatched library ends the process that loads it by a signal, and a device can hang; here that is an error with a
reason. The child is ``python3 -m protos.model.edge_tpu_trial``, with its job as JSON on stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import EdgejouleError
from protos.model.bundle import Bundle
from protos.model.edge_tpu import EdgeTpu, EdgeTpuError
from protos.model.engine import delegate_for, open_interpreter
from protos.model.trial import confine
from protos.progress import run_child

# Long enough for an accelerator on USB that is given its firmware first. Before it come the trials of a bundle's
# two models, 120 s each at most; all of it must be short of the watchdog's patience.
TIMEOUT_S = 45.0
# Cosine of both answers, all examples together. Equal arithmetic differs in last bits; a wrong library in everything.
LEAST_AGREEMENT = 0.95
_EXAMPLES = 4
_SEED = 0xED6E


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it.

    Attributes:
        runtime: version that the library gives itself, such as 14, or None.
        agreement: cosine of the twin's answers and the CPU model's; None when no twin was tried.
    """

    runtime: int | None
    agreement: float | None


def try_edge_tpu(edge_tpu: EdgeTpu, bundle: Bundle | None = None, *, timeout_s: float = TIMEOUT_S) -> Trial:
    """Load the library, and run the twin of a bundle beside its CPU model, both in a child process.

    Args:
        bundle: None to load the library alone.

    Raises:
        EdgeTpuError: it does not load, does not run, answers otherwise, kills its process, or does not end in time.
    """
    job = {"library": edge_tpu.library, "device": edge_tpu.device, "twin": None, "model": None}
    if bundle is not None:
        job |= {"twin": str(bundle.twin_path), "model": str(bundle.backbone_path)}
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        child = run_child(
            [sys.executable, "-P", "-m", "protos.model.edge_tpu_trial"],
            input=json.dumps(job).encode(),
            timeout_s=timeout_s,
            env={**os.environ, "PYTHONPATH": search},
        )
    except subprocess.TimeoutExpired as error:
        raise EdgeTpuError(f"did not answer within {timeout_s:g} s", where=edge_tpu.library) from error
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        what = f"kills the process that uses it ({name}): it was built for another TFLite runtime, or is damaged"
        raise EdgeTpuError(what, where=edge_tpu.library)
    try:
        # The last line is ours; what a library prints may come before it.
        said = json.loads(child.stdout.strip().splitlines()[-1])
        trial = None if "error" in said else Trial(said["runtime"], said["agreement"])
    except (ValueError, LookupError, TypeError) as error:
        words = child.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {child.returncode}"]
        raise EdgeTpuError(f"its trial failed: {words[-1][:300]}", where=edge_tpu.library) from error
    if trial is None:
        raise EdgeTpuError(str(said["error"]), where=edge_tpu.library)
    if trial.agreement is not None and trial.agreement < LEAST_AGREEMENT:
        raise EdgeTpuError(
            f"answers otherwise than the CPU model: agreement {trial.agreement:.3f}, at least {LEAST_AGREEMENT} is due",
            where=edge_tpu.library,
        )
    return trial


def _run(model: Path, edge_tpu: EdgeTpu | None) -> tuple[npt.NDArray[np.float64], list[Any]]:
    """Answers to the same random integers, less their zero point, [examples, D]; and what both ends are."""
    interpreter = open_interpreter(model, edge_tpu=edge_tpu)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    ends = [(np.dtype(row["dtype"]).name, row["shape"].tolist(), row["quantization"]) for row in (source, target)]
    limits, random = np.iinfo(source["dtype"]), np.random.default_rng(_SEED)
    rows = []
    for _ in range(_EXAMPLES):
        drawn = random.integers(limits.min, limits.max, source["shape"], source["dtype"], endpoint=True)
        interpreter.set_tensor(source["index"], drawn)
        interpreter.invoke()
        rows.append(interpreter.get_tensor(target["index"]).reshape(-1).astype(np.float64))
    return np.stack(rows) - target["quantization"][1], ends


def _agreement(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> float:
    lengths = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(np.vdot(ours, theirs)) / lengths if lengths else float(not ours.any() and not theirs.any())


def _runtime_version(library: str) -> int | None:
    """``edgetpu_version()`` of libedgetpu ends with ``RuntimeVersion(14)``."""
    try:
        version = ctypes.CDLL(library).edgetpu_version
    except (OSError, AttributeError):
        return None
    version.restype = ctypes.c_char_p
    found = re.search(rb"RuntimeVersion\((\d{1,6})\)", version() or b"")
    return int(found.group(1)) if found else None


def _try(job: dict[str, Any]) -> dict[str, Any]:
    edge_tpu = EdgeTpu(job["library"], job["device"])
    if job["twin"] is None:
        delegate_for(edge_tpu)
        return {"runtime": _runtime_version(edge_tpu.library), "agreement": None}
    ours, our_ends = _run(Path(job["twin"]), edge_tpu)
    theirs, their_ends = _run(Path(job["model"]), None)
    if our_ends != their_ends:
        raise EdgeTpuError(f"the twin's ends are {our_ends}, the CPU model's are {their_ends}", where=job["library"])
    return {"runtime": _runtime_version(edge_tpu.library), "agreement": _agreement(ours, theirs)}


def main() -> int:
    """The child: see the module."""
    confine()
    try:
        answer = _try(json.loads(sys.stdin.read()))
    except EdgejouleError as error:
        answer = {"error": error.what}
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        answer = {"error": f"fails at its trial: {' '.join(str(error).split())[:300]}"}
    print(json.dumps(answer), flush=True)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
