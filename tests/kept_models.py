"""Models that take TensorFlow and a minute to make: made in each session, or once for many where a variable says where.

`tests/mutants/draw.py` runs many short sessions on code that its changes do not reach, and keeps them.
"""

from __future__ import annotations

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
    if not there.exists():
        there.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=there.parent))
        try:
            make(part)
            part.rename(there)
        except OSError:
            # Another session was first.
            if not there.exists():
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(there, into, dirs_exist_ok=True)
    return into
