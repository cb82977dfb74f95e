"""What any number that came out of bytes must be, before arithmetic touches it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from protos.errors import UpdateError

# A head coordinate or a step beyond this is an attack or a divergence, never a model.
ABSURD = 1e9


def floats(data: bytes, dtype: str, count: int) -> npt.NDArray[np.floating]:
    """``count`` finite numbers of a little-endian dtype.

    Raises:
        UpdateError: ``data`` has another length, or holds NaN or infinity.
    """
    size = np.dtype(dtype).itemsize
    if len(data) != count * size:
        raise UpdateError(f"{count} numbers need {count * size} bytes, got {len(data)}")
    values = np.frombuffer(data, dtype)
    if not np.isfinite(values).all():
        raise UpdateError("NaN or infinity")
    return values


def step_of(value: float) -> float:
    """A step itself, when it is 0 or positive and no larger than two levels around 0 may be apart.

    Raises:
        UpdateError: NaN, negative or absurd.
    """
    if not (math.isfinite(value) and 0 <= value <= 2 * ABSURD):
        raise UpdateError(f"a step of {value:g}")
    return value


def at_most(value: int, limit: int, what: str, *, at_least: int = 0) -> int:
    """A whole number itself, when it is from ``at_least`` to ``limit``.

    Raises:
        UpdateError: it is not.
    """
    if not at_least <= value <= limit:
        raise UpdateError(f"{what} is {value}, not {at_least} to {limit}")
    return value
