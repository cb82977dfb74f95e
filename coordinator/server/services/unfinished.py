"""Reports that have come in part: what a call that was cut has brought lies in a file, and the next call goes on there.

* Nothing of it counts as a report. Whole, and with the declared hash, it goes the way of every other report, and is
  judged there.
* It is named by all that its header says, device first, which over TLS is the certificate's: nobody adds to another's.
* A device has so many at most, and so many bytes; all together have so many bytes. The oldest makes room, those first
  that no call adds to.
* It is there after a restart. It need not be: what is gone is sent again.
* Bytes are not forced to disk: what a power cut makes of them, the hash finds.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from coordinator.run.workers import Worker
from protos.convert.uploads import UploadKey
from protos.errors import IntegrityError, StoreError, UpdateError

__all__ = ["LOOK_S", "KeptPart", "OutOfStepError", "Taking", "Unfinished", "Uploads"]

log = logging.getLogger("edgejoule.coordinator")

MOST_OF_DEVICE = 4
MOST_BYTES_OF_DEVICE = 64 << 20
MOST_BYTES = 512 << 20
# How often is looked for what nobody waits for any more.
LOOK_S = 60.0
# What no round waits for goes after so long, when no call can bring it any more. Until then a report that was taken,
# whose answer may have been lost, is answered again without its bytes.
UNWANTED_S = 900.0
LONGEST_S = 86_400.0
_SUFFIX = ".upload"
_MOST_HEADER = 4096


class OutOfStepError(UpdateError):
    """A call goes on from another byte than the last that is held, or another call has taken its place."""


@dataclass
class KeptPart:
    """What is held of a report.

    Attributes:
        begin: where its bytes begin in the file.
        size_bytes: of the report, that are here.
        touched_unix_s: when it last grew, or was asked for.
        call: that adds to it now; 0: none.
    """

    key: UploadKey
    path: Path
    begin: int
    size_bytes: int
    touched_unix_s: float
    call: int = 0


class Unfinished:
    """The files of one folder. Blocks, and is for one thread.

    Args:
        folder: made when it is first needed; its own alone.

    Attributes:
        parts: what is held, by its name.
        size_bytes: of all that is held; counted as it comes and goes, since each part of each report asks.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time, most_bytes: int = MOST_BYTES) -> None:
        self._folder, self._clock, self._most_bytes = folder, clock, most_bytes
        self._calls = self.size_bytes = 0
        self.parts: dict[UploadKey, KeptPart] = {}
        for path in sorted(folder.glob(f"*{_SUFFIX}")) if folder.is_dir() else ():
            self._remember(path)

    def held_bytes(self, key: UploadKey) -> int:
        """How much of it is here, from its first byte on."""
        if (part := self.parts.get(key)) is None:
            return 0
        part.touched_unix_s = self._clock()
        return part.size_bytes

    def begin(self, key: UploadKey, from_byte: int) -> int:
        """A call that brings the bytes from there on; its number. One that did so before brings no more.

        Raises:
            OutOfStepError: another number of bytes is held.
            StoreError: it cannot be written.
        """
        part = self.parts.get(key)
        if from_byte and (part is None or part.size_bytes != from_byte):
            held_bytes = 0 if part is None else part.size_bytes
            raise OutOfStepError(
                f"goes on from byte {from_byte}, and {held_bytes} are held", where="report", fix="ask again"
            )
        if part is None or not from_byte:
            self._make_room(key)
            part = self.parts[key] = self._made(key)
        self._calls += 1
        part.call, part.touched_unix_s = self._calls, self._clock()
        return self._calls

    def add(self, key: UploadKey, call: int, data: bytes) -> None:
        """Add what the call of this number brought.

        Raises:
            OutOfStepError: another call has taken its place.
            StoreError: there is no room for it; what was there stays.
        """
        part = self._of_call(key, call)
        over_bytes = self.size_bytes + len(data) - self._most_bytes
        for other in self._idle_first(part) if over_bytes > 0 else ():
            if over_bytes > 0 and not other.call:
                over_bytes -= other.size_bytes
                self.drop(other.key)
        if over_bytes > 0:
            raise StoreError(
                f"unfinished reports have {self._most_bytes} bytes already", where="report", fix="send it again later"
            )
        end = part.begin + part.size_bytes
        try:
            with part.path.open("r+b", buffering=0) as file:
                file.seek(end)
                if file.write(data) != len(data):
                    raise OSError(0, "no space is left")
        except OSError as error:
            # Whatever came of it lies behind the end that is known here, and is written over.
            raise StoreError(f"cannot be written ({error.strerror})", where=str(part.path)) from error
        part.size_bytes += len(data)
        self.size_bytes += len(data)
        part.touched_unix_s = self._clock()

    def whole(self, key: UploadKey, call: int) -> bytes:
        """All of it, as declared.

        Raises:
            IntegrityError: bytes are missing, which may still come; or they are others, and are gone.
            OutOfStepError, StoreError: see above.
        """
        part = self._of_call(key, call)
        if part.size_bytes != key.total_bytes:
            raise IntegrityError(
                f"{part.size_bytes} of {key.total_bytes} bytes", where="report", fix="send the rest of it"
            )
        try:
            with part.path.open("rb") as file:
                file.seek(part.begin)
                data = file.read(part.size_bytes)
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", where=str(part.path)) from error
        if hashlib.sha256(data).digest() != key.sha256:
            self.drop(key)
            raise IntegrityError(
                f"{len(data)} bytes, and not the declared ones", where="report", fix="send it again whole"
            )
        return data

    def end(self, key: UploadKey, call: int) -> None:
        """The call of this number brings no more."""
        if (part := self.parts.get(key)) is not None and part.call == call:
            part.call = 0

    def drop(self, key: UploadKey) -> None:
        """Hold nothing of it; harmless if nothing is held."""
        if (part := self.parts.pop(key, None)) is not None:
            self.size_bytes -= part.size_bytes
            with suppress(OSError):
                part.path.unlink(missing_ok=True)

    def idle_since(self, unix_s: float) -> list[UploadKey]:
        """Those that are untouched since then."""
        return [key for key, part in self.parts.items() if part.touched_unix_s <= unix_s]

    def _of_call(self, key: UploadKey, call: int) -> KeptPart:
        part = self.parts.get(key)
        if part is None or part.call != call:
            raise OutOfStepError(
                "another call brings this report, or it was let go of", where="report", fix="ask again"
            )
        return part

    def _idle_first(self, but: KeptPart | None = None) -> list[KeptPart]:
        others = [part for part in self.parts.values() if part is not but]
        return sorted(others, key=lambda part: (bool(part.call), part.touched_unix_s))

    def _make_room(self, key: UploadKey) -> None:
        """So that a device has no more than its share, this one included."""
        self.drop(key)
        own = [part for part in self._idle_first() if part.key.device_id == key.device_id]
        while own and (
            len(own) >= MOST_OF_DEVICE
            or sum(part.key.total_bytes for part in own) + key.total_bytes > MOST_BYTES_OF_DEVICE
        ):
            self.drop(own.pop(0).key)

    def _made(self, key: UploadKey) -> KeptPart:
        head = json.dumps({**asdict(key), "sha256": key.sha256.hex()}).encode() + b"\n"
        path = self._folder / f"{hashlib.sha256(head).hexdigest()[:32]}{_SUFFIX}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(head)
        except OSError as error:
            raise StoreError(
                f"cannot be written ({error.strerror})", where=str(path), fix="free space in the state directory"
            ) from error
        return KeptPart(key, path, len(head), 0, self._clock())

    def _remember(self, path: Path) -> None:
        """Take up a file of an earlier start; one that is none, or has too much, is deleted."""
        try:
            with path.open("rb") as file:
                head = file.readline(_MOST_HEADER)
            said = json.loads(head)
            key = UploadKey(
                str(said["device_id"]), str(said["run_id"]), int(said["round"]), int(said["total_bytes"]),
                bytes.fromhex(said["sha256"]),
            )  # fmt: skip
            about = path.stat()
            size_bytes = about.st_size - len(head)
            if not 0 <= size_bytes <= key.total_bytes or self.size_bytes + size_bytes > self._most_bytes:
                raise ValueError("too large")
        except (OSError, ValueError, KeyError, TypeError):
            with suppress(OSError):
                path.unlink()
            return
        self.parts[key] = KeptPart(key, path, len(head), size_bytes, about.st_mtime)
        self.size_bytes += size_bytes


