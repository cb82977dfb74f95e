"""The model at work on a Unix socket: one line of JSON each way, with raw bytes behind a question that brings some.

    -> {"call": "predict", "dtype": "uint8", "shape": [1, 28, 28, 1], "bytes": 784, "top": 3}\\n<784 bytes>
    <- {"ok": true, "version": "head-0a1b...", "top": [[{"class": "7", "score": 0.98}, ...]], ...}\\n
    -> {"call": "info"}\\n
    -> {"call": "add", "format": "image", "bytes": 48211, "label": "cat"}\\n<48211 bytes>
    -> {"call": "events"}\\n          then a line for each new head, until either end closes

docs/model.md is the page of it. A connection may ask any number of questions, one after the other.

No application holds up another, or the board: a question that was begun comes, and an answer is taken, within
``BEGUN_S``; where all connections are taken, the one without a question for the longest time gives way to a new one;
and of large examples only so many are on their way at the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from io import BufferedRWPair as Stream
from pathlib import Path
from typing import Any, Literal

from edge_runtime.model.limits import MOST_EXAMPLE_BYTES
from edge_runtime.model.service import ModelService, failure, raw_example
from edge_runtime.systemd.logging_setup import log
from protos.errors import DataError, StoreError, UsageError

__all__ = ["SocketServer", "TimedSocket", "answer_to"]

MOST_LINE_BYTES = 1 << 16
MOST_CONNECTIONS = 32
BEGUN_S = 60.0
# Examples that are larger than this are taken from so many connections at a time.
LARGE_BYTES, MOST_LARGE = 4 << 20, 2
_EVENTS_TURN_S = 5.0
# Longest path that fits sockaddr_un (unix(7)), less its end.
_LONGEST_PATH = 107


class TimedSocket(socket.SocketIO):
    """A socket of which all that is read or written comes, or goes, by one time: a timeout alone begins anew with each
    byte, and who sends one now and then would be waited for without end.

    Attributes:
        until_s: that time, of the monotonic clock; None: the timeout of the socket counts.
    """

    def __init__(self, near: socket.socket, mode: Literal["r", "rw"]) -> None:
        super().__init__(near, mode)
        self._near = near
        self.until_s: float | None = None

    def within(self, seconds: float) -> float:
        """So many seconds from now are left; when that is."""
        self.until_s = time.monotonic() + seconds
        return self.until_s

    def readinto(self, buffer: Any) -> int | None:
        self._hurry()
        return super().readinto(buffer)

    def write(self, data: Any) -> int | None:
        self._hurry()
        return super().write(data)

    def _hurry(self) -> None:
        if self.until_s is None:
            return
        if (left_s := self.until_s - time.monotonic()) <= 0:
            raise TimeoutError
        self._near.settimeout(left_s)


class SocketServer:
    """Answers on a socket until it is closed. Threads of its own, daemonic: they keep no process alive.

    Args:
        path: of the socket; one that is there is replaced, unless somebody answers on it.
        service: what is asked.
        mode: who may ask, as of a file.

    Raises:
        StoreError: the socket cannot be made there, or another process answers on it.
    """

    def __init__(self, path: Path, service: ModelService, *, mode: int = 0o660) -> None:
        self.path, self._service = path, service
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(path.stat().st_mode):
                    if _answers(path):
                        raise StoreError(
                            "another daemon answers here already",
                            where=str(path),
                            fix="give each its own --model-socket",
                        )
                    path.unlink()
            with _short(path) as name:
                self._listening.bind(name)
            path.chmod(mode)
            self._listening.listen(4 * MOST_CONNECTIONS)
        except StoreError:
            self._listening.close()
            raise
        except OSError as error:
            self._listening.close()
            what = f"no socket can be made ({error.strerror or error})"
            raise StoreError(what, where=str(path), fix="give another --model-socket, or off") from error
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._large = threading.BoundedSemaphore(MOST_LARGE)
        # From when on each connection may be ended for a new one, of the monotonic clock: since it has no question, or
        # when one should have come, or its answer should have been taken; None while it is being answered.
        self._open: dict[socket.socket, float | None] = {}
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, name="model-socket", daemon=True).start()

    def close(self) -> None:
        """Take no more questions, and end what is connected."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            waiting = list(self._open)
        for sock in waiting:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self.path.unlink()

    def _accept(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listening.accept()
            except OSError:
                if not self._closed:
                    # No descriptor is left, perhaps: another try at once would be no better.
                    time.sleep(0.05)
                continue
            if not self._has_room():
                with near, contextlib.suppress(OSError):
                    near.settimeout(1.0)
                    what = f"{MOST_CONNECTIONS} applications are connected already, and all of them ask"
                    near.sendall(json.dumps({"ok": False, "error": what}).encode() + b"\n")
                continue
            with self._lock:
                self._open[near] = time.monotonic()
            threading.Thread(target=self._serve, args=(near,), name="model-client", daemon=True).start()

    def _has_room(self) -> bool:
        """Whether one more may connect; who has asked nothing for the longest time goes for it."""
        if self._room.acquire(blocking=False):
            return True
        with self._lock:
            now_s = time.monotonic()
            waiting = {sock: from_s for sock, from_s in self._open.items() if from_s is not None and from_s <= now_s}
            if not waiting:
                return False
            longest = min(waiting, key=lambda sock: waiting[sock])
            # It is not chosen twice; its thread is woken, and makes room.
            self._open.pop(longest)
            with contextlib.suppress(OSError):
                longest.shutdown(socket.SHUT_RDWR)
        self._service.wake()
        return self._room.acquire(timeout=BEGUN_S)

    def _serve(self, near: socket.socket) -> None:
        try:
            timed = TimedSocket(near, "rw")
            with near, Stream(timed, timed) as stream:
                while not self._closed and self._one(near, timed, stream):
                    pass
        except (OSError, ValueError):
            log().debug("an application went away in the middle of a question, or was too slow")
        finally:
            with self._lock:
                self._open.pop(near, None)
            self._room.release()

    def _one(self, near: socket.socket, timed: TimedSocket, stream: Stream[Any, Any]) -> bool:
        """One question and its answer; False when there are no more, or what comes next cannot be told from it."""
        self._waits(near, time.monotonic())
        timed.until_s = None
        near.settimeout(None)
        if not stream.peek(1):
            return False
        self._waits(near, timed.within(BEGUN_S))
        line = stream.readline(MOST_LINE_BYTES + 1)
        if not line.endswith(b"\n"):
            if line:
                _say(stream, {"ok": False, "error": f"a line of more than {MOST_LINE_BYTES} bytes, or cut short"})
            return False
        try:
            asked = json.loads(line)
            size = asked.get("bytes", 0) if isinstance(asked, dict) else None
        except (ValueError, RecursionError):
            size = None
        if not isinstance(size, int) or not 0 <= size <= MOST_EXAMPLE_BYTES:
            what = f"a question is a JSON object in one line, with `bytes` from 0 to {MOST_EXAMPLE_BYTES}"
            _say(stream, {"ok": False, "error": what})
            return False
        with contextlib.ExitStack() as large:
            if size > LARGE_BYTES:
                # It waits for its turn, which is not the application's fault.
                self._waits(near, None)
                large.enter_context(self._large)
                self._waits(near, timed.within(BEGUN_S))
            data = stream.read(size)
            if len(data) < size:
                return False
            self._waits(near, None)
            try:
                if asked.get("call") == "events":
                    data = b""
                    large.close()
                    self._tell(near, timed, stream)
                    return False
                answer = {"ok": True, **answer_to(self._service, asked, data)}
            except OSError:
                raise
            except Exception as error:
                answer = {"ok": False, **failure(error)}
            del data
        self._waits(near, timed.within(BEGUN_S))
        _say(stream, answer)
        return True

    def _waits(self, near: socket.socket, since_s: float | None) -> None:
        with self._lock:
            if near in self._open:
                self._open[near] = since_s

    def _tell(self, near: socket.socket, timed: TimedSocket, stream: Stream[Any, Any]) -> None:
        """A line with what is at work now, and one for each new head; a blank line now and then finds out who left."""
        seen = self._service.switches
        # Who listens asks nothing: it gives way as well.
        self._waits(near, time.monotonic())
        timed.within(BEGUN_S)
        _say(stream, {"ok": True, "event": "now", **self._service.info()})
        while not self._closed and not self._service.closed and near in self._open:
            found = self._service.wait_for_switch(seen, _EVENTS_TURN_S, lambda: near not in self._open)
            timed.within(BEGUN_S)
            if found is not None:
                seen = found
                _say(stream, {"ok": True, "event": "head", **self._service.info()})
            elif not self._service.closed and near in self._open:
                stream.write(b"\n")
                stream.flush()


def _answers(path: Path) -> bool:
    """Whether somebody listens on a socket; what a process that was killed left behind does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as near, _short(path) as name:
        near.settimeout(1.0)
        return near.connect_ex(name) == 0


def answer_to(service: ModelService, asked: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The answer to one question.

    Raises:
        EdgejouleError: why there is none.
    """
    call = asked.get("call")
    if call == "info":
        return service.info()
    if call not in ("predict", "add"):
        raise UsageError(f"{call!r} is no call", where="request", fix="ask for predict, info, add or events")
    image = asked.get("format") == "image"
    if not data:
        raise DataError("no example came with it", where="request", fix="send its bytes behind the line")
    if call == "add":
        label = asked.get("label")
        if label is not None and not isinstance(label, str):
            raise DataError("`label` is no text", where="request", fix="send the name of a class, or none")
        example = data if image else raw_example(data, str(asked.get("dtype")), _shape(asked))
        return service.add(example, label)
    top = asked.get("top")
    if top is not None and (not isinstance(top, int) or top < 1):
        raise DataError("`top` is no count", where="request", fix="send a whole number from 1, or leave it out")
    energy = bool(asked.get("energy", False))
    if image:
        return service.predict_image(data, top, energy=energy)
    return service.predict(raw_example(data, str(asked.get("dtype")), _shape(asked)), top, energy=energy)


def _shape(asked: dict[str, Any]) -> list[int]:
    shape = asked.get("shape")
    return shape if isinstance(shape, list) else []


def _say(stream: Stream[Any, Any], answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer).encode() + b"\n")
    stream.flush()


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The path, or a shorter one that leads there: sockaddr_un has room for 107 bytes."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
