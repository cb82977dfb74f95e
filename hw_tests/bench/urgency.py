"""A simulated machine goes before other work: one that waits for a core loses time, and says nothing of a bench."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["urgent"]

STEPS = 10
"""Of niceness."""


@contextmanager
def urgent() -> Iterator[None]:
    """What is started within goes before other work, where that is allowed; elsewhere nothing changes.

    Linux has a niceness for each thread, and a child takes that of the thread that starts it.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - STEPS)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)
