"""Frames on a serial line: ``00  COBS( payload  CRC16 )  00``.

* Consistent overhead byte stuffing (Cheshire and Baker, SIGCOMM 1997) leaves 00 free as a delimiter, so that a
  reader is back in step at the next 00 after any damage.
* CRC-16/CCITT-FALSE, polynomial 1021h, start FFFFh, not reflected, over the payload, sent low byte first:
  ``binascii.crc_hqx(payload, 0xFFFF)``, and ``_crc_xmodem_update`` of avr-libc.
* A frame begins *and* ends with 00: a reset in the middle of a frame must not swallow the next one. Empty
  frames (two delimiters in a row) mean nothing.
* Everything before the first delimiter is skipped: it may be the tail of a frame.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

__all__ = ["MAX_FRAME", "MAX_PAYLOAD", "DropCounts", "FrameParser", "cobs_decode", "cobs_encode", "encode_frame"]

MAX_PAYLOAD = 200
"""Largest payload in bytes: a bridge holds a frame in RAM."""
MAX_FRAME = MAX_PAYLOAD + 3
"""Largest stuffed frame between its delimiters: payload, CRC, one code byte (under 254 bytes in all)."""


def cobs_encode(data: bytes) -> bytes:
    """Stuff ``data`` so that it holds no 00.

    >>> cobs_encode(bytes([0x11, 0x00, 0x22])).hex(" ")
    '02 11 02 22'
    """
    out = bytearray()
    runs = data.split(b"\x00")
    for index, run in enumerate(runs):
        while len(run) >= 254:
            out += b"\xff" + run[:254]
            run = run[254:]
            if not run and index == len(runs) - 1:
                return bytes(out)
        out.append(len(run) + 1)
        out += run
    return bytes(out)


def cobs_decode(data: bytes) -> bytes | None:
    """Undo :func:`cobs_encode`; None when ``data`` is not a possible result of it."""
    out = bytearray()
    at, end = 0, len(data)
    if not end or 0 in data:
        return None
    while at < end:
        code = data[at]
        after = at + code
        if after > end:
            return None
        out += data[at + 1 : after]
        at = after
        if code != 255 and at < end:
            out.append(0)
    return bytes(out)


def encode_frame(payload: bytes) -> bytes:
    """The bytes of one frame, both delimiters included.

    Raises:
        ValueError: the payload is empty or larger than MAX_PAYLOAD.
    """
    if not 0 < len(payload) <= MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes; 1 to {MAX_PAYLOAD} fit a frame")
    crc = binascii.crc_hqx(payload, 0xFFFF)
    return b"\x00" + cobs_encode(payload + crc.to_bytes(2, "little")) + b"\x00"


@dataclass(slots=True)
class DropCounts:
    """What a parser threw away.

    Args:
        skipped_bytes: bytes before the first delimiter.
        framing: frames that are no COBS, or too short for a CRC.
        crc: frames whose check did not match.
        oversize: runs without a delimiter longer than any frame.
    """

    skipped_bytes: int = 0
    framing: int = 0
    crc: int = 0
    oversize: int = 0

    @property
    def frames(self) -> int:
        """Damaged frames of every kind."""
        return self.framing + self.crc + self.oversize


class FrameParser:
    """Bytes in, checked payloads out; never raises, keeps at most MAX_FRAME bytes."""

    def __init__(self) -> None:
        self.drops = DropCounts()
        self._held = b""
        self._in_step = False
        self._overrun = False

    def feed(self, data: bytes) -> list[bytes]:
        """Payloads that ``data`` completes, in order."""
        *whole, tail = (self._held + data).split(b"\x00")
        payloads = []
        for run in whole:
            if self._overrun:
                self._overrun = False  # counted when the run grew too long
            elif not self._in_step:
                self.drops.skipped_bytes += len(run)
            elif run:
                payload = self._check(run)
                if payload is not None:
                    payloads.append(payload)
            self._in_step = True
        if len(tail) > MAX_FRAME or self._overrun:
            if not self._in_step:
                self.drops.skipped_bytes += len(tail)
            elif not self._overrun:
                self.drops.oversize += 1
                self._overrun = True
            tail = b""
        self._held = tail
        return payloads

    def _check(self, run: bytes) -> bytes | None:
        if len(run) > MAX_FRAME:
            self.drops.oversize += 1
            return None
        decoded = cobs_decode(run)
        if decoded is None or len(decoded) < 3:
            self.drops.framing += 1
            return None
        if binascii.crc_hqx(decoded[:-2], 0xFFFF) != int.from_bytes(decoded[-2:], "little"):
            self.drops.crc += 1
            return None
        return decoded[:-2]
