"""A network in memory: it loses, doubles, delays and reorders calls, and cuts devices off.

Messages travel as bytes, through the device's real link at one end and the coordinator's real service at the other.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from virtual_time import Program, VirtualLoop

from coordinator.server.services.device_service import DeviceService
from protos.v1 import edgejoule_pb2 as pb

_REQUESTS = {
    "Join": pb.JoinRequest,
    "NextOrder": pb.NextOrderRequest,
    "Leave": pb.LeaveRequest,
    "AwaitEnd": pb.AwaitEndRequest,
}
_ANSWERS = {
    "Join": pb.JoinResponse, "NextOrder": pb.NextOrderResponse, "Leave": pb.LeaveResponse, "Report": pb.ReportResponse,
    "AwaitEnd": pb.AwaitEndResponse,
}  # fmt: skip


# When nothing comes back, a ping is sent after a minute, and waited for twenty seconds (edge_runtime/daemon/link.py).
_KEEPALIVE_S = 80.0


class Failure(grpc.RpcError):
    """What a call ends with that was not answered."""

    def __init__(self, code: grpc.StatusCode, details: str = "", metadata: Any = ()) -> None:
        super().__init__(code, details)
        self._code, self._details, self._metadata = code, details, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata


class _Context:
    """The coordinator's side of one call."""

    failure: Failure | None = None

    def __init__(self) -> None:
        self._ends: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._ends.append(callback)

    def end(self) -> None:
        for callback in self._ends:
            callback(self)

    def time_remaining(self) -> float | None:
        return None

    async def abort(self, code: grpc.StatusCode, details: str, metadata: Any = ()) -> None:
        self.failure = Failure(code, details, metadata)
        raise self.failure


class Call:
    """The device's side of one call, as gRPC's futures are."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._answer: Any = None
        self._failure: Failure | None = None
        self._done = False
        self._listeners: list[Callable[[Any], None]] = []

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        self.end(None, Failure(grpc.StatusCode.CANCELLED))

    def add_done_callback(self, listener: Callable[[Any], None]) -> None:
        self._listeners.append(listener)

    def result(self) -> Any:
        if self._failure is not None:
            raise self._failure
        return self._answer

    def end(self, answer: Any, failure: Failure | None = None) -> None:
        """It was answered, or not; once."""
        if self._done:
            return
        self._done, self._answer, self._failure = True, answer, failure
        for listener in self._listeners:
            listener(self)


class Network:
    """All that lies between devices and the coordinator.

    Args:
        service: of the coordinator that is up now, with its process; None while none is.
        dice: from the seed.

    Attributes:
        faulty: whether anything goes wrong at all.
        share: of calls that something happens to.
        cut: devices that nothing reaches.
        open_calls: calls that the coordinator has not answered yet, by device.
        counts: what happened, by kind.
    """

    def __init__(
        self, loop: VirtualLoop, dice: random.Random, service: Callable[[], tuple[DeviceService, Any] | None]
    ) -> None:
        self._loop, self._dice, self._service = loop, dice, service
        self.faulty, self.share = True, 0.1
        self.cut: dict[str, None] = {}
        self.open_calls: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.arrived: Callable[[str, str], None] = lambda device_id, method: None
        self.answered: Callable[[str, str, Any, Any], None] = lambda device_id, method, request, answer: None

    def call(self, device_id: str, program: Program, method: str, request: Any, timeout_s: float) -> Call:
        """Send one call on its way."""
        made = Call(program)
        self._loop.call_later(timeout_s, made.end, None, Failure(grpc.StatusCode.DEADLINE_EXCEEDED))
        sent = self._sent(method, request)
        away = Failure(grpc.StatusCode.UNAVAILABLE)
        if device_id in self.cut:
            self._loop.call_later(self._dice.uniform(0.01, 5.0), made.end, None, away)
            return made
        luck = self._dice.random() / self.share if self.faulty else 1.0
        if luck < 0.3:
            self.counts["requests lost"] += 1
            # Said at once, or found out by the keepalive of the connection.
            longest_s = 3.0 if self._dice.random() < 0.5 else _KEEPALIVE_S
            self._loop.call_later(self._dice.uniform(0.0, longest_s), made.end, None, away)
            return made
        if luck < 0.6:
            self.counts["answers lost"] += 1
            self._loop.call_later(self._delay_s(), self._arrive, device_id, method, sent, made, away)
        else:
            self._loop.call_later(self._delay_s(), self._arrive, device_id, method, sent, made, None)
        if luck < 0.3 + 0.15 or 0.6 <= luck < 0.75:
            self.counts["calls doubled"] += 1
            self._loop.call_later(self._dice.uniform(0.1, 30.0), self._arrive, device_id, method, sent, None, None)
        return made

    def _sent(self, method: str, request: Any) -> list[bytes]:
        if method == "Report":
            return [part.SerializeToString() for part in request]
        return [request.SerializeToString()]

    def _delay_s(self) -> float:
        if not self.faulty or self._dice.random() > self.share:
            return self._dice.uniform(0.001, 0.05)
        self.counts["calls delayed"] += 1
        return self._dice.choice((0.5, 3.0, 12.0)) * self._dice.random()

    def _arrive(
        self, device_id: str, method: str, sent: list[bytes], made: Call | None, instead: Failure | None
    ) -> None:
        found = self._service()
        if found is None:
            if made is not None:
                made.end(None, Failure(grpc.StatusCode.UNAVAILABLE))
            return
        service, process = found
        self.arrived(device_id, method)
        self._loop.start(process, self._handled(service, process, device_id, method, sent, made, instead))

    async def _handled(
        self, service: DeviceService, process: Any, device_id: str, method: str, sent: list[bytes],
        made: Call | None, instead: Failure | None,
    ) -> None:  # fmt: skip
        context = _Context()
        answer: bytes | None = None
        failure: Failure | None = Failure(grpc.StatusCode.UNAVAILABLE)
        self.open_calls[device_id] += 1
        try:
            request: Any = _parts(sent) if method == "Report" else _REQUESTS[method].FromString(sent[0])
            answer = (await getattr(service, method)(request, context)).SerializeToString()
            failure = None
        except Failure as error:
            failure = error
        finally:
            context.end()
            self.open_calls[device_id] -= 1
            if process.dead:
                answer, failure = None, Failure(grpc.StatusCode.UNAVAILABLE)
            if answer is not None:
                self.answered(device_id, method, sent, _ANSWERS[method].FromString(answer))
            if made is not None:
                back_s = self._delay_s()
                if instead is not None or answer is None:
                    self._loop.call_later(back_s, made.end, None, instead or failure)
                else:
                    self._loop.call_later(back_s, made.end, _ANSWERS[method].FromString(answer))


async def _parts(sent: Iterable[bytes]) -> AsyncIterator[Any]:
    for part in sent:
        yield pb.ReportRequest.FromString(part)
        await asyncio.sleep(0)


class Stub:
    """What a device's link calls, in place of gRPC's own."""

    def __init__(self, network: Network, device_id: str, program: Callable[[], Program]) -> None:
        for method in _ANSWERS:
            setattr(self, method, _Method(network, device_id, program, method))


class _Method:
    def __init__(self, network: Network, device_id: str, program: Callable[[], Program], name: str) -> None:
        self._network, self._device_id, self._program, self._name = network, device_id, program, name

    def future(self, request: Any, timeout: float) -> Call:
        program = self._program()
        program.check()
        return self._network.call(self._device_id, program, self._name, request, timeout)
