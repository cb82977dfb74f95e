"""What the wheel is on Windows and macOS: every module is imported without those of POSIX; what cannot run says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The standard library and the wheels of others bring their own ways on other systems; ours alone is put to the test.
_BLOCKED = """
import sys, asyncio, asyncio.unix_events, concurrent.futures, ctypes, getpass, importlib, logging.handlers
import multiprocessing.connection, pathlib, platform, selectors, shutil, signal, socket, sqlite3, ssl, subprocess
import tarfile, tempfile, threading, urllib.request, uuid, zipfile, pkgutil
import grpc, grpc.aio, numpy, google.protobuf, serial, serial.tools.list_ports, sqlalchemy, rich.live
import ai_edge_litert.interpreter, asyncssh
from sqlalchemy.dialects import sqlite

POSIX = {"fcntl", "termios", "resource", "pwd", "grp", "pty", "tty", "syslog", "spwd", "crypt", "readline", "curses",
         "_posixsubprocess", "_posixshmem"}
for name in POSIX:
    sys.modules.pop(name, None)

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in POSIX:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
"""

_EVERY_MODULE = """
failed = {}
for package in ("protos", "edge_runtime", "coordinator", "firmware_tools"):
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if found.name.split(".")[-1].startswith("__"):
            continue
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            failed[found.name] = error.name
print(failed)
"""


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def test_every_module_is_imported_without_those_of_posix() -> None:
    done = python(_BLOCKED + _EVERY_MODULE)
    assert done.returncode == 0, done.stderr
    failed = eval(done.stdout, {"__builtins__": {}})
    # What needs an extra that this environment does not have is another matter.
    posix = {
        name: module for name, module in failed.items() if module in ("fcntl", "termios", "resource", "grp", "tty")
    }
    assert posix == {}


@pytest.mark.parametrize("system", ["win32", "darwin"])
@pytest.mark.parametrize(
    ("module", "words", "what"),
    [
        ("edge_runtime.cli", ["run"], "edge-runtime: a device needs Linux"),
        ("edge_runtime.cli", ["doctor"], "edge-runtime: a device needs Linux"),
        ("coordinator.cli", ["demo"], "coordinator demo: a demo needs Linux"),
        ("firmware_tools.cli", ["bridge", "sim", "--bridge", "pid-file=x,link=y"], "a simulated bridge needs Linux"),
    ],
)
def test_what_does_not_run_there_says_so_in_one_line(module: str, words: list[str], what: str, system: str) -> None:
    code = f"import sys\nfrom {module} import main\nsys.platform = {system!r}\nsys.exit(main(sys.argv[1:]))"
    done = python(code, *words)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 16, line
    assert what in line
    assert f"this is {'Windows' if system == 'win32' else 'macOS'}; use a Linux machine, or WSL on Windows" in line


def test_a_recording_is_read_anywhere() -> None:
    code = "import sys\nfrom edge_runtime.cli import main\nsys.platform = 'darwin'\nsys.exit(main(sys.argv[1:]))"
    assert "needs Linux" not in python(code, "recording", "show", "nowhere.ejr").stderr
