"""Reading Intel hex files, the form in which an AVR's flash is kept (``build.intel_hex`` writes them)."""

from __future__ import annotations

from protos.errors import DataError

__all__ = ["read_intel_hex"]

_DATA, _END, _SEGMENT, _START_SEGMENT, _UPPER, _START = range(6)
_LIMIT = 0x10000


def read_intel_hex(data: bytes, *, where: str) -> bytes:
    """The image from address 0, gaps filled with FFh as erased flash reads; at most 64 KiB.

    Args:
        data: the file.
        where: its name, for errors.

    Raises:
        DataError: not Intel hex, a wrong checksum, bytes given twice, no end record, or addresses past 64 KiB.

    >>> read_intel_hex(b":020000000102FB\\n:00000001FF\\n", where="x").hex()
    '0102'
    """
    image: dict[int, int] = {}
    lines = data.split()
    for number, line in enumerate(lines, start=1):
        kind, address, content = _record(line, f"{where}:{number}")
        if kind == _END:
            if number != len(lines):
                raise _damaged("text after the end record", f"{where}:{number}")
            return bytes(image.get(at, 0xFF) for at in range(max(image, default=-1) + 1))
        if kind == _DATA:
            places = range(address, address + len(content))
            if places.stop > _LIMIT or not image.keys().isdisjoint(places):
                raise _damaged("bytes that are given twice or lie past 64 KiB", f"{where}:{number}")
            image.update(zip(places, content, strict=True))
        elif kind in (_SEGMENT, _UPPER) and any(content):
            raise _damaged("addresses past 64 KiB", f"{where}:{number}")
        elif kind not in (_SEGMENT, _START_SEGMENT, _UPPER, _START):
            raise _damaged(f"a record of unknown type {kind}", f"{where}:{number}")
    raise _damaged("no end record", where)


def _record(line: bytes, where: str) -> tuple[int, int, bytes]:
    try:
        raw = bytes.fromhex(line[1:].decode("ascii"))
    except ValueError:
        raw = b""
    if line[:1] != b":" or len(raw) < 5 or len(raw) != raw[0] + 5:
        raise _damaged("no record of Intel hex", where)
    if sum(raw) & 0xFF:
        raise _damaged("a wrong checksum", where)
    return raw[3], int.from_bytes(raw[1:3], "big"), raw[4:-1]


def _damaged(what: str, where: str) -> DataError:
    return DataError(f"the hex file has {what}", where=where, fix="build or fetch it anew")
