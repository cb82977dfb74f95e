"""Models that take TensorFlow to make: made once in a run of the tests, whatever number of workers it has.

A variable says where they are. `tests/conftest.py` sets it for one run; `tests/mutants/draw.py` runs many short
sessions on code that its changes do not reach, and keeps them over all.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

KEEP = "EDGEJOULE_KEPT_MODELS"


def kept(name: str, into: Path, make: Callable[[Path], None]) -> Path:
    """What ``make`` puts into a folder: made there, or copied from where it was made before.

    Args:
        name: of this kind of models.
        into: an empty folder; given back.
    """
    if not os.environ.get(KEEP):
        make(into)
        return into
    there = Path(os.environ[KEEP]) / name
    there.parent.mkdir(parents=True, exist_ok=True)
    # The others of this run wait for the one who makes it.
    with (there.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not there.exists():
            part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=there.parent))
            try:
                make(part)
                part.rename(there)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(there, into, dirs_exist_ok=True)
    return into
