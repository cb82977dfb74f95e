"""Run a function in a child process of its own, so that a hostile or odd file cannot take the command down.

The child talks back over a pipe, one JSON object per line: ``progress``, then ``result`` or ``error``. What native
libraries print goes to a log, not to the user. A child that dies by a signal, or ends without a result, becomes a
`ModelError` that names the file and the reason. The child dies with its parent.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from firmware_tools.loading import loading
from protos import errors
from protos.errors import EdgejouleError, ModelError
from protos.systems import LINUX, MACOS, require_system

Progress = Callable[[str], None]
_PR_SET_PDEATHSIG = 1
# TensorFlow: no start-up chatter, no GPU, and kernels whose results do not depend on the machine's vector width.
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "KERAS_BACKEND": "tensorflow",
    "PYTHONHASHSEED": "0",
}


def run_in_child(
    target: str, job: Mapping[str, Any], *, where: str, progress: Progress, log: Path | None = None
) -> dict[str, Any]:
    """Call ``module:function`` with ``(job, progress)`` in a child and return its result.

    Args:
        target: ``package.module:function``; the function takes and returns a JSON-able dict.
        job: the argument.
        where: file to name when the child dies.
        progress: called with each line of progress.
        log: file to keep what the child printed and its traceback; by default it is dropped.

    Raises:
        RefusedError: this system hands no pipe on to a child.
        EdgejouleError: the very error that the function raised.
        ModelError: the function raised anything else, or the process died.
    """
    require_system("opening models", LINUX, MACOS)
    said: list[str] = []

    def told(line: str) -> None:
        said.append(line)
        progress(line)

    reading, writing = os.pipe()
    root = str(Path(__file__).parents[1])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() if log is None else log.open("w+b") as output, os.fdopen(reading, "rb") as replies:
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "firmware_tools.child", target, str(writing), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                env={**os.environ, **QUIET, "PYTHONPATH": search},
            )
        finally:
            os.close(writing)
        try:
            _send(child, job)
            reply = _receive(replies, told)
            code = child.wait()
        finally:
            child.kill()
            child.wait()
        if "result" in reply:
            return dict(reply["result"])
        if "error" in reply:
            raise error_of(reply["error"])
        output.seek(0)
        raise _blamed(_last_words(code, output), said, where)


def _send(child: subprocess.Popen[bytes], job: Mapping[str, Any]) -> None:
    assert child.stdin is not None
    try:
        with child.stdin:
            child.stdin.write(json.dumps(job).encode())
    except BrokenPipeError:
        pass  # the child is gone already; its exit code says why


def _receive(replies: IO[bytes], progress: Progress) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for line in replies:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # cut off in the middle by the death of the child
        if "progress" in message:
            progress(str(message["progress"]))
        else:
            last = message
    return last


def _blamed(words: str, said: list[str], where: str) -> ModelError:
    """Who is at fault for a process that died: the file while it was opened, later what was done with it."""
    if len(said) <= 1:
        return ModelError(words, where=where, fix="the file is damaged or not a model")
    return ModelError(
        f"{words} while {said[-1]}: a fault of the tool that does this, not of the file", where=where,
        fix="keep what it printed with --log FILE, and try another --cut or simpler layers",
    )  # fmt: skip


def _last_words(code: int, output: IO[bytes]) -> str:
    if code < 0:
        return f"the process that opened it died of {signal.Signals(-code).name}"
    lines = output.read().decode(errors="replace").strip().splitlines() or ["no output"]
    return f"the process that opened it ended with code {code} ({lines[-1].strip()[:200]})"


def error_of(fields: Mapping[str, Any]) -> EdgejouleError:
    kind = getattr(errors, str(fields["kind"]), ModelError)
    error: EdgejouleError = kind(fields["what"], where=fields["where"], fix=fields["fix"])
    return error


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def error_fields(error: Exception, where: str | None) -> dict[str, Any]:
    if isinstance(error, EdgejouleError):
        return {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return {"kind": "ModelError", "what": f"{type(error).__name__}: {lines[0][:300]}", "where": where, "fix": None}


def main(arguments: list[str]) -> int:
    """The child's side: read the job from stdin, call the target, answer on the given descriptor."""
    target, descriptor, parent = arguments
    _die_with_parent(int(parent))
    with os.fdopen(int(descriptor), "w", encoding="utf-8") as pipe:

        def answer(**message: Any) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        job: dict[str, Any] = json.load(sys.stdin)
        module, _, function = target.partition(":")
        try:
            with loading():
                call = getattr(importlib.import_module(module), function)
            answer(result=call(job, lambda line: answer(progress=line)))
        except Exception as error:
            traceback.print_exc()
            answer(error=error_fields(error, job.get("model")))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
