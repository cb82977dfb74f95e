"""A lock on an open file that dies with the process which holds it, on any system."""

from __future__ import annotations

import sys


def lock(handle: int) -> None:
    """Take the lock of an open file, or fail at once.

    Raises:
        OSError: another process, or another handle of this one, holds it.
    """
    # Imported here, so that what never locks anything needs neither.
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
