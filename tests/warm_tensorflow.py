"""One process that loads TensorFlow once for all tests of a session: each script and each conversion is a fork of it.

Loading takes 4 s of a processor, many times as long as a small model takes to be made. Tests of how the commands start,
and of what they do when their process dies, call the commands themselves.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from firmware_tools.child import QUIET
from firmware_tools.convert.many import Done, in_a_fork

_ROOT = Path(__file__).resolve().parents[1]


class WarmTensorFlow:
    """The process: begun with the first job, ended by `close`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def script(self, text: str, folder: Path, *arguments: str | Path) -> str:
        """Run a script in a folder; gives what it printed. Fails with what it said last, skips without TensorFlow."""
        done = self._asked(script=text, folder=str(folder), arguments=[str(argument) for argument in arguments])
        assert done.code == 0, done.stderr[-2000:]
        return done.stdout

    def call(self, *arguments: str | Path) -> Done:
        """``firmware-tools`` with these arguments."""
        return self._asked(script=None, folder=None, arguments=[str(argument) for argument in arguments])

    def converted(self, *arguments: str | Path) -> None:
        """``firmware-tools convert``, which must succeed."""
        done = self.call("convert", *arguments)
        assert done.code == 0, done.stderr[-2000:]

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _asked(self, **job: Any) -> Done:
        if importlib.util.find_spec("tensorflow") is None:
            pytest.skip("needs TensorFlow: pip install 'edgejoule[workshop]'")
        if self._process is None:
            search = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **QUIET, "PYTHONPATH": search},
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process that loads TensorFlow ended with code {self._process.wait()}"
        return Done(**json.loads(line))


def _run(text: str, folder: str, arguments: Sequence[str]) -> Done:
    """Run a script in a fork of this process."""

    def body() -> int:
        os.chdir(folder)
        sys.argv = ["-c", *arguments]
        exec(compile(text, "<script>", "exec"), {"__name__": "__main__"})
        return 0

    return in_a_fork(body)


def main() -> None:
    """Load TensorFlow, then do one job a line until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from firmware_tools.convert import many

    many.load()
    for line in sys.stdin:
        job = json.loads(line)
        text, arguments = job["script"], job["arguments"]
        done = many.forked(arguments) if text is None else _run(text, job["folder"], arguments)
        answers.write(json.dumps({"code": done.code, "stdout": done.stdout, "stderr": done.stderr}) + "\n")
        answers.flush()
    # What TensorFlow takes apart at its end is of no use to anyone.
    os._exit(0)


if __name__ == "__main__":
    main()
