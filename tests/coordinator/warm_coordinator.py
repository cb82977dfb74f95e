"""Coordinators that are forks of one process that has imported everything: a start then costs a tenth of what it does
from nothing, so that very many of them can be killed.

Each is a process of its own, as `coordinator serve` is; what it says goes to a file. Run as a program this is the
process that they are forked from: it takes lines of JSON, and ends when its stdin does.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_LIMIT_S = 60.0


class WarmCoordinators:
    """Makes coordinators; ends what is left of them when it is closed."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=_ROOT,
        )
        self._left: set[int] = set()
        # What holds them ends with them.
        self._tracers: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, arguments: list[str], log: Path, trace: list[str] | None = None) -> int:
        """A coordinator with these arguments of `coordinator`; returns its process id.

        Args:
            trace: of strace, which holds it before it has begun.
        """
        pipe = self._process
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(json.dumps({"arguments": arguments, "log": str(log)}) + "\n")
        pipe.stdin.flush()
        pid = int(pipe.stdout.readline())
        self._left.add(pid)
        # It stops itself as the first thing it does.
        _until(lambda: state_of(pid) in ("T", ""), "a stopped process")
        if trace is not None:
            command = ["strace", "-f", "-qq", *trace, "-p", str(pid)]
            self._tracers[pid] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            _until(lambda: _tracer_of(pid) != "0", "a tracer")
        os.kill(pid, signal.SIGCONT)
        return pid

    def is_up(self, pid: int) -> bool:
        """Whether it runs."""
        if state_of(pid) in ("", "Z", "X"):
            self._left.discard(pid)
            if (tracer := self._tracers.pop(pid, None)) is not None:
                tracer.wait()
            return False
        return True

    def end(self, pid: int, limit_s: float = 30.0) -> None:
        """SIGTERM, and then without asking."""
        self._signal(pid, signal.SIGTERM, limit_s)
        self.kill(pid)

    def kill(self, pid: int, limit_s: float = 30.0) -> None:
        """Without asking."""
        self._signal(pid, signal.SIGKILL, limit_s)

    def _signal(self, pid: int, number: signal.Signals, limit_s: float) -> None:
        if not self.is_up(pid):
            return
        os.kill(pid, number)
        until_s = time.monotonic() + limit_s
        while self.is_up(pid) and time.monotonic() < until_s:
            time.sleep(0.01)

    def close(self) -> None:
        """End all of them, and the process that they come from."""
        for pid in list(self._left):
            self.end(pid, 5.0)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()


def state_of(pid: int) -> str:
    """One letter, as the kernel says it; "" when it is gone."""
    return _status(pid, "State")[:1]


def _tracer_of(pid: int) -> str:
    return _status(pid, "TracerPid")


def _status(pid: int, key: str) -> str:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{key}:")), "")


def _until(holds: object, what: str) -> None:
    until_s = time.monotonic() + _LIMIT_S
    while not holds():  # type: ignore[operator]
        if time.monotonic() > until_s:
            raise AssertionError(f"no {what} within {_LIMIT_S:g} s")
        time.sleep(0.002)


def _serve(arguments: list[str], log: str) -> None:
    """In the child: never returns."""
    code = 70
    try:
        os.setsid()
        # Whoever asked for it may be killed: it ends with the process that it comes from (PR_SET_PDEATHSIG).
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (sink, 1), (sink, 2)):
            os.dup2(source, target)
        os.kill(os.getpid(), signal.SIGSTOP)
        from coordinator import cli

        code = cli.main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Fork one for each line."""
    import grpc_reflection.v1alpha.reflection  # noqa: F401
    import psycopg  # noqa: F401
    import sqlalchemy.dialects.postgresql.psycopg
    import sqlalchemy.dialects.sqlite  # noqa: F401

    import coordinator.cli
    import coordinator.commands.serve
    import coordinator.server.serving  # noqa: F401

    # Nobody waits for them: whoever asked looks whether they are there.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if (pid := os.fork()) == 0:
            _serve(asked["arguments"], asked["log"])
        print(pid, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
