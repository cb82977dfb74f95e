"""Reading the kernel's files about a device: one value per file, found by the device's name and never by its number."""

from __future__ import annotations

import os
from pathlib import Path

from protos.errors import SensorError

__all__ = ["ValueFile", "find_device", "read_text"]


class ValueFile:
    """One value that is read again and again, over one open file. Raises OSError and ValueError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def number(self) -> float:
        """The value now, in the file's own unit."""
        return float(os.pread(self._fd, 64, 0))

    def close(self) -> None:
        """Let go; harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_text(path: Path) -> str | None:
    """The text of a file without its newline; None when it is not there or cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def find_device(folder: Path, pattern: str, wanted: str, *, kind: str) -> Path:
    """The device called ``wanted`` among ``folder/pattern``, or the folder that ``wanted`` is the path of.

    Raises:
        SensorError: there is none, or more than one.
    """
    spec = f"{kind}:{wanted}"
    if "/" in wanted:
        path = Path(wanted)
        if not path.is_dir():
            raise SensorError("no such folder", where=spec, fix=f"give a name, or a folder below {folder}")
        return path
    named = {each_path: read_text(each_path / "name") for each_path in sorted(folder.glob(pattern))}
    found = [each_path for each_path, name in named.items() if name == wanted]
    if not found:
        there = ", ".join(sorted({name for name in named.values() if name})) or "none"
        raise SensorError(
            f"no {kind} device has this name", where=spec, fix=f"load its driver, or use one of those here: {there}"
        )
    if len(found) > 1:
        paths = ", ".join(str(each_path) for each_path in found)
        raise SensorError(f"{len(found)} devices have this name", where=spec, fix=f"give the path of one: {paths}")
    return found[0]
