"""Reading a bridge's messages for people: a capture file, or the HELLO of a port."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from protos.bridge.commands import Command, command
from protos.bridge.framing import DropCounts, FrameParser, encode_frame
from protos.bridge.hello import Hello, MalformedMessage, ResetCause
from protos.bridge.line import SerialTransport
from protos.bridge.messages import Message, decode
from protos.errors import SensorError

__all__ = ["NoAnswer", "decode_capture", "describe", "read_hello", "send_command"]


class NoAnswer(SensorError):
    """The port is there, and nobody on it says HELLO."""


def describe(message: Message) -> dict[str, Any]:
    """A message as plain values, its type first; bytes in hexadecimal, arrays as lists."""
    values = {"type": type(message).__name__.lower()} | asdict(message)
    return {name: _plain(value) for name, value in values.items()}


def decode_capture(data: bytes) -> tuple[list[dict[str, Any]], DropCounts]:
    """Every message in a captured byte stream, and what had to be dropped."""
    parser = FrameParser()
    messages = []
    for payload in parser.feed(data):
        try:
            messages.append(describe(decode(payload)))
        except MalformedMessage as error:
            messages.append({"type": "unknown", "payload": payload.hex(), "why": str(error)})
    return messages, parser.drops


def read_hello(path: str, wait_s: float) -> dict[str, Any]:
    """Ask the bridge at ``path`` who it is.

    Raises:
        SensorError: the port does not open, or was lost.
        NoAnswer: nobody answers within ``wait_s``.
    """
    port = SerialTransport(path)
    parser, deadline_s, ask_s = FrameParser(), time.monotonic() + wait_s, 0.0
    try:
        while time.monotonic() < deadline_s:
            if time.monotonic() >= ask_s:
                ask_s = time.monotonic() + 0.25
                port.write(encode_frame(command(Command.GET_HELLO)))
            for payload in parser.feed(port.read()):
                try:
                    message = decode(payload)
                except MalformedMessage:
                    continue
                if isinstance(message, Hello):
                    fields = describe(message)
                    fields["reset"] = [cause.name for cause in ResetCause if message.reset & cause]
                    return fields
    except OSError as cause:
        raise SensorError(f"the port was lost ({cause})", where=path, fix="check the cable") from cause
    finally:
        port.close()
    raise NoAnswer(f"no bridge answered within {wait_s:g} s", where=path, fix="check power, cable and firmware")


def send_command(path: str, payload: bytes) -> None:
    """Send one command to the bridge at ``path`` and wait for no answer.

    Raises:
        SensorError: the port does not open, or was lost.
    """
    port = SerialTransport(path)
    try:
        port.write(encode_frame(payload))
        port.drain()
    except OSError as cause:
        raise SensorError(f"the port was lost ({cause})", where=path, fix="check the cable") from cause
    finally:
        port.close()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return int(value) if isinstance(value, int) else value
