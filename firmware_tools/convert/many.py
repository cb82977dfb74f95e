"""Many conversions by one process that loads TensorFlow once: each is a fork of it, so that none can harm the next.

Loading TensorFlow takes twice as long as converting a small model. The process reads one JSON list of arguments per
line from stdin, as they would stand behind ``firmware-tools``, and answers each with one line:
``{"code": ..., "stdout": ..., "stderr": ...}``. `Converter` is the other end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from firmware_tools.child import QUIET, Progress, error_fields, error_of
from firmware_tools.loading import loading


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What one call left behind; ``code`` is negative when a signal ended it."""

    code: int
    stdout: str
    stderr: str


class Converter:
    """The process; close it, or use it in a ``with``. It lives as long as this one at most."""

    def __init__(self) -> None:
        root = str(Path(__file__).parents[2])
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "firmware_tools.convert.many"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **QUIET, "PYTHONPATH": search},
            start_new_session=True,
        )

    def __enter__(self) -> Converter:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def call(self, *arguments: str | Path) -> Done:
        """Run ``firmware-tools`` with these arguments.

        Raises:
            RuntimeError: the process is gone.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(argument) for argument in arguments]).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the converting process ended with code {self._process.wait()}")
        return Done(**json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def kill(self) -> None:
        """End the process, and the conversion that it is at, from another thread: :meth:`call` raises then."""
        os.killpg(self._process.pid, signal.SIGKILL)


def _inside(target: str, job: dict[str, Any], *, where: str, progress: Progress, log: Path | None = None) -> Any:
    """`firmware_tools.child.run_in_child`, but here: this is the throw-away process."""
    import importlib

    module, _, function = target.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(json.loads(json.dumps(job)), progress)
    except Exception as error:
        raise error_of(error_fields(error, where)) from error


def forked(arguments: list[str]) -> Done:
    """Run ``firmware-tools`` with these arguments in a fork of this process, which has loaded TensorFlow."""
    from firmware_tools import cli
    from firmware_tools.convert import command
    from firmware_tools.prune import command as prune_command

    def body() -> int:
        warnings.simplefilter("ignore")
        for face in (command, prune_command):
            vars(face)["run_in_child"] = _inside
        return cli.main(arguments)

    # What native libraries print is for the log of a real command, and not for its user.
    return in_a_fork(body, natives=False)


def in_a_fork(body: Callable[[], int], *, natives: bool = True) -> Done:
    """What a function does in a fork of this process, and what it prints there.

    Args:
        body: gives the exit code; what it raises is printed, and is exit code 1.
        natives: also what is printed past Python's own streams, by native libraries and programs.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                nowhere = os.open(os.devnull, os.O_RDWR)
                for number, file in ((1, out), (2, err)):
                    os.dup2(file.fileno() if natives else nowhere, number)
                sys.stdout = os.fdopen(os.dup(out.fileno()), "w", encoding="utf-8")
                sys.stderr = os.fdopen(os.dup(err.fileno()), "w", encoding="utf-8")
                code = body()
            except SystemExit as end:
                code = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        texts = []
        for each_file in (out, err):
            each_file.seek(0)
            texts.append(each_file.read().decode(errors="replace"))
    return Done(os.waitstatus_to_exitcode(status), *texts)


def load() -> None:
    """Load TensorFlow and what converts."""
    # Loaded, but not used: a fork of a process whose TensorFlow has threads would hang.
    with loading():
        import keras  # noqa: F401
        import tensorflow as tf  # noqa: F401

        from firmware_tools.convert import head_model, ranges, worker  # noqa: F401
        from firmware_tools.convert.sources import keras_source, saved_model_source  # noqa: F401
        from firmware_tools.prune import worker as prune_worker  # noqa: F401


def main() -> int:
    """Load TensorFlow, then answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    load()
    for line in sys.stdin:
        answers.write(json.dumps(dataclasses.asdict(forked(json.loads(line)))) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
