"""The state folder: one daemon at a time, files written whole, nothing that grows without end.

lock          held (flock) while a daemon runs
bases/        coordinates to train in, the newest two
bundles/      by identity; each with its hashes checked
embeddings/   by backbone, data and engine
examples/     labels and fingerprint of the own data, so that the raw values stay on disk
current       the model at work: a link to one of models/
heads/        the newest heads that were received, by version
memory/       what codecs with error feedback still owe, by run
models/       the last models that were at work, whole
model.sock    where applications ask for predictions
outbox/       reports that are not yet answered, and energy that is not yet told
costs.json    what the work of the last rounds cost
images.lines  what is known of image files, so that each is decoded once
tried.json    models that ran in a throw-away child
instance.json a name of this state, and the machine that it belongs to
.NAME.order   the entries of one of these folders, least recently used first
layout        the number of this arrangement

A version that opens the folder leaves its layout as it is, so that the version before can come back to it. A change
that the version before could not read needs a new number, which may be written one release after it can be read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.errors import EdgejouleError, RefusedError, StoreError
from protos.file_lock import lock

LAYOUT = 1
READS = (1,)
"""Layouts that this version reads and leaves readable."""
FOLDERS = ("bases", "bundles", "embeddings", "examples", "heads", "memory", "models", "outbox")
ASIDE = "aside"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
KEEP = 4


def is_full(error: BaseException | None) -> bool:
    """Whether this says that a disk is full, fails or was made read-only, which may pass."""
    return isinstance(error, OSError) and error.errno in _FULL


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
            lock(self._lock)
        except OSError as error:
            holder = os.read(self._lock, 32).decode(errors="replace").strip() or "another process"
            os.close(self._lock)
            raise RefusedError(
                f"is in use by a daemon (process {holder})",
                where=str(self.path),
                fix="stop that one, or give another folder with --state",
            ) from error
        # A full disk takes no number, and is no reason not to work.
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        try:
            unknown = layout_of(self.path) is None
        except BaseException:
            self.close()
            raise
        _sweep(self.path)
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


def used(entry: Path) -> None:
    """Note that an entry of a folder is used now. Clocks jump, so the order of use is counted and not dated.

    A disk that is full takes no note; what is in use is safe all the same (see :func:`keep_newest`).
    """
    file = _order_file(entry.parent)
    names = _order(file)
    if names and names[-1] == entry.name:
        return
    there = [name for name in names if name != entry.name and (entry.parent / name).exists()]
    part = file.with_name(f"{file.name}.part")
    # Not forced to disk: what is lost with a power cut is an order.
    with contextlib.suppress(OSError):
        part.write_text("\n".join([*there, entry.name]))
        part.replace(file)


def by_use(folder: Path) -> list[Path]:
    """The entries of a folder, least recently used first. Those of which no use was noted, as versions without such
    notes left them, come before all others, by the time of their last change."""
    place = {name: number for number, name in enumerate(_order(_order_file(folder)))}
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return sorted(entries, key=lambda entry: _place(entry, place))


def _place(entry: Path, noted: Mapping[str, int]) -> tuple[int, float, str]:
    if entry.name in noted:
        return noted[entry.name], 0.0, entry.name
    with contextlib.suppress(OSError):
        return -1, entry.stat().st_mtime, entry.name
    return -1, 0.0, entry.name


def keep_newest(folder: Path, keep: int = KEEP, *, in_use: Iterable[Path] = ()) -> None:
    """Delete all but the ``keep`` most recently used entries of a folder; failures are left for the next time.

    Args:
        in_use: entries that stay whatever their place, and count.
    """
    safe = {path.name for path in in_use}
    with contextlib.suppress(OSError):
        entries = by_use(folder)
        spare = [entry for entry in entries if entry.name not in safe]
        for entry in spare[: max(0, len(entries) - max(keep, len(safe)))]:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def _order_file(folder: Path) -> Path:
    # Beside the folder of the state that it is of or in: those hold nothing but their entries.
    return (folder.parent.parent if folder.name == ASIDE else folder.parent) / f".{folder.name}.order"


def _order(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _sweep(root: Path) -> None:
    """Delete what writes left that were killed: see ``protos/atomic.py``, ``bundles.py`` and ``codec_memory.py``."""
    with contextlib.suppress(OSError):
        for folder in (root, *(root / name for name in FOLDERS), *(root / "embeddings").iterdir()):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.name.startswith(".part-") and entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                elif (entry.name.startswith(".") and entry.name.endswith(".part")) or entry.suffix == ".room":
                    entry.unlink(missing_ok=True)


@contextlib.contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Hold the process id in a file while the block runs."""
    if path is None:
        yield
        return
    with storing(path):
        try:
            with write_whole(path) as file:
                file.write(f"{os.getpid()}\n".encode())
        except OSError as error:
            if not is_full(error):
                raise
            log().warning("%s: cannot be written (%s)", path, error.strerror)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
