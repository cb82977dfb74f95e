"""Sessions of tests in forks of one process, which has imported once what is not ours: pytest, numpy, gRPC, SQLAlchemy.

Started in a tree, it reads one JSON object a line from stdin, ``{"words": [...], "out": FILE, "most_s": ...}``, runs
pytest with these words in a fork that prints to the file, and answers with its exit code on a line; null where it did
not end in time. Nothing of the tree itself is imported before the fork: that is what changes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence

_FOREIGN = (
    "_pytest.assertion.rewrite", "_pytest.junitxml", "_pytest.python", "_pytest.terminal", "_pytest.pytester",
    "hypothesis", "hypothesis.extra.numpy", "hypothesis.stateful", "numpy", "numpy.testing", "grpc", "grpc.aio",
    "google.protobuf.internal.builder", "sqlalchemy", "sqlalchemy.dialects.sqlite", "sqlalchemy.dialects.postgresql",
    "psycopg", "cryptography.x509", "ai_edge_litert.interpreter", "serial", "rich.console", "rich.table", "asyncio",
    "PIL.Image", "tomllib", "http.server", "unittest.mock",
)  # fmt: skip
_LOOK_S = 0.02


def _session(words: Sequence[str], out: str, most_s: float) -> int | None:
    """The exit code of a session in a fork; None when it was ended for taking too long."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            to = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(to, 1)
            os.dup2(to, 2)
            sys.stdout, sys.stderr = (os.fdopen(os.dup(at), "w", encoding="utf-8") for at in (1, 2))
            import pytest

            # Plugins that were imported before are not rewritten; nothing is asserted in them.
            known = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
            code = int(pytest.main(["-W", known, *words]))
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    end_s = time.monotonic() + most_s
    code: int | None = None
    try:
        while time.monotonic() < end_s:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                break
            time.sleep(_LOOK_S)
    finally:
        # Whatever a changed program left behind in its session ends with it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    if code is None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    return code


def main() -> None:
    """Import, then run sessions until stdin ends, or until the end is asked for: then at once."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in _FOREIGN:
        # An extra may miss, and its tests say so.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # This file's own folder is none of the tree's places for modules.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [text for text in sys.path if text != here]
    for line in sys.stdin:
        job = json.loads(line)
        answers.write(json.dumps(_session(job["words"], job["out"], job["most_s"])) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
