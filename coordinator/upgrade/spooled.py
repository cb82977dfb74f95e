"""A wheel on its way to many devices: in one file without a name, and never in memory as a whole while it is sent."""

from __future__ import annotations

import hashlib
import tempfile
import threading
import weakref

from protos.errors import StoreError

__all__ = ["SpooledWheel"]


class SpooledWheel:
    """A wheel and its signature, to be read part by part by any number of senders, in any thread.

    The file goes with the last of those that hold this.

    Args:
        name: of the wheel.

    Attributes:
        sha256: of the wheel.

    Raises:
        StoreError: there is no room for it.
    """

    def __init__(self, upgrade_id: str, name: str, data: bytes, signature: bytes) -> None:
        self.upgrade_id, self.name, self.signature = upgrade_id, name, signature
        self.size_bytes, self.sha256 = len(data), hashlib.sha256(data).digest()
        self._turn = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, self._file.close)
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise StoreError(
                f"the wheel cannot be laid out to be sent ({error.strerror})", where=tempfile.gettempdir()
            ) from error

    def part(self, begin: int, size: int) -> bytes:
        """So many bytes from ``begin`` on, fewer at its end."""
        with self._turn:
            self._file.seek(begin)
            return self._file.read(size)
