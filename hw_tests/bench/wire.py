"""Every port of a bench is opened here: exclusively, and with an ear on it that keeps the last bytes."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from pathlib import Path

from protos.bridge.line import SerialTransport, Transport
from protos.errors import SensorError

__all__ = ["Wire"]

KEPT_BYTES = 65_536


class Wire:
    """The last bytes of a bench's serial line, over all openings of its port.

    Args:
        path: the port.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._kept: deque[tuple[float, str, bytes]] = deque()
        self._size = 0
        self._extra = b""
        self._last: Transport | None = None

    def open(self, path: str) -> Transport:
        """An :data:`~protos.bridge.line.Opener`. The port is opened for one reader alone.

        Raises:
            SensorError: as :class:`~protos.bridge.line.SerialTransport`.
        """
        if path != self.path:
            raise SensorError("is not the port of this bench", where=path, fix=f"use {self.path}")
        self._last = SerialTransport(path)
        return _Tapped(self._last, self)

    def spoil(self, data: bytes) -> None:
        """Whoever reads next hears ``data`` behind what the bridge has sent."""
        with self._lock:
            self._extra += data

    def send(self, data: bytes) -> None:
        """Send bytes to the bridge that its reader knows nothing of, through the port as it is open now.

        Raises:
            OSError: it is not open.
        """
        if self._last is None:
            raise OSError("the port was never opened")
        self._last.write(data)
        self.keep("out", data)

    def extra(self) -> bytes:
        """What :meth:`spoil` left, once."""
        with self._lock:
            data, self._extra = self._extra, b""
            return data

    def keep(self, way: str, data: bytes) -> None:
        """Note bytes that went one ``way``: "in" to the host, "out" to the bridge."""
        if not data:
            return
        with self._lock:
            self._kept.append((time.monotonic(), way, data))
            self._size += len(data)
            while self._size > KEPT_BYTES and len(self._kept) > 1:
                self._size -= len(self._kept.popleft()[2])

    def last_bytes(self, way: str = "in") -> bytes:
        """What was kept of one way."""
        with self._lock:
            return b"".join(data for _, told, data in self._kept if told == way)

    def save(self, folder: Path) -> None:
        """Write ``last-bytes.bin``, which ``bridge decode`` reads, and ``last-bytes.jsonl``: times, and both ways."""
        with self._lock:
            kept = list(self._kept)
        (folder / "last-bytes.bin").write_bytes(b"".join(data for _, way, data in kept if way == "in"))
        lines = [json.dumps({"at_s": round(at_s, 6), "way": way, "hex": data.hex()}) for at_s, way, data in kept]
        (folder / "last-bytes.jsonl").write_text("".join(f"{line}\n" for line in lines))


class _Tapped:
    """A transport that tells its wire what passes."""

    def __init__(self, inner: Transport, wire: Wire) -> None:
        self._inner, self._wire = inner, wire

    def read(self) -> bytes:
        data = self._inner.read() + self._wire.extra()
        self._wire.keep("in", data)
        return data

    def write(self, data: bytes) -> None:
        self._inner.write(data)
        self._wire.keep("out", data)

    def close(self) -> None:
        self._inner.close()
