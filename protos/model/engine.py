"""The one place that imports a TFLite runtime: ai-edge-litert first, tflite-runtime where there is no wheel of it.

Rules kept here:
- A model from elsewhere can kill the process that opens it (the native loader asserts and reads out of bounds on
  malformed graphs), so `try_in_subprocess` opens it in a child first.
- No 0-D tensor is ever an input: ai-edge-litert on aarch64 crashes when it resizes one (memset of length -4 in
  ``InterpreterWrapper::ResizeInputTensor``), and x86-64 never shows it.
- So can the library of the Edge TPU: see `protos.model.edge_tpu_trial`.
- The same model gives other bits with XNNPACK than with the built-in kernels, and XNNPACK can go away silently
  (it needs /proc/cpuinfo). So the delegate is read back from the plan of a prepared interpreter, not assumed.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from protos.errors import ModelError
from protos.model.edge_tpu import EdgeTpu, EdgeTpuError, load
from protos.native_remarks import remarks_dropped
from protos.progress import run_child

_ENGINES = (("ai-edge-litert", "ai_edge_litert.interpreter"), ("tflite-runtime", "tflite_runtime.interpreter"))
_RUNTIME_FIX = "python3 -m pip install ai-edge-litert, or tflite-runtime on armv7"
TRIAL_TIMEOUT_S = 120.0

# The smallest model that XNNPACK takes: one int8 ADD of a [1, 8] tensor with itself, scale 0.5, zero point 0.
_PROBE_MODEL = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAwACAAAAAQADgAAABAAAAAYAAAAUAEAAAMAAAABAAAABAAAAKj///8BAAAAEAAAAAwAFAAQAAwA"
    "CAAEAAwAAAAQAAAAVAAAAFgAAABcAAAAAQAAABQAAAAAAA4AFAAAABAADAALAAQADgAAABQAAAAAAAALEAAAABQAAAAEAAQA"
    "BAAAAAEAAAABAAAAAgAAAAAAAAAAAAAAAQAAAAEAAAABAAAAAAAAAAIAAABkAAAABAAAALL///8QAAAAMAAAAAAAAAkwAAAA"
    "pP///wgAAAAUAAAAAQAAAAAAAAAAAAAAAAAAAAEAAAAAAAA/AQAAAGIAAAACAAAAAQAAAAgAAAAAAA4AFAAQAA8AAAAIAAQA"
    "DgAAABwAAAA4AAAAAAAACTgAAAAMAAwAAAAAAAgABAAMAAAACAAAABAAAAABAAAAAAAAAAAAAAABAAAAAAAAPwEAAABhAAAA"
    "AgAAAAEAAAAIAAAAAQAAABAAAAAAAAoACAAAAAAABAAKAAAAAgAAAA=="
)


@dataclasses.dataclass(frozen=True, slots=True)
class EngineIdentity:
    """What computes: engines differ in the last bit of int8 results, so a report names all three.

    ``delegate`` is ``xnnpack``, ``builtin`` (the runtime's own kernels) or ``unknown``. ``accelerator`` is ``edgetpu``
    when the backbone runs there, else empty.
    """

    name: str
    version: str
    delegate: str
    accelerator: str = ""

    def __str__(self) -> str:
        kernels = f"{self.delegate}, {self.accelerator}" if self.accelerator else self.delegate
        return f"{self.name} {self.version} ({kernels})"


@functools.cache
def _engine() -> tuple[str, Any]:
    for name, module in _ENGINES:
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        with _info_dropped():
            # The first interpreter says on stderr which delegate it made, once in the life of a process.
            found.Interpreter(model_content=_PROBE_MODEL).allocate_tensors()
        return name, found
    raise ModelError("no TFLite runtime is installed", fix=_RUNTIME_FIX)


def _info_dropped() -> AbstractContextManager[None]:
    return remarks_dropped(lambda line: line.startswith(b"INFO:"))


def open_interpreter(model: Path | bytes, *, threads: int = 1, edge_tpu: EdgeTpu | None = None) -> Any:
    """A prepared interpreter (tensors allocated) of a .tflite file or of its bytes.

    Args:
        model: path, or the whole file; bytes are referenced, not copied.
        threads: CPU threads of the kernels, >= 1.
        edge_tpu: what runs the operators that were compiled for it.

    Raises:
        ModelError: the runtime refuses the model. A hostile model may abort the process instead: see
            `try_in_subprocess`.
        EdgeTpuError: the same with an Edge TPU, or that does not load. Its library may abort the process instead: see
            `protos.model.edge_tpu_trial`.
    """
    _, module = _engine()
    where = model.name if isinstance(model, Path) else "model"
    source = {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
    delegates = None if edge_tpu is None else [delegate_for(edge_tpu)]
    try:
        interpreter = module.Interpreter(num_threads=threads, experimental_delegates=delegates, **source)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        if edge_tpu is not None:
            raise EdgeTpuError(f"refuses the twin: {_first_line(error)}", where=edge_tpu.library) from error
        raise ModelError(f"the TFLite runtime refuses it: {_first_line(error)}", where=where) from error
    return interpreter


def delegate_for(edge_tpu: EdgeTpu) -> Any:
    """The Edge TPU's delegate in this runtime; it gives the device back when the last reference goes.

    Raises:
        EdgeTpuError: see `protos.model.edge_tpu.load`.
    """
    return load(edge_tpu, _engine()[1].load_delegate)


def delegate_of(interpreter: Any) -> str:
    """``xnnpack`` when any node of a prepared interpreter was handed to the default delegate, else ``builtin``."""
    try:
        operators = interpreter._get_ops_details()
    except (AttributeError, ValueError):
        return "unknown"
    return "xnnpack" if any(operator["op_name"] == "DELEGATE" for operator in operators) else "builtin"


@functools.cache
def engine_identity() -> EngineIdentity:
    """Name, version and delegate of the runtime of this process, found by preparing a one-operator int8 model."""
    name, _ = _engine()
    return EngineIdentity(name, importlib.metadata.version(name), delegate_of(open_interpreter(_PROBE_MODEL)))


def try_in_subprocess(*paths: Path, timeout_s: float = TRIAL_TIMEOUT_S) -> None:
    """Open models in a throw-away child, one after the other, and run each of their signatures once on zeros.

    True afterwards: these very files load and run in this engine without killing its process.

    Args:
        paths: one child tries them all, since its start takes longer than most models.
        timeout_s: for each of them.

    Raises:
        ModelError: the child cannot load or run one, dies of it by a signal, or does not end in time; it names that
            one, and those behind it were not tried.
    """
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "protos.model.trial", *(str(path.resolve()) for path in paths)]
    try:
        child = run_child(command, timeout_s=timeout_s * len(paths), env={**os.environ, "PYTHONPATH": search})
    except subprocess.TimeoutExpired as error:
        at = paths[_told(error.output, "trying", 0)]
        raise ModelError(f"did not load within {timeout_s:.0f} s", where=at.name) from error
    if child.returncode == 0:
        return
    at = paths[_told(child.stdout, "trying", 0)]
    raise ModelError(_last_words(child.returncode, child.stdout, child.stderr), where=at.name)


def _told(stdout: bytes | None, key: str, otherwise: Any) -> Any:
    """What the last line with this key says."""
    for line in reversed((stdout or b"").splitlines()):
        with suppress(ValueError, KeyError, TypeError):
            return json.loads(line)[key]
    return otherwise


def _last_words(code: int, stdout: bytes, stderr: bytes) -> str:
    if code < 0:
        return f"not a usable model: the process that opened it died of {signal.Signals(-code).name}"
    if (error := _told(stdout, "error", None)) is not None:
        return str(error)
    lines = stderr.decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return f"not a usable model: {lines[-1][:300]}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
