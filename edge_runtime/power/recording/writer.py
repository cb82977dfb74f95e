"""Writing a recording: blocks to the end of a file, and a thread that does it while measuring goes on.

Every :data:`BLOCK_S` seconds what was heard becomes one block, forced to the disk before the next one is begun:
a power cut loses the block being written, two seconds and no more. The sensor's thread never waits for the disk. A disk
that is full, fails or falls behind ends the recording, not the measurement; the file keeps every whole block.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_runtime.power.events import Block, Event, Greeting, Realigned, Sums
from edge_runtime.power.recording.blocks import Kind, block_bytes
from edge_runtime.power.recording.entries import Heard, Note, Worked, encode, sample_count
from edge_runtime.power.recording.header import Header
from edge_runtime.power.sensor import PowerSensor
from protos.atomic import force_to_disk
from protos.errors import StoreError

__all__ = ["BLOCK_S", "BlockFile", "Recorder"]

log = logging.getLogger(__name__)

BLOCK_S = 2.0
MOST_IN_BLOCK = 8192
"""Samples, or events without any, after which a block is closed although its time has not passed."""
MOST_WAITING = 1 << 19
"""Samples and events that wait for a slow disk before the recording is given up: ten minutes of a fast sensor."""
HEADER_EACH = 64
"""Blocks between two copies of the header, so that damage to the beginning costs two minutes."""
GREETING_EACH = 8
"""Blocks between two copies of the greeting in force; at the beginning of a file fewer."""


class BlockFile:
    """A new file that grows by whole blocks.

    Args:
        path: must not exist yet.
        header: stands at the beginning, and again every :data:`HEADER_EACH` blocks.

    Raises:
        StoreError: the file exists or cannot be made.
    """

    def __init__(self, path: Path, header: Header) -> None:
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except FileExistsError as cause:
            raise _is_there(path) from cause
        except OSError as cause:
            raise StoreError(f"cannot be made: {cause.strerror or cause}", where=str(path)) from cause
        self._header = header.encode()
        self._greeting: Greeting | None = None
        self._number = 0
        self.written_bytes = 0
        try:
            self._grow(block_bytes(Kind.HEADER, 0, self._header))
            # The name must survive a power cut as well.
            force_to_disk(path.parent)
        except OSError as cause:
            self.close()
            raise StoreError(f"cannot be written: {cause.strerror or cause}", where=str(path)) from cause

    def append(self, entries: Sequence[Heard]) -> None:
        """Put one data block at the end and force it to the disk.

        Every :data:`GREETING_EACH` blocks the greeting in force is repeated, so that what follows can be read without
        what was before.

        Raises:
            OSError: the disk is full or fails; the file then ends with the last whole block.
        """
        if self._number % HEADER_EACH == 0:
            self._grow(block_bytes(Kind.HEADER, self._number, self._header))
        # More often at the beginning, so that a short recording can lose its first block and still be read.
        if self._greeting is not None and self._number % min(GREETING_EACH, 1 << self._number.bit_length() - 1) == 0:
            entries = [self._greeting, *entries]
        self._grow(block_bytes(Kind.DATA, self._number, encode(entries)))
        for entry in entries:
            self._follow(entry)

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _follow(self, entry: Heard) -> None:
        """Keep the greeting in force, with a tick that the ticks to come are next to."""
        if isinstance(entry, Greeting):
            self._greeting = entry
        elif isinstance(entry, Sums) and self._greeting is not None:
            self._greeting = replace(self._greeting, hello=replace(self._greeting.hello, tick=entry.stats.tick))

    def _grow(self, block: bytes) -> None:
        written = 0
        try:
            while written < len(block):
                written += os.write(self._fd, block[written:])
            os.fdatasync(self._fd)
        except OSError:
            if written:
                os.ftruncate(self._fd, self.written_bytes)
            raise
        self.written_bytes += len(block)
        self._number += 1


class Recorder:
    """Listens to a sensor from now on; writes from :meth:`begin` to :meth:`close`.

    Made before the sensor is opened it hears everything, and the replay is the live measurement to the last bit.
    ``stopped`` says why the recording ended early, None while all is well.

    Args:
        path: must not exist yet.
        sensor: what to listen to.
        block_s: time after which a block is closed.

    Raises:
        StoreError: the file exists.
    """

    def __init__(self, path: Path, sensor: PowerSensor, *, block_s: float = BLOCK_S) -> None:
        if path.exists():
            raise _is_there(path)
        self._path, self._sensor, self._block_s = path, sensor, block_s
        self._raw = False
        self._file: BlockFile | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._waiting: list[Heard] = []
        self._weight = 0
        self._wake, self._closing = threading.Event(), False
        self.stopped: str | None = None
        self.samples = 0
        self._unsubscribe = sensor.subscribe(self._hear)

    def begin(self, begun_s: float) -> None:
        """Make the file; the sensor is open, and it is ``begun_s`` of host time.

        Raises:
            StoreError: as :class:`BlockFile`.
        """
        self._file = BlockFile(self._path, Header.of(self._sensor, begun_s=begun_s))
        self._thread = threading.Thread(
            target=self._run, args=(self._file,), name=f"recording:{self._path}", daemon=True
        )
        self._thread.start()

    @property
    def written_bytes(self) -> int:
        """Size of the file."""
        return self._file.written_bytes if self._file else 0

    def note(self, at_s: float, word: str, fields: Mapping[str, Any] | None = None) -> None:
        """Write down what the measuring program did, in order with what the sensor said."""
        self._put(Note(at_s, word, fields or {}))

    def close(self) -> None:
        """Write what is left and close the file. Harmless when repeated."""
        self._unsubscribe()
        self._closing = True
        self._wake.set()
        if self._thread is not None and self._file is not None:
            self._thread.join()
            self._file.close()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Realigned):
            return
        # A bridge's samples in host time follow from its raw events; when they were made is all there is to keep.
        self._raw = self._raw or isinstance(event, Greeting)
        self._put(Worked() if self._raw and isinstance(event, Block) else event)

    def _put(self, entry: Heard) -> None:
        with self._lock:
            if self.stopped is not None:
                return
            self._waiting.append(entry)
            self._weight += 1 + sample_count(entry)
            behind, full = self._weight > MOST_WAITING, self._weight > MOST_IN_BLOCK
        if behind:
            self._stop("the disk does not keep up")
        elif full:
            self._wake.set()

    def _run(self, file: BlockFile) -> None:
        while not (self._closing and not self._waiting):
            self._wake.wait(self._block_s)
            self._wake.clear()
            with self._lock:
                entries, self._waiting, self._weight = self._waiting, [], 0
            try:
                for part in _parts(entries):
                    file.append(part)
                    self.samples += sum(map(sample_count, part))
            except (OSError, ValueError, OverflowError) as error:
                self._stop(_why(error))
            if self._closing and self.stopped is not None:
                return

    def _stop(self, why: str) -> None:
        with self._lock:
            if self.stopped is not None:
                return
            self._waiting, self._weight = [], 0
            self.stopped = (
                f"the recording {self._path} ended after {self.samples} samples, {self.written_bytes} bytes: {why}; "
                "measuring goes on"
            )
        log.warning("%s", self.stopped)


def _parts(entries: list[Heard]) -> list[list[Heard]]:
    """Entries in parts of a block's size; one event is never cut."""
    parts: list[list[Heard]] = []
    weight = MOST_IN_BLOCK
    for entry in entries:
        if weight >= MOST_IN_BLOCK:
            parts.append([])
            weight = 0
        parts[-1].append(entry)
        weight += 1 + sample_count(entry)
    return parts


def _is_there(path: Path) -> StoreError:
    what = "is there already, and a recording is never overwritten"
    return StoreError(what, where=str(path), fix="give --record another name")


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        return "the disk is full" if full else error.strerror or str(error)
    return f"what the sensor sent cannot be written ({error})"
