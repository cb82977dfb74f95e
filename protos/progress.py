"""Long work says that it goes on, to whoever listens: a watchdog that must not take it for hung, a request to stop.

Reading a folder of photographs or trying a model takes minutes on a small board. The code that does it calls
:func:`progressed` between two files or blocks; who called that code listens with :func:`heard_by`, in the same thread,
and may raise to end it. Without a listener nothing happens.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["heard_by", "progressed", "run_child"]

_LISTENER: ContextVar[Callable[[], object] | None] = ContextVar("progress", default=None)
LOOK_EACH_S = 0.2


@contextmanager
def heard_by(listener: Callable[[], object]) -> Iterator[None]:
    """Within, :func:`progressed` of this thread calls ``listener``; what it raises goes through the work."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def progressed() -> None:
    """Something was done, and more is to come."""
    listener = _LISTENER.get()
    if listener is not None:
        listener()


def run_child(
    command: Sequence[str], *, timeout_s: float, env: Mapping[str, str], input: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, and say meanwhile that work goes on, as long as it may take.

    Args:
        input: given to it on stdin; None for nothing.

    Raises:
        subprocess.TimeoutExpired: it did not end in time; it was killed.
        BaseException: what the listener raises; it was killed.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env),
    ) as child:
        end_s = time.monotonic() + timeout_s
        try:
            while True:
                left_s = end_s - time.monotonic()
                try:
                    stdout, stderr = child.communicate(input, max(0.0, min(LOOK_EACH_S, left_s)))
                except subprocess.TimeoutExpired as error:
                    input = None
                    if left_s <= 0:
                        raise subprocess.TimeoutExpired(command, timeout_s, error.output, error.stderr) from error
                    progressed()
                else:
                    return subprocess.CompletedProcess(command, child.returncode, stdout, stderr)
        except BaseException:
            child.kill()
            raise
