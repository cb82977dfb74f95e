"""Which tests reach which lines: a plugin of pytest, `-p reach`, that writes what it saw to `$REACH_TO`.

Programs that a test starts write theirs when they end by themselves, since `sitecustomize.py` in this folder loads this
file there as well.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = os.path.realpath(os.environ.get("REACH_ROOT", os.getcwd())) + os.sep
ROOMS = tuple(ROOT + one for one in ("protos/", "edge_runtime/", "coordinator/"))
TEST = "REACH_TEST"

_seen: dict[str, set[tuple[str, int]]] = defaultdict(set)
_durations: dict[str, float] = {}
_here = _seen[os.environ.get(TEST, "")]


def _called(frame: FrameType, event: str, argument: Any) -> Any:
    name = frame.f_code.co_filename
    if not name.startswith(ROOMS):
        return None
    _here.add((name, frame.f_lineno))
    return _stepped


def _stepped(frame: FrameType, event: str, argument: Any) -> Any:
    if event == "line":
        _here.add((frame.f_code.co_filename, frame.f_lineno))
    return _stepped


def begin() -> None:
    """Watch this thread and those that begin from now on."""
    threading.settrace(_called)
    sys.settrace(_called)


def write() -> None:
    """Write what was seen; each process has a file of its own."""
    sys.settrace(None)
    found: dict[str, dict[str, list[int]]] = {}
    for test, lines in list(_seen.items()):
        files: dict[str, list[int]] = defaultdict(list)
        for name, line in sorted(lines):
            files[name.removeprefix(ROOT)].append(line)
        found[test] = dict(files)
    path = Path(os.environ["REACH_TO"]) / f"{os.getpid()}.json"
    path.write_text(json.dumps({"durations": _durations, "reach": found}))


def pytest_configure() -> None:
    """Watch from the first import of our code on."""
    begin()
    atexit.register(write)


def pytest_runtest_protocol(item: Any) -> None:
    """What is reached from now on is reached by this test."""
    global _here
    os.environ[TEST] = item.nodeid
    _here = _seen[item.nodeid]
    sys.settrace(_called)


def pytest_runtest_logreport(report: Any) -> None:
    """How long a test takes, with what it sets up."""
    _durations[report.nodeid] = _durations.get(report.nodeid, 0.0) + report.duration
