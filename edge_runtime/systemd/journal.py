"""Lines with fields, in the native protocol of the systemd journal (systemd.io/JOURNAL_NATIVE_PROTOCOL).

A line about a round carries its run and round, a line about a phase its joules, so that
``journalctl EDGEJOULE_PHASE=train -o json`` is a table. Without a journal the same lines go to stderr as text.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType
from typing import Any

JOURNAL_SOCKET = Path("/run/systemd/journal/socket")
FIELDS: Mapping[str, str] = {
    "run": "EDGEJOULE_RUN",
    "round": "EDGEJOULE_ROUND",
    "phase": "EDGEJOULE_PHASE",
    "joules": "EDGEJOULE_JOULES",
    "pause": "EDGEJOULE_PAUSE",
    "paused": "EDGEJOULE_PAUSED_S",
    "temperature": "EDGEJOULE_TEMPERATURE_C",
}
"""A fact to the journal's field. An unknown fact has no field."""
# Levels of syslog(3).
PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
# A datagram has to fit the socket's buffer; a line of ours is far shorter.
_MOST_BYTES = 16 << 10
_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))


@contextlib.contextmanager
def about(**known: object) -> Iterator[None]:
    """Every line logged inside carries these facts; names are those of :data:`FIELDS`."""
    token = _about.set({**_about.get(), **known})
    try:
        yield
    finally:
        _about.reset(token)


def facts(*, journal_only: bool = False, **known: object) -> dict[str, Any]:
    """The ``extra=`` of a line that carries these facts; a fact that is None is unknown and left out.

    Args:
        journal_only: the line repeats, for machines, what another one says in words.
    """
    return {"facts": known, "journal_only": journal_only}


def encode(fields: Mapping[str, str]) -> bytes:
    """One entry as one datagram. A value with a newline is sent with its length, 64 bits little endian.

    >>> encode({"A": "b"}), encode({"A": "b\\nc"})
    (b'A=b\\n', b'A\\n\\x03\\x00\\x00\\x00\\x00\\x00\\x00\\x00b\\nc\\n')
    """
    parts = []
    for name, text in fields.items():
        value = text.encode("utf-8", "replace")[:_MOST_BYTES]
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def stream_is_journal(environ: Mapping[str, str], number: int = 2) -> bool:
    """Whether the stream with this file number is the one that systemd connected to the journal."""
    try:
        stat = os.fstat(number)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{stat.st_dev}:{stat.st_ino}"


class NativeJournal(logging.Handler):
    """Sends each record as an entry with fields; to stderr, when the journal does not take it.

    Args:
        path: of the journal's socket. It need not be there yet, and may go and come back.
    """

    def __init__(self, path: Path = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # A journal that has no room for so long gets the line as text, if anybody reads that.
        self._socket.settimeout(1.0)

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(self.format(record).split())
        known = {**_about.get(), **getattr(record, "facts", {})}
        priority = PRIORITY.get(record.levelno, 6)
        entry = {"MESSAGE": line, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "edge-runtime"}
        entry |= {FIELDS[name]: _text(value) for name, value in known.items() if name in FIELDS and value is not None}
        try:
            self._socket.sendto(encode(entry), socket.MSG_NOSIGNAL, self._path)
        except OSError:
            if not getattr(record, "journal_only", False):
                print(f"<{priority}>{line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _text(value: object) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
