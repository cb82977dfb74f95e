"""Talks to a bridge on a port: one question at a time, for the commands that people start.

What comes meanwhile is handed to ``observer``, so that nothing measured is lost while an answer is waited for. The port
and the clock are arguments: tests hand in the simulated machine and its virtual time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from protos.bridge.commands import Command, command, sync_command
from protos.bridge.exchange import Exchange
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import PROTOCOL, Hello, MalformedMessage
from protos.bridge.line import Opener, SerialTransport
from protos.bridge.messages import Ack, Message, Status, SyncReply, decode
from protos.errors import RefusedError, SensorError, WaitExpired

__all__ = ["BridgeClient"]

HELLO_S = 4.0
"""An Uno that is reset by the opening of its port spends up to two seconds in its bootloader."""
ANSWER_S = 2.0
ASK_AGAIN_S = 0.5
SYNC_S = 0.5


class BridgeClient:
    """One bridge on one port; ``with`` closes it.

    Args:
        path: of the port.
        opener: opens it.
        now: the host's monotonic clock, s.
        observer: called with host time and message for everything that comes.

    Raises:
        SensorError: the port does not open. Every method raises it when the port goes away.
    """

    def __init__(
        self,
        path: str,
        *,
        opener: Opener = SerialTransport,
        now: Callable[[], float] = time.monotonic,
        observer: Callable[[float, Message], None] | None = None,
    ) -> None:
        self.path, self.now, self.observer = path, now, observer
        self.parser = FrameParser()
        self.malformed = 0
        self._line = opener(path)
        self._nonce = 0

    def hello(self, wait_s: float = HELLO_S) -> Hello:
        """Ask who it is.

        Raises:
            SensorError: nobody answers.
            RefusedError: it speaks another major version of the protocol.
        """
        ask = encode_frame(command(Command.GET_HELLO))
        found = self._await(lambda message: isinstance(message, Hello), ask, wait_s, again_s=0.25)
        if not isinstance(found, Hello):
            fix = "check power, cable and firmware (firmware-tools bridge flash)"
            raise SensorError(f"no bridge answered within {wait_s:g} s", where=self.path, fix=fix)
        if found.protocol[0] != PROTOCOL[0]:
            what = f"the bridge speaks protocol {found.protocol[0]}.{found.protocol[1]}, not {PROTOCOL[0]}.x"
            raise RefusedError(what, where=self.path, fix="put this version's firmware on it: bridge flash")
        return found

    def tell(self, payload: bytes) -> Hello:
        """Send a command that ACK and HELLO answer; the HELLO that describes the bridge after it.

        Raises:
            RefusedError: the bridge refuses it, or does not know it.
            WaitExpired: no answer.
        """
        kind = Command(payload[0])
        ask = encode_frame(payload)
        ack = self._await(lambda message: isinstance(message, Ack) and message.command == kind, ask, ANSWER_S)
        if not isinstance(ack, Ack):
            raise WaitExpired(f"no answer to {kind.name}", where=self.path, fix="try again; run bridge selftest")
        if ack.status != Status.DONE:
            fixes = {
                Status.UNKNOWN: "put newer firmware on it: bridge flash",
                Status.REFUSED: "see --help for how to force it",
            }
            status = next((known for known in Status if known == ack.status), Status.BAD_VALUE)
            what = f"the bridge answers {status.name} to {kind.name}"
            raise RefusedError(what, where=self.path, fix=fixes.get(status, "correct the value"))
        found = self._await(lambda message: isinstance(message, Hello), b"", ASK_AGAIN_S)
        return found if isinstance(found, Hello) else self.hello()

    def send(self, payload: bytes) -> None:
        """Send a command and wait for nothing."""
        try:
            self._line.write(encode_frame(payload))
        except OSError as cause:
            raise self._lost(cause) from cause

    def sync(self) -> Exchange | None:
        """One exchange of stamps; None when it was lost."""
        self._nonce += 1
        nonce = self._nonce
        sent_s = self.now()
        self.send(sync_command(nonce))
        back = self._await(lambda message: isinstance(message, SyncReply) and message.nonce == nonce, b"", SYNC_S)
        if not isinstance(back, SyncReply):
            return None
        return Exchange(sent_s, back.received, back.sent, self._heard_s)

    def listen(self, seconds: float) -> Iterator[tuple[float, Message]]:
        """What comes in this time, each with the host time of its arrival."""
        until_s = self.now() + seconds
        while self.now() < until_s:
            yield from self._hear()

    def close(self) -> None:
        """Let go of the port."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _await(
        self, wanted: Callable[[Message], bool], ask: bytes, wait_s: float, *, again_s: float = ASK_AGAIN_S
    ) -> Message | None:
        """Send ``ask`` until a message is ``wanted``; None when the time is up."""
        until_s, ask_s = self.now() + wait_s, self.now()
        while self.now() < until_s:
            if ask and self.now() >= ask_s:
                ask_s = self.now() + again_s
                try:
                    self._line.write(ask)
                except OSError as cause:
                    raise self._lost(cause) from cause
            # All of one read reach the observer, also those behind the one that is waited for.
            found = [message for _, message in self._hear() if wanted(message)]
            if found:
                return found[0]
        return None

    def _hear(self) -> list[tuple[float, Message]]:
        try:
            data = self._line.read()
        except OSError as cause:
            raise self._lost(cause) from cause
        self._heard_s = self.now()
        heard = []
        for payload in self.parser.feed(data):
            try:
                message = decode(payload)
            except MalformedMessage:
                self.malformed += 1
                continue
            heard.append((self._heard_s, message))
            if self.observer is not None:
                self.observer(self._heard_s, message)
        return heard

    def _lost(self, cause: OSError) -> SensorError:
        return SensorError(f"the port was lost ({cause})", where=self.path, fix="check the cable and start again")
