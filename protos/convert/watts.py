"""Power of a board as it is, in bins: values to messages and back."""

from __future__ import annotations

import numpy as np

from protos.convert.checks import MAX_NUMBER, count_at_most, finite
from protos.energy.bins import PowerBins
from protos.energy.trace import Floats
from protos.errors import UpdateError
from protos.v1 import edgejoule_pb2 as pb

MAX_BINS = 512
"""In one message: ten seconds at fifty a second. Who has more joins them."""
MAX_POWER_W = 1e6
LEAST_BIN_S, MOST_BIN_S = 1e-3, 600.0
_SLACK = 1.001


def bins_to(bins: PowerBins) -> pb.PowerBins:
    """As a message: float32, little-endian."""
    arrays = {name: _packed(getattr(bins, name)) for name in ("mean_w", "low_w", "high_w", "covered_s")}
    return pb.PowerBins(first_s=bins.first_s, bin_s=bins.bin_s, **arrays)


def bins_from(message: pb.PowerBins) -> PowerBins:
    """From a message.

    Raises:
        UpdateError: lengths that differ, too many bins, or figures that no board can have.
    """
    first_s = finite(message.first_s, "watts.first_s", at_least=-MAX_NUMBER)
    bin_s = finite(message.bin_s, "watts.bin_s", at_least=LEAST_BIN_S, at_most=MOST_BIN_S)
    mean_w, low_w, high_w = (
        _unpacked(getattr(message, name), f"watts.{name}", -MAX_POWER_W, MAX_POWER_W)
        for name in ("mean_w", "low_w", "high_w")
    )
    covered_s = _unpacked(message.covered_s, "watts.covered_s", 0.0, bin_s * _SLACK)
    if len({len(mean_w), len(low_w), len(high_w), len(covered_s)}) != 1:
        raise UpdateError("arrays of different lengths", where="watts")
    return PowerBins(first_s, bin_s, mean_w, low_w, high_w, covered_s)


def _packed(values: Floats) -> bytes:
    return values.astype("<f4").tobytes()


def _unpacked(data: bytes, field: str, least: float, most: float) -> Floats:
    if len(data) % 4:
        raise UpdateError(f"{len(data)} bytes are no array of float32", where=field)
    count_at_most(len(data) // 4, MAX_BINS, field)
    values = np.frombuffer(data, "<f4").astype(np.float64)
    # NaN compares with nothing.
    if not ((values >= least) & (values <= most)).all():
        raise UpdateError(f"a figure that is not within {least:g} to {most:g}", where=field)
    return values
