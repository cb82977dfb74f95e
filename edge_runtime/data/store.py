"""The store of a board's own examples: added by people, programs and applications; kept within bounds for years.

Rules kept here:

* An example's file is on disk before its line is; a line is appended and forced to disk. One writer at a time,
  whichever process it is.
* What is kept is bounded by count, age and bytes. When there are too many, the oldest go; with a *reservoir* each that
  was ever added is among those kept with the same chance: each has a random rank, drawn from its number alone, and
  those with the smallest k ranks stay (bottom-k sampling; Cohen and Kaplan, PODC 2007). Held-out examples are no part
  of the reservoir: they are bounded by age and bytes alone.
* Age is measured by the store's own clock: a clock of the board that jumps forward moves it by a day at most, one that
  jumps back not at all. A wrong clock must not delete what was just added.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.model.limits import MOST_EXAMPLE_BYTES
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.datafiles.formats.collected import INBOX, INDEX, NPY, RAW, Entry, entries, is_store
from protos.datafiles.formats.folder import is_image
from protos.datafiles.formats.npy import MAGIC, array_of, lacks
from protos.datafiles.rows import kept_dtype
from protos.errors import DataError, EdgejouleError, NonFiniteError, RefusedError, UsageError
from protos.file_lock import lock

__all__ = ["Bounds", "ExampleStore", "Stats"]

_BOUNDS, _LOCK, _CLOCK = "bounds.json", ".lock", "clock.json"
_MOST_STEP_S = 86_400.0
_LOCK_S = 10.0
_SLACK = 64
_IMAGE_KINDS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}
_SEED = 20_240_101
# A file of the inbox that is not whole and has not changed for so long is not being written any more.
_UNFINISHED_S = 60.0
# What is in the last bytes of a whole PNG, and ends a JPEG and a GIF.
_PNG_END, _TAIL = b"IEND", 4096
_JPEG_SCAN, _JPEG_END, _GIF_END = 0xDA, b"\xff\xd9", b"\x3b"


@dataclass(frozen=True)
class Bounds:
    """What is kept; None is without a limit.

    Attributes:
        most_count: examples.
        most_days: days since they were added, on the store's clock.
        most_bytes: of their files.
        reservoir: over ``most_count``, a fair sample of all that were ever added is kept, not the newest.
    """

    most_count: int | None = None
    most_days: float | None = None
    most_bytes: int | None = None
    reservoir: bool = False


@dataclass(frozen=True)
class Stats:
    """What a store holds.

    Attributes:
        by_label: labelled training examples.
        seen: examples that were ever added.
    """

    by_label: dict[str, int]
    held_out: int
    unlabelled: int
    size_bytes: int
    seen: int


class ExampleStore:
    """One store; made at the first example.

    Args:
        folder: of the store.
        now_unix_s: the board's clock.
    """

    def __init__(self, folder: Path, *, now_unix_s: Callable[[], float] = time.time) -> None:
        self.folder, self._now_unix_s = folder.expanduser(), now_unix_s
        self._swept = False
        self._unfinished: dict[Path, tuple[tuple[int, int, int], float]] = {}
        self.unread: list[str] = []
        """Files of the inbox that the system did not let be read at the last look, each with the reason."""

    # ------------------------------------------------------------ in

    def add(
        self, x: npt.NDArray[Any] | bytes, label: str | None, *, held_out: bool = False, kind: str | None = None
    ) -> str:
        """Keep one example, raw values [...] or the bytes of an image file; its name. The same content is kept once.

        Args:
            label: None: it waits for one.
            held_out: it is for evaluation, and never trained on.
            kind: the ending of the image's file name; told from its first bytes if None.

        Raises:
            DataError, NonFiniteError: it is no example. StoreError: it cannot be written.
        """
        data, ending = _as_file(x, kind)
        label = _checked(label)
        digest = hashlib.sha256(data).hexdigest()
        with self._writing():
            there = entries(self.folder)
            known = next((entry for entry in there if entry.sha256 == digest), None)
            if known is not None:
                if label is not None and known.label != label:
                    self._append({"name": known.name, "label": label})
                return known.name
            sequence = self._seen(there) + 1
            name = f"{sequence:010d}-{digest[:8]}"
            path = self.folder / RAW / f"{name}{ending}"
            with storing(path), write_whole(path) as file:
                file.write(data)
            self._own(path)
            entry = Entry(
                name, path.name, sequence, label, held_out, digest, len(data), self._now_unix_s(), self._clock_s()
            )
            self._append(asdict(entry))
            self._trim([*there, entry])
        return name

    def label(self, names: Iterable[str], label: str | None) -> int:
        """Give examples a label, or take it away; how many.

        Raises:
            UsageError: no such example.
        """
        label = _checked(label)
        with self._writing():
            chosen = self._named(names)
            for entry in chosen:
                self._append({"name": entry.name, "label": label})
        return len(chosen)

    def drop(self, names: Iterable[str]) -> int:
        """Delete examples; how many.

        Raises:
            UsageError: no such example.
        """
        with self._writing():
            there = entries(self.folder)
            chosen = self._named(names, there)
            self._drop(chosen)
            self._compact([entry for entry in there if entry not in chosen])
        return len(chosen)

    def hold(self) -> Callable[[], None]:
        """Keep the store as it is, until what is returned is called: others who add wait meanwhile, or are refused.

        Raises:
            StoreError: it cannot be written. RefusedError: somebody writes all the time.
        """
        stack = contextlib.ExitStack()
        stack.enter_context(self._writing())
        return stack.close

    def take_inbox(self) -> int:
        """Take up what lies in the inbox: `inbox/LABEL/FILE`, or `inbox/FILE` without a label; how many.

        A file counts when it has the ending of an image, or .npy. One that is still being written is left until it is
        whole, or has not changed for a minute; one that changes while it is read is taken again as it is then. What is
        no example, or larger than one may be, goes to `inbox/.refused/`; what the system does not let be read stays,
        and is in :attr:`unread`.
        """
        inbox = self.folder / INBOX
        self.unread = []
        if not inbox.is_dir():
            return 0
        taken = 0
        ready = sorted(path for path in inbox.rglob("*") if _is_ready(path, inbox))
        self._unfinished = {path: self._unfinished[path] for path in ready if path in self._unfinished}
        for path in ready:
            parts = path.relative_to(inbox).parts
            try:
                before = _stamp_of(path)
                if path.stat().st_size > MOST_EXAMPLE_BYTES:
                    what = f"more than {MOST_EXAMPLE_BYTES >> 20} MiB"
                    raise DataError(what, where=str(path), fix="put one example in a file")
                data = path.read_bytes()
                if not _is_whole(data) and self._may_grow(path, before):
                    continue
                if not data:
                    raise DataError("is empty", where=str(path), fix="copy it again")
                kind = path.suffix.lower()
                x = array_of(data, str(path)) if kind == NPY else data
                self.add(x, parts[0] if len(parts) > 1 else None, kind=kind)
                after = _stamp_of(path)
            except MemoryError:
                self.unread.append(f"{path}: there is not enough memory for it")
                continue
            except (DataError, NonFiniteError, UsageError):
                self._refuse(path, inbox / ".refused")
                continue
            except OSError as error:
                if isinstance(error, EdgejouleError):
                    raise
                self.unread.append(f"{path}: {error.strerror or error}")
                continue
            if after == before:
                with storing(path):
                    path.unlink()
            taken += 1
        return taken

    def _may_grow(self, path: Path, stamp: tuple[int, int, int]) -> bool:
        """Whether a file that is not whole may still be on its way: it has changed within the last minute."""
        known = self._unfinished.get(path)
        if known is None or known[0] != stamp:
            self._unfinished[path] = (stamp, time.monotonic())
            return True
        return time.monotonic() - known[1] < _UNFINISHED_S

    @staticmethod
    def _refuse(path: Path, refused: Path) -> None:
        """Put a file away, without touching another of that name."""
        names = itertools.chain([path.name], (f"{path.stem}-{number}{path.suffix}" for number in itertools.count(2)))
        with storing(refused):
            refused.mkdir(exist_ok=True)
            path.replace(next(refused / name for name in names if not (refused / name).exists()))

    # ------------------------------------------------------------ bounds

    def bounds(self) -> Bounds:
        """What is kept."""
        try:
            said = json.loads((self.folder / _BOUNDS).read_bytes())
            return Bounds(**{bound.name: said[bound.name] for bound in fields(Bounds)})
        except (OSError, ValueError, KeyError, TypeError):
            return Bounds()

    def keep(self, bounds: Bounds) -> int:
        """Set what is kept, from now on; how many examples go at once."""
        with self._writing():
            path = self.folder / _BOUNDS
            with storing(path), write_whole(path) as file:
                file.write(json.dumps(asdict(bounds)).encode())
            return self._trim(entries(self.folder))

    def trim(self) -> int:
        """Let go of what is beyond the bounds; how many."""
        if not is_store(self.folder):
            return 0
        with self._writing():
            return self._trim(entries(self.folder))

    def entries(self) -> list[Entry]:
        """What is there, in the order in which it was added."""
        return entries(self.folder) if is_store(self.folder) else []

    def stats(self) -> Stats:
        """What is there, counted."""
        there = self.entries()
        trained = [entry for entry in there if not entry.held_out]
        return Stats(
            dict(sorted(Counter(entry.label for entry in trained if entry.label is not None).items())),
            sum(entry.held_out for entry in there),
            sum(entry.label is None for entry in there),
            sum(entry.size_bytes for entry in there),
            self._seen(there),
        )

    def _trim(self, there: list[Entry]) -> int:
        bounds, now_s = self.bounds(), self._clock_s()
        gone: dict[str, Entry] = {}
        if bounds.most_days is not None:
            limit_s = bounds.most_days * 86_400.0
            gone |= {entry.name: entry for entry in there if now_s - entry.age_s > limit_s}
        trained = [entry for entry in there if not entry.held_out and entry.name not in gone]
        if bounds.most_count is not None and len(trained) > bounds.most_count:
            chosen = _reservoir(trained, bounds.most_count) if bounds.reservoir else trained[-bounds.most_count :]
            names = {entry.name for entry in chosen}
            gone |= {entry.name: entry for entry in trained if entry.name not in names}
        if bounds.most_bytes is not None:
            left = [entry for entry in there if entry.name not in gone]
            size = sum(entry.size_bytes for entry in left)
            # Of a fair sample any may go; else the oldest do.
            order = sorted(left, key=_rank) if bounds.reservoir else left
            for entry in order:
                if size <= bounds.most_bytes:
                    break
                gone[entry.name] = entry
                size -= entry.size_bytes
        if gone:
            self._drop(gone.values())
            self._compact([entry for entry in there if entry.name not in gone])
        return len(gone)

    # ------------------------------------------------------------ files

    def _named(self, names: Iterable[str], there: list[Entry] | None = None) -> list[Entry]:
        by_name = {entry.name: entry for entry in (entries(self.folder) if there is None else there)}
        chosen = []
        for name in dict.fromkeys(names):
            if name not in by_name:
                fix = "see: edge-runtime data list"
                raise UsageError(f"no example is called {name!r}", where=str(self.folder), fix=fix)
            chosen.append(by_name[name])
        return chosen

    def _drop(self, chosen: Iterable[Entry]) -> None:
        # The line first: one whose file is gone would be an example that cannot be read.
        for entry in chosen:
            self._append({"name": entry.name, "dropped": True})
            with contextlib.suppress(OSError):
                (self.folder / RAW / entry.file).unlink()

    def _append(self, said: dict[str, Any]) -> None:
        path = self.folder / INDEX
        with storing(path), path.open("ab") as file:
            # A line that was torn must not swallow this one.
            if file.tell() and not _ends_line(path):
                file.write(b"\n")
            file.write(json.dumps(said).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _compact(self, left: list[Entry]) -> None:
        path = self.folder / INDEX
        with path.open("rb") as file:
            lines = sum(1 for _ in file)
        if lines <= 2 * len(left) + _SLACK:
            return
        # The last number stays known: sequences never come twice.
        last = {"name": "", "dropped": True, "sequence": self._seen(left)}
        now = {entry.name: entry for entry in entries(self.folder)}
        with storing(path), write_whole(path) as whole:
            whole.write(json.dumps(last).encode() + b"\n")
            for entry in left:
                whole.write(json.dumps(asdict(now.get(entry.name, entry))).encode() + b"\n")

    def _seen(self, there: list[Entry]) -> int:
        """How many were ever added: the largest number in the index, also of those that were dropped."""
        largest = max((entry.sequence for entry in there), default=0)
        with contextlib.suppress(OSError), (self.folder / INDEX).open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    largest = max(largest, int(json.loads(line).get("sequence", 0)))
        return largest

    def _clock_s(self) -> float:
        """Seconds on the store's own clock."""
        path, now_s = self.folder / _CLOCK, self._now_unix_s()
        age_s, seen_s = 0.0, now_s
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(path.read_bytes())
            age_s, seen_s = float(said["age_s"]), float(said["seen_unix_s"])
        age_s += min(max(0.0, now_s - seen_s), _MOST_STEP_S)
        with storing(path), write_whole(path) as file:
            file.write(json.dumps({"age_s": age_s, "seen_unix_s": now_s}).encode())
        return age_s

    def _own(self, path: Path) -> None:
        """What root makes belongs to whom the folder around it does: the service is not root, and is to write there."""
        if os.geteuid() == 0:
            around = path.parent.stat()
            os.chown(path, around.st_uid, around.st_gid)

    def _sweep(self) -> None:
        """Delete, once, what writes left that a power cut ended. Nobody else writes now."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError):
            for one in (self.folder, self.folder / RAW):
                for path in one.glob(".*.part"):
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with storing(self.folder):
            for path in (self.folder, self.folder / RAW, self.folder / INBOX):
                if not path.is_dir():
                    path.mkdir(parents=True, exist_ok=True)
                    self._own(path)
            held = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._own(self.folder / _LOCK)
        try:
            end_s = time.monotonic() + _LOCK_S
            while True:
                try:
                    lock(held)
                    break
                except OSError as error:
                    if time.monotonic() >= end_s:
                        raise RefusedError(
                            "somebody else writes to it", where=str(self.folder), fix="try again"
                        ) from error
                    time.sleep(0.02)
            self._sweep()
            index = self.folder / INDEX
            if not index.exists():
                with storing(index), write_whole(index):
                    pass
            yield
            for path in (index, self.folder / _CLOCK, self.folder / _BOUNDS):
                if path.exists():
                    self._own(path)
        finally:
            os.close(held)


def _reservoir(trained: list[Entry], count: int) -> list[Entry]:
    """``count`` of them, each of all that were ever added with the same chance: those with the smallest ranks.

    One that was let go earlier had a larger rank than all that were left, so it would not be among them now either.
    """
    kept = sorted(trained, key=_rank)[:count]
    return sorted(kept, key=lambda entry: entry.sequence)


def _rank(entry: Entry) -> float:
    return float(np.random.default_rng([_SEED, entry.sequence]).random())


def _as_file(x: npt.NDArray[Any] | bytes, kind: str | None) -> tuple[bytes, str]:
    if isinstance(x, bytes):
        ending = kind or next((end for start, end in _IMAGE_KINDS.items() if x.startswith(start)), "")
        if not ending or not is_image(Path(f"x{ending}")):
            raise DataError("is no image file of a known kind", where="example", fix="send JPEG, PNG, or raw values")
        if not any(x.startswith(start) for start in _IMAGE_KINDS) and kind is None:
            raise DataError("is no image file", where="example", fix="send JPEG, PNG, or raw values")
        return x, ending
    kept = kept_dtype(x.dtype, "example")
    x = np.ascontiguousarray(x, kept)
    if x.ndim < 1 or not x.size:
        raise DataError("has no values", where="example", fix="send one example, without N")
    if kept == np.float32 and not np.isfinite(x).all():
        raise NonFiniteError("holds NaN or infinity", where="example", fix="send finite values")
    file = io.BytesIO()
    np.save(file, x, allow_pickle=False)
    return file.getvalue(), NPY


def _checked(label: str | None) -> str | None:
    if label is not None and (not label.strip() or len(label) > 200 or not label.isprintable()):
        raise DataError(f"{label[:40]!r} is no name of a class", where="label", fix="give the name of a class")
    return label


def _stamp_of(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_whole(data: bytes) -> bool:
    """Whether these are all bytes of a file of a known kind, as far as its form tells; of others nobody knows."""
    if not data:
        return False
    if data.startswith(b"\xff\xd8\xff"):
        return _is_whole_jpeg(data)
    if data.startswith(b"\x89PNG"):
        return _PNG_END in data[-_TAIL:]
    if data.startswith(b"GIF8"):
        # Its end is a byte that may be anywhere before, too.
        return data.rstrip(b"\0").endswith(_GIF_END)
    if data.startswith((b"RIFF", b"BM")):
        # Length of what follows these eight bytes; length of all.
        at, more = (4, 8) if data.startswith(b"RIFF") else (2, 0)
        return len(data) >= int.from_bytes(data[at : at + 4], "little") + more
    # The header of an array alone is read: what it is is looked at once, when it is taken.
    return not (data.startswith(MAGIC) and lacks(data))


def _is_whole_jpeg(data: bytes) -> bool:
    """Whether the picture itself has its end: a thumbnail in a segment before it has one of its own, and cameras put
    more behind it (ITU-T T.81, annex B: segments up to the first scan tell their length)."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            # No marker where one must be: a decoder says what is wrong with it.
            return _JPEG_END in data[-_TAIL:]
        if data[at + 1] == _JPEG_SCAN:
            return _JPEG_END in data[at:]
        # Any marker may have more bytes 0xFF in front of it.
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _is_ready(path: Path, inbox: Path) -> bool:
    parts = path.relative_to(inbox).parts
    hidden = any(part.startswith(".") for part in parts) or path.suffix in (".part", ".tmp")
    return not hidden and len(parts) <= 2 and (is_image(path) or path.suffix.lower() == NPY) and _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def with_bounds(
    bounds: Bounds,
    *,
    most_count: int | None = None,
    most_days: float | None = None,
    most_bytes: int | None = None,
    reservoir: bool | None = None,
) -> Bounds:
    """The same with some limits changed; None leaves one as it is, and a number below 0 takes it away."""
    if most_count is not None:
        bounds = replace(bounds, most_count=None if most_count < 0 else most_count)
    if most_days is not None:
        bounds = replace(bounds, most_days=None if most_days < 0 else most_days)
    if most_bytes is not None:
        bounds = replace(bounds, most_bytes=None if most_bytes < 0 else most_bytes)
    return bounds if reservoir is None else replace(bounds, reservoir=reservoir)
