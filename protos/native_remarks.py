"""What native libraries say on stderr while they start, without their mere remarks."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import IO


@contextlib.contextmanager
def remarks_dropped(is_remark: Callable[[bytes], bool]) -> Iterator[None]:
    """Keep remarks off stderr that native code writes inside the block; whatever else it says comes after it.

    Args:
        is_remark: of a line, with its end, whether nobody needs it.
    """
    with contextlib.ExitStack() as opened:
        try:
            said = opened.enter_context(_scratch())
            before = os.dup(2)
        except OSError:  # there is no stderr, or no room for a file: what is said is heard
            before = -1
        if before < 0:
            yield
            return
        stderr = opened.enter_context(os.fdopen(before, "wb", buffering=0))
        sys.stderr.flush()
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr.fileno(), 2)
            said.seek(0)
            with contextlib.suppress(OSError):
                stderr.write(b"".join(line for line in said if not is_remark(line)))


def _scratch() -> IO[bytes]:
    """A nameless file in memory, so that a full disk does not matter; on disk where the system has none in memory."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("said"), "w+b")
    return tempfile.TemporaryFile()
