"""The version of this software, as it is told to peers."""

from __future__ import annotations

import functools
import importlib.metadata


@functools.cache
def software_version() -> str:
    """The installed version, or "0" from a source tree that is not installed."""
    try:
        return importlib.metadata.version("edgejoule")
    except importlib.metadata.PackageNotFoundError:
        return "0"
