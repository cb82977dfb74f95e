"""The buffer of an IIO device: which channels it holds, how a record is laid out, and the records as arrays.

A record holds the enabled channels in the order of their index, each aligned to its own size, and the whole to the
largest (Documentation/driver-api/iio/buffers.rst). The type of a channel reads ``le:u16/16>>0``: byte order, sign and
bits, bits in memory, shift.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["Channel", "IioBuffer", "layout"]

RECORDS = 256
_TYPE = re.compile(r"(le|be):([su])(\d+)/(\d+)(?:>>(\d+))?")


@dataclass(frozen=True, slots=True)
class Channel:
    """One element of a record."""

    name: str
    index: int
    dtype: np.dtype[np.generic]
    bits: int
    shift: int
    signed: bool

    @classmethod
    def read(cls, folder: Path, name: str) -> Channel:
        """What ``scan_elements`` says of a channel. Raises OSError and ValueError."""
        text = (folder / f"{name}_type").read_text().strip()
        found = _TYPE.fullmatch(text)
        if not found or int(found[4]) not in (8, 16, 32, 64):
            raise ValueError(f"type {text!r} of {name}")
        dtype = np.dtype(f"{'<' if found[1] == 'le' else '>'}{'iu'[found[2] == 'u']}{int(found[4]) // 8}")
        index = int((folder / f"{name}_index").read_text())
        return cls(name, index, dtype, int(found[3]), int(found[5] or 0), found[2] == "s")

    def values(self, column: npt.NDArray[np.generic], *, signed: bool) -> npt.NDArray[np.int64]:
        """Numbers of a column; ``signed`` overrides what the driver says."""
        raw = (column.astype(np.int64) >> self.shift) & ((1 << self.bits) - 1 if self.bits < 64 else -1)
        if (signed or self.signed) and self.bits < 64:
            raw = np.where(raw >> (self.bits - 1) & 1, raw - (1 << self.bits), raw)
        return raw


def layout(channels: Sequence[Channel]) -> np.dtype[np.void]:
    """The record of these channels, with its gaps.

    >>> two = [Channel(n, i, np.dtype(t), 16, 0, False) for n, i, t in (("v", 0, "<u2"), ("timestamp", 4, "<i8"))]
    >>> layout(two).itemsize, layout(two).fields["timestamp"][1]
    (16, 8)
    """
    offsets, at, largest = [], 0, 1
    ordered = sorted(channels, key=lambda channel: channel.index)
    for channel in ordered:
        size = channel.dtype.itemsize
        at = -(-at // size) * size
        offsets.append(at)
        at, largest = at + size, max(largest, size)
    fields = {
        "names": [channel.name for channel in ordered],
        "formats": [channel.dtype for channel in ordered],
        "offsets": offsets,
        "itemsize": -(-at // largest) * largest,
    }
    return np.dtype(fields)  # type: ignore[call-overload, no-any-return]


class IioBuffer:
    """An enabled buffer: records of some channels and the timestamp, stamped in CLOCK_MONOTONIC.

    Args:
        device: folder of the device in sysfs.
        node: its character device.
        names: channels, such as ``in_voltage0``.

    Raises:
        OSError: no permission, no buffer, or somebody else uses it.
        ValueError: the driver describes its channels in a way that is not understood.
    """

    def __init__(self, device: Path, node: Path, names: Sequence[str]) -> None:
        self._device, self._rest = device, b""
        elements = device / "scan_elements"
        wanted = [*names, "in_timestamp"]
        self._channels = {name: Channel.read(elements, name) for name in wanted}
        self._record = layout(list(self._channels.values()))
        # First the node: it is opened by one program at a time.
        self._fd = os.open(node, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._write("buffer/enable", "0")
            for path in sorted(elements.glob("*_en")):
                self._write(f"scan_elements/{path.name}", "1" if path.name.removesuffix("_en") in wanted else "0")
            self._write("current_timestamp_clock", "monotonic")
            self._write("buffer/length", str(RECORDS))
            self._write("buffer/enable", "1")
        except OSError:
            os.close(self._fd)
            raise

    def read(self, *, signed: Sequence[str]) -> tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.int64]]]:
        """What has come: stamps in seconds [n], and numbers [n] by channel. Raises OSError when the device is gone."""
        data = self._rest
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self._fd, self._record.itemsize * RECORDS):
                data += more
        count = len(data) // self._record.itemsize
        rows = np.frombuffer(data, self._record, count)
        self._rest = data[count * self._record.itemsize :]
        values = {
            name: channel.values(rows[name], signed=name in signed)
            for name, channel in self._channels.items()
            if name != "in_timestamp"
        }
        return np.multiply(rows["in_timestamp"], 1e-9, dtype=np.float64), values

    def close(self) -> None:
        """Disable the buffer; harmless when repeated."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._write("buffer/enable", "0")
            os.close(self._fd)
            self._fd = -1

    def _write(self, name: str, value: str) -> None:
        fd = os.open(self._device / name, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
        try:
            os.write(fd, f"{value}\n".encode())
        finally:
            os.close(fd)
