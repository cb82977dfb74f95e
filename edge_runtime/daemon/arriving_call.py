"""A call with one answer that says when that answer begins to come in.

On the wire one answer is a stream of one, so the call is made as if there could be more: then the headers, which come
first, are told apart from the message. What lies between is the time in which bytes arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc

from protos.errors import UpdateError

__all__ = ["ArrivingCall", "ArrivingMethod"]

# gRPC wakes each thread that waits for an answer ten times a second, for the sake of signals to a main thread that
# waits there. A call is held for minutes, and these were a third of what an idle device takes: twice a second is enough
# for a stop within two. Where another release of gRPC knows no such module or name, nothing is lost but that.
with suppress(ImportError):
    from grpc import _common

    _common.MAXIMUM_WAIT_TIMEOUT = 0.5


class ArrivingMethod:
    """In place of a method of a stub, for ``future`` alone.

    Args:
        channel: where it is called.
        path: of the method.
        answer: makes the answer of its bytes.
        told: called from a thread of the call: true when its answer begins to come in, false when all of it is here.
    """

    def __init__(
        self, channel: grpc.Channel, path: str, answer: Callable[[bytes], Any], told: Callable[[bool], None]
    ) -> None:
        self._method = channel.unary_stream(
            path, request_serializer=lambda request: request.SerializeToString(), response_deserializer=answer
        )
        self._told = told

    def future(self, request: Any, timeout: float) -> ArrivingCall:
        """Begin a call."""
        return ArrivingCall(self._method(request, timeout=timeout), self._told)


class ArrivingCall:
    """What gRPC's futures are to their caller."""

    def __init__(self, stream: Any, told: Callable[[bool], None]) -> None:
        self._stream, self._told = stream, told
        self._lock = threading.Lock()
        self._listeners: list[Callable[[Any], None]] = []
        self._answers: list[Any] = []
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._receive, name="order", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether it is over; what was to be told is told by then."""
        return self._done.is_set()

    def cancel(self) -> None:
        """End it; nothing is told any more afterwards."""
        self._stream.cancel()
        self._thread.join()

    def add_done_callback(self, listener: Callable[[Any], None]) -> None:
        """Call this when it is over, at once if it is."""
        with self._lock:
            if not self._done.is_set():
                self._listeners.append(listener)
                return
        listener(self)

    def result(self) -> Any:
        """The answer.

        Raises:
            grpc.RpcError: there is none. UpdateError: there are several.
        """
        self._done.wait()
        if self._failure is not None:
            raise self._failure
        if len(self._answers) != 1:
            raise UpdateError(f"{len(self._answers)} answers came to one call", where="the coordinator")
        return self._answers[0]

    def _receive(self) -> None:
        begun = False
        try:
            self._stream.initial_metadata()
            if begun := bool(self._stream.is_active()):
                self._told(True)
            self._answers.extend(self._stream)
        except BaseException as error:
            self._failure = error
        try:
            if begun:
                self._told(False)
        except BaseException as error:
            self._failure = self._failure or error
        with self._lock:
            self._done.set()
        for listener in self._listeners:
            listener(self)
