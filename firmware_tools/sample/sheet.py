"""Images beside and below each other, as a PNG: numpy and the standard library alone."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

_GAP, _SHADE = 2, 64


def png(images: npt.NDArray[Any], columns: int) -> bytes:
    """A sheet of images, uint8 [N, H, W, C], row by row, dark gaps between them: an 8-bit PNG, grey (C = 1) or RGB.

    The last row may be short; of any other number of channels their mean is shown.
    """
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels), _SHADE, np.uint8)
    for at, image in enumerate(images):
        top, left = (at // columns) * (height + _GAP) + _GAP, (at % columns) * (width + _GAP) + _GAP
        sheet[top : top + height, left : left + width] = image
    if channels not in (1, 3):
        sheet = sheet.mean(axis=2, keepdims=True).astype(np.uint8)
    lines = np.concatenate([np.zeros((sheet.shape[0], 1), np.uint8), sheet.reshape(sheet.shape[0], -1)], axis=1)
    head = struct.pack(">IIBBBBB", sheet.shape[1], sheet.shape[0], 8, 2 if sheet.shape[2] == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
