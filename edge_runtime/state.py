"""The state folder: one daemon at a time, files written whole, nothing that grows without end.

lock          held (flock) while a daemon runs
bases/        coordinates to train in, the newest two
bundles/      by identity; each with its hashes checked
embeddings/   by backbone, data and engine
examples/     labels and fingerprint of the own data, so that the raw values stay on disk
heads/        the newest heads that were received, by version
memory/       what codecs with error feedback still owe, by run
outbox/       reports that are not yet answered, and energy that is not yet told
costs.json    what the work of the last rounds cost
tried.json    models that ran in a throw-away child
layout        the number of this arrangement

A version that opens the folder leaves its layout as it is, so that the version before can come back to it. A change
that the version before could not read needs a new number, which may be written one release after it can be read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from protos.atomic import write_whole
from protos.errors import EdgejouleError, RefusedError, StoreError

LAYOUT = 1
READS = (1,)
"""Layouts that this version reads and leaves readable."""
FOLDERS = ("bases", "bundles", "embeddings", "examples", "heads", "memory", "outbox")
KEEP = 4


@contextlib.contextmanager
def storing(where: Path | str) -> Iterator[None]:
    """Turn a failure of the file system inside the block into a :class:`StoreError` that names ``where``."""
    try:
        yield
    except EdgejouleError:
        raise
    except OSError as error:
        fix = "free some space" if error.errno in (28, 122) else "check the folder and its permissions"
        raise StoreError(f"cannot be written ({error.strerror or error})", where=str(where), fix=fix) from error


class StateFolder:
    """An open, locked state folder.

    Raises:
        RefusedError: another daemon holds it.
        StoreError: it cannot be made or written, or has a layout that this version does not know.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with storing(self.path):
            for name in FOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._lock, 32).decode(errors="replace").strip() or "another process"
            os.close(self._lock)
            raise RefusedError(
                f"is in use by a daemon (process {holder})",
                where=str(self.path),
                fix="stop that one, or give another folder with --state",
            ) from error
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            unknown = layout_of(self.path) is None
        except BaseException:
            self.close()
            raise
        # A disk that is full must not keep the device from working: without the file the layout is 1 as well.
        with contextlib.suppress(OSError):
            if unknown:
                with write_whole(self.path / "layout") as file:
                    file.write(f"{LAYOUT}\n".encode())

    def folder(self, name: str) -> Path:
        """One of :data:`FOLDERS`."""
        return self.path / name

    def close(self) -> None:
        """Let another daemon have it. Harmless when repeated."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def layout_of(path: Path) -> int | None:
    """The layout of a state folder, or None when it was not written down: then it is 1.

    Raises:
        StoreError: it is one that this version does not know, or cannot be read.
    """
    file = path / "layout"
    try:
        text = file.read_text().strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot be read ({error})", where=str(file), fix="check the disk") from error
    if text not in map(str, READS):
        raise StoreError(
            f"holds layout {text[:20]!r}, and this version reads {', '.join(map(str, READS))}",
            where=str(file),
            fix="run the version of edgejoule that wrote it, or give another folder with --state",
        )
    return int(text)


def keep_newest(folder: Path, keep: int = KEEP) -> None:
    """Delete all but the ``keep`` most recently used entries of a folder; failures are left for the next time."""
    with contextlib.suppress(OSError):
        entries = sorted(folder.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for entry in entries[keep:]:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold the process id in a file while the block runs."""
    if path is None:
        yield
        return
    with storing(path), write_whole(path) as file:
        file.write(f"{os.getpid()}\n".encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
