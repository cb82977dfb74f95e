"""Changes as whole numbers that can be masked: clipped, on one grid for all, and added modulo a power of two.

With C the bound and L = 2^(bits - 1) - 1, coordinates lie within C, and q = floor(x L / C + u) with u uniform in [0, 1)
is unbiased. n of them sum to at most n L, which fits into ``width_of`` bits with its sign; the sum is exact.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError
from protos.update.trees import Shapes, Tree, coordinates, flattened, norm, unflattened

__all__ = [
    "WIDTHS",
    "MaskedWords",
    "Words",
    "flat_size",
    "from_bytes",
    "largest",
    "quantised",
    "to_bytes",
    "values_of",
    "width_of",
]

Words = npt.NDArray[np.uint32]
MaskedWords = tuple[int, Words]
"""Width, and words below 2^width."""
WIDTHS = (16, 32)


def largest(bits: int) -> int:
    """L of the module."""
    return (1 << (bits - 1)) - 1


def width_of(bits: int, devices: int) -> int:
    """Bits of a masked number, of :data:`WIDTHS`, in which the sum of so many fits.

    Raises:
        UpdateError: in none.
    """
    needed = math.ceil(math.log2(2 * devices * largest(bits) + 1))
    for width in WIDTHS:
        if needed <= width:
            return width
    raise UpdateError(f"{devices} numbers of {bits} bits need {needed} bits", where="masked sum", fix="fewer bits")


def quantised(change: Tree, clip: float, bits: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """A change cut to length ``clip``, flat in the order of names, as whole numbers from -L to L."""
    size = norm(change)
    factor = largest(bits) / clip * min(1.0, clip / size if size else 1.0)
    flat = flattened(change).astype(np.float64)
    made = np.floor(flat * factor + random.random(flat.size)).astype(np.int64)
    return np.clip(made, -largest(bits), largest(bits))


def values_of(total: Words, width: int, clip: float, bits: int, shapes: Shapes) -> dict[str, npt.NDArray[np.float64]]:
    """A sum modulo 2^width as numbers again."""
    numbers = total.astype(np.int64)
    numbers[numbers >= 1 << (width - 1)] -= 1 << width
    flat = numbers.astype(np.float64) * (clip / largest(bits))
    return unflattened(flat, shapes)


def to_bytes(words: Words, width: int) -> bytes:
    """Words below 2^width, little-endian."""
    return words.astype("<u2" if width == 16 else "<u4").tobytes()


def from_bytes(data: bytes, width: int, count: int) -> Words:
    """The same back. Raises UpdateError: another number of them."""
    if width not in WIDTHS or len(data) != count * width // 8:
        raise UpdateError(f"{len(data)} bytes are not {count} numbers of {width} bits", where="masked sum")
    return np.frombuffer(data, "<u2" if width == 16 else "<u4").astype(np.uint32)


def flat_size(shapes: Shapes) -> int:
    """Numbers of a tree."""
    return coordinates({name: np.empty(tuple(shape), np.float32) for name, shape in shapes.items()})
