"""Child programs of the lab: started with a log file each, watched, and ended in order.

Whatever happens to the lab itself, nothing stays behind: each child has a session of its own (a terminal's Ctrl-C
reaches only the lab, which then ends the children in order), and asks the kernel for SIGTERM when the lab dies.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from protos.errors import EdgejouleError, WaitExpired

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
# Opened before there is a child: between fork and exec nothing may be loaded.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Devices take at most a few seconds to say goodbye; a hurried end would lose their last joules.
GRACE_S = 8.0
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class ChildDied(EdgejouleError):
    """A program that was to go on has ended by itself."""

    exit_code = 1


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM: a child that was started and not yet noted would be left behind.

    A signal mask would not do: the kernel gives the signal to any thread, and Python acts on it in the main one.
    """
    arrived: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: arrived.append(number)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


@dataclass
class Child:
    """A running program, what it writes, and when it is to be ended (low orders first)."""

    name: str
    order: int
    log: Path
    process: subprocess.Popen[bytes]

    def last_words(self) -> str:
        """The last line that it wrote to its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it wrote nothing"


@dataclass
class Children:
    """A set of programs that live no longer than the ``with`` block around it."""

    logs: Path
    running: list[Child] = field(default_factory=list)

    def __enter__(self) -> Children:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not cut the ending short: it is bounded anyway.
        with _undisturbed():
            self.end()

    def start(self, name: str, module: str, arguments: Sequence[str | Path], *, order: int) -> Child:
        """Start ``python3 -m module arguments`` with both outputs in ``logs/name.log``.

        Args:
            order: children of the lowest order are ended first.
        """
        log = self.logs / f"{name}.log"
        with log.open("wb") as out, _undisturbed():
            child = Child(name, order, log, _launch(module, arguments, out))
            self.running.append(child)
        return child

    def check(self) -> None:
        """Raise ChildDied when one has ended."""
        for child in self.running:
            code = child.process.poll()
            if code is not None:
                what = f"{child.name} ended with exit code {code}: {child.last_words()}"
                raise ChildDied(what, fix=f"see {child.log}")

    def wait_for(self, path: Path, *, what: str, timeout_s: float) -> None:
        """Wait until a file appears that a child makes when it is ready.

        Raises:
            ChildDied: a child ended meanwhile.
            WaitExpired: it did not appear in time.
        """
        end_s = time.monotonic() + timeout_s
        while not path.exists():
            self.check()
            if time.monotonic() > end_s:
                raise WaitExpired(f"{what} did not start within {timeout_s:g} s", fix=f"see the logs in {self.logs}")
            time.sleep(0.02)

    def end(self) -> None:
        """End all, order by order: SIGTERM, a while to obey, then SIGKILL."""
        for order in sorted({child.order for child in self.running}):
            group = [child for child in self.running if child.order == order]
            for child in group:
                if child.process.poll() is None:
                    child.process.terminate()
            end_s = time.monotonic() + GRACE_S
            for child in group:
                try:
                    child.process.wait(max(0.0, end_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
        self.running.clear()


def _launch(module: str, arguments: Sequence[str | Path], out: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,
        # A fleet shares the cores of one machine: a pool of threads in each numpy would only contend.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def run_to_end(module: str, arguments: Sequence[str | Path], *, log: Path) -> None:
    """Run ``python3 -m module arguments`` and wait for it.

    Raises:
        ChildDied: it failed; with its last line, and with its exit code.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = _launch(module, arguments, out)
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if code:
        error = ChildDied(Child(module, 0, log, process).last_words(), fix=f"see {log}")
        error.exit_code = code if code > 0 else 1
        raise error