class Uploads:
    """The same for the event loop, which waits while a thread writes.

    Args:
        thread: nothing else need be done in it.
    """

    def __init__(self, unfinished: Unfinished, thread: Worker) -> None:
        self._unfinished, self._thread = unfinished, thread

    async def held_bytes(self, key: UploadKey) -> int:
        """See :meth:`Unfinished.held_bytes`."""
        return await self._thread.do(self._unfinished.held_bytes, key)

    @asynccontextmanager
    async def taking(self, key: UploadKey, from_byte: int) -> AsyncIterator[Taking]:
        """A call that brings what is missing of a report. What it brought stays when the block ends."""
        call = await self._thread.do(self._unfinished.begin, key, from_byte)
        if from_byte:
            log.info("report of %s, %s round %d: goes on from byte %d of %d",
                     key.device_id[:64], key.run_id[:64], key.round, from_byte, key.total_bytes)  # fmt: skip
        try:
            yield Taking(self._unfinished, self._thread, key, call, from_byte)
        finally:
            # In its turn, behind what is still being written.
            self._thread.soon(self._unfinished.end, key, call)

    async def keep(self, wanted: Callable[[str, int, str], Awaitable[bool]]) -> None:
        """Sweep now and then, until cancelled; see :meth:`sweep`."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.sweep(wanted)
            except StoreError as error:
                log.warning("%s; unfinished reports are looked at again", error)

    async def sweep(self, wanted: Callable[[str, int, str], Awaitable[bool]]) -> None:
        """Let go of what may count no more, and of what is very old.

        Args:
            wanted: whether the report of a run, a round and a device may still count.
        """
        now_unix_s = time.time()
        old = set(await self._thread.do(self._unfinished.idle_since, now_unix_s - LONGEST_S))
        for key in await self._thread.do(self._unfinished.idle_since, now_unix_s - UNWANTED_S):
            if key in old or not await wanted(key.run_id, key.round, key.device_id):
                await self._thread.do(self._unfinished.drop, key)


@dataclass
class Taking:
    """One call that brings a report, or the rest of one.

    Attributes:
        size_bytes: of the report, that are here.
    """

    _unfinished: Unfinished
    _thread: Worker
    _key: UploadKey
    _call: int
    size_bytes: int

    async def add(self, data: bytes) -> None:
        """Keep a part; see :meth:`Unfinished.add`."""
        await self._thread.do(self._unfinished.add, self._key, self._call, data)
        self.size_bytes += len(data)

    async def whole(self) -> bytes:
        """See :meth:`Unfinished.whole`."""
        return await self._thread.do(self._unfinished.whole, self._key, self._call)
