"""The bridge's clock against the host's: a straight line through four-stamp exchanges, good for seconds to minutes.

The host sends at t1, the bridge receives at T2 and answers at T3 (its ticks), the host hears it at t4. The middle of T2
and T3 belongs to the middle of t1 and t4, wrong by at most half of the round trip (RFC 5905, section 8). The device's
own runtime fits hours; this room is for looking at a bridge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protos.bridge.exchange import TICK_S, Exchange

__all__ = ["ClockLine", "fit_clock"]

CLOSE_S = 100e-6


@dataclass(frozen=True, slots=True)
class ClockLine:
    """What the exchanges say.

    Args:
        drift_ppm: how much faster than the host the bridge's clock runs.
        drift_limit_ppm: limit of the error of that: half the round trips over the time between the ends.
        limit_s: limit of the error of one mapped instant: half of the shortest round trip.
        exchanges: how many there were.
    """

    drift_ppm: float
    drift_limit_ppm: float
    limit_s: float
    exchanges: int


def fit_clock(exchanges: Sequence[Exchange]) -> ClockLine | None:
    """A line through the quickest exchanges; None when there are fewer than two.

    >>> line = fit_clock([Exchange(0.0, 500, 500, 0.001), Exchange(10.0, 10_001_500, 10_001_500, 10.001)])
    >>> round(line.drift_ppm), round(line.limit_s, 6)
    (100, 0.0005)
    """
    if len(exchanges) < 2:
        return None
    rtt = np.array([exchange.rtt_s for exchange in exchanges])
    first = exchanges[0]
    host = np.array([(e.sent_s - first.sent_s + e.back_s - first.sent_s) / 2 for e in exchanges])
    ticks = np.array([e.received_tick + e.answered_tick - 2 * first.received_tick for e in exchanges]) * (TICK_S / 2)
    # The better half, at least two of them: a slow answer says little.
    good = rtt <= max(float(np.sort(rtt)[(len(rtt) + 1) // 2 - 1]), float(np.sort(rtt)[1]), float(rtt.min()) + CLOSE_S)
    at, apart, wire = host[good], (ticks - host)[good], np.maximum(rtt[good], 0.0)
    span_s = float(at[-1] - at[0])
    if span_s <= 0:
        return None
    centred = at - at.mean()
    slope = float(centred @ apart / (centred @ centred))
    return ClockLine(
        slope * 1e6, float(wire.max()) / span_s * 1e6, max(0.0, float(rtt.min())) / 2, len(exchanges)
    )  # fmt: skip
