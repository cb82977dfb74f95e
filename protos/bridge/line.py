"""Bytes to and from a bridge: what a reader asks of a line, and the serial port that is one.

Opening a real board's port may reset it (DTR), so DTR is held off and HUPCL cleared; a restart at that moment is
normal all the same. Ports are opened exclusively: two readers would each get half of the frames. After an unplug
pyserial raises a bare ``OSError`` from ``in_waiting`` and ``SerialException`` from ``read``; both are ``OSError``
here, and so is ``termios.error``, which is not one by itself.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from typing import Protocol

import serial

from protos.errors import SensorError

try:
    import termios
except ModuleNotFoundError:  # Windows
    termios = None  # type: ignore[assignment]
_TERMIOS_ERROR: type[Exception] = OSError if termios is None else termios.error

__all__ = ["BAUD", "Opener", "SerialTransport", "Transport", "explain"]

BAUD = 500_000
"""Exact on a 16 MHz ATmega; pseudo-terminals ignore it."""


class Transport(Protocol):
    """An open line. Every method raises OSError when the line is gone."""

    def read(self) -> bytes:
        """What has arrived; waits a little (0.05 s) for the first byte, then gives b""."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of ``data``."""
        ...

    def close(self) -> None:
        """Let go of the line; never raises."""
        ...


Opener = Callable[[str], Transport]


class SerialTransport:
    """A serial port through pyserial, opened exclusively.

    Raises:
        SensorError: the port is not there, not a serial port, not ours to open, or in use.
    """

    WAIT_S = 0.05

    def __init__(self, path: str) -> None:
        try:
            self._port = serial.Serial()
            self._port.port = path
            self._port.baudrate = BAUD
            self._port.timeout = self.WAIT_S
            self._port.write_timeout = 0.5
            self._port.exclusive = True
            self._port.dtr = False
            _refuse_other_files(path)
            self._port.open()
            self._keep_dtr_on_close()
        except (OSError, _TERMIOS_ERROR, ValueError) as cause:
            raise explain(path, cause) from cause

    def read(self) -> bytes:
        try:
            data: bytes = self._port.read(max(1, self._port.in_waiting))
            if data and (more := self._port.in_waiting):
                data += self._port.read(more)
        except (_TERMIOS_ERROR, TypeError) as cause:
            raise OSError(errno.EIO, str(cause)) from cause
        return data

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (_TERMIOS_ERROR, TypeError) as cause:
            raise OSError(errno.EIO, str(cause)) from cause

    def drain(self) -> None:
        """Wait until everything written is on the wire."""
        try:
            self._port.flush()
        except (_TERMIOS_ERROR, TypeError) as cause:
            raise OSError(errno.EIO, str(cause)) from cause

    def close(self) -> None:
        with contextlib.suppress(OSError, _TERMIOS_ERROR):
            self._port.close()

    def _keep_dtr_on_close(self) -> None:
        if termios is None:
            return
        fd = self._port.fileno()
        with contextlib.suppress(_TERMIOS_ERROR):
            attributes = termios.tcgetattr(fd)
            attributes[2] &= ~termios.HUPCL
            termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _refuse_other_files(path: str) -> None:
    """A plain file or a pipe opens without an error and then behaves oddly; only terminals are wanted."""
    if termios is not None and not stat.S_ISCHR(os.stat(path).st_mode):
        raise OSError(errno.ENOTTY, "not a serial port")


def explain(path: str, cause: BaseException) -> SensorError:
    """The error that tells a user why a port did not open, and what to do."""
    number = getattr(cause, "errno", None)
    text = str(cause).lower()
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOTDIR):
        what, fix = "no such serial port", "plug the bridge in, or correct the path (see /dev/serial/by-id)"
    elif number in (errno.EACCES, errno.EPERM):
        what, fix = "no permission to open the serial port", "add the user to group dialout: usermod -aG dialout USER"
    elif number in (errno.EBUSY, errno.EAGAIN) or "exclusively lock" in text:
        what, fix = "the serial port is in use by another program", "stop that program, or choose another port"
    elif number in (errno.ENOTTY, errno.EISDIR) or "could not configure" in text:
        what, fix = "this is not a serial port", "give the path of the bridge's port (see /dev/serial/by-id)"
    else:
        what, fix = f"the serial port does not open ({cause})", "check the cable and the path"
    return SensorError(what, where=path, fix=fix)
