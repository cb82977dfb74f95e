"""Load a large library without the collector of cycles.

While TensorFlow is imported, it makes about a million objects that stay. Python's collector looks at all of them again
whenever a quarter has been added, and finds nothing: two fifths of the processor time that loading takes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """What is imported in this ``with`` stays: it is not looked at while it grows, and in no later collection.

    Cycles that are made afterwards are collected as ever. A process that forks shares more of its memory, too: the
    collector of the child does not write into the objects of its parent.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
