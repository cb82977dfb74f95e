"""What was fetched or unpacked once is found again: folders keyed by a hash of the recipe that made them.

Nothing is fetched unless ``EDGEJOULE_ARM_FETCH`` is set, as the targets of the Makefile do: a plain run of the tests
must not begin with a few hundred megabytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arm_debian import Unavailable

# Raised when the making of an entry changes in a way that its recipe does not show.
_GENERATION = 1


def folder() -> Path:
    """Where all of it is, ``~/.cache/edgejoule/arm`` unless ``EDGEJOULE_ARM_CACHE`` names another place."""
    given = os.environ.get("EDGEJOULE_ARM_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "edgejoule" / "arm"


def kept(name: str, recipe: Any, make: Callable[[Path], None], *, fetches: bool = True) -> Path:
    """The folder that ``make`` fills, made now if it is not there.

    Args:
        recipe: JSON values; another recipe is another folder.
        make: takes an empty folder.
        fetches: whether it needs the network.

    Raises:
        Unavailable: it is not there, and may not or cannot be made.
    """
    key = hashlib.sha256(json.dumps([_GENERATION, recipe], sort_keys=True).encode()).hexdigest()[:12]
    place = folder() / f"{name}-{key}"
    if place.is_dir():
        return place
    if fetches and not os.environ.get("EDGEJOULE_ARM_FETCH"):
        raise Unavailable(f"{place.name} was not fetched yet: make arm-user, or make arm-vm")
    folder().mkdir(parents=True, exist_ok=True)
    with (folder() / f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_dir():
            return place
        unfinished = folder() / f".{place.name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(place)
    return place
