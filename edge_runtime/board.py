"""What this machine is, from what the kernel says."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path

_MODEL = Path("/proc/device-tree/model")


def board_name(model: Path = _MODEL) -> str:
    """The board's own name ("Raspberry Pi 4 Model B Rev 1.4"), else the processor architecture."""
    try:
        name = model.read_bytes().rstrip(b"\0").decode("ascii", "replace").strip()
    except OSError:
        name = ""
    return "".join(c for c in name if c.isprintable())[:100] or platform.machine()


def software_version() -> str:
    """Version of this distribution; ``unknown`` when it runs from a folder that was never installed."""
    try:
        return importlib.metadata.version("edgejoule")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def status_bytes(field: str, status: Path = Path("/proc/self/status")) -> int:
    """A memory figure of a process, such as VmRSS or VmHWM, in bytes; 0 where the kernel does not say."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    found = (line.split() for line in lines if line.startswith(f"{field}:"))
    return next((int(words[1]) * 1024 for words in found), 0)
