"""The bridge's clock on the host's: offset and drift from four-stamp exchanges.

One exchange: the host sends at t1, the bridge receives at T2 and answers at T3 (its ticks), the host receives at
t4. Then T = (T2 + T3) / 2 belongs to t = (t1 + t4) / 2, wrong by at most half the round trip
(t4 - t1) - (T3 - T2), however unequal the two ways were (RFC 5905, section 8).

The third of the exchanges with the shortest round trips, plus any within 50 us of the shortest, goes into a line
``t = a + b T``; residuals over three times their median magnitude are left out once. A crystal or resonator is
within 0.1 % or so of nominal (one sigma): this prior keeps ``b`` sane while the exchanges span only moments.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Alignment", "ClockFit", "Exchange"]

KEPT_EXCHANGES = 240
PRIOR_DRIFT = 1e-3
CLOSE_RTT_S = 50e-6
TICK_S = 1e-6


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange: host stamps in seconds, bridge stamps in ticks (microseconds)."""

    sent_s: float
    received_tick: int
    answered_tick: int
    back_s: float

    @property
    def rtt_s(self) -> float:
        """Time on the wire, both ways."""
        return (self.back_s - self.sent_s) - (self.answered_tick - self.received_tick) * TICK_S


@dataclass(frozen=True, slots=True)
class ClockFit:
    """``host_s = at_s + (tick - at_tick) * TICK_S * rate``.

    Args:
        at_tick: reference tick.
        at_s: host time of it.
        rate: host seconds per bridge second; 1 - 80e-6 for a bridge that runs 80 ppm fast.
        residual_s: root-mean-square residual of the exchanges used.
        asymmetry_s: half the shortest round trip: limit of the constant error.
        rate_error: standard error of ``rate``.
        exchanges: how many were used.
    """

    at_tick: int
    at_s: float
    rate: float
    residual_s: float
    asymmetry_s: float
    rate_error: float
    exchanges: int

    @property
    def drift_ppm(self) -> float:
        """How much faster than the host the bridge's clock runs."""
        return (1 / self.rate - 1) * 1e6

    @property
    def limit_s(self) -> float:
        """Limit of the error of one mapped instant: asymmetry and residual together."""
        return self.asymmetry_s + 2 * self.residual_s

    def host_s(self, tick: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Host time of ticks; int64 [N] to float64 [N]."""
        return self.at_s + (tick - self.at_tick).astype(np.float64) * (TICK_S * self.rate)


class Alignment:
    """Exchanges of one boot of the bridge, newest last; the fit follows them."""

    def __init__(self) -> None:
        self._exchanges: deque[Exchange] = deque(maxlen=KEPT_EXCHANGES)
        self._fit: ClockFit | None = None

    def add(self, exchange: Exchange) -> None:
        """Take an exchange in; one that claims a negative round trip is impossible and is left out."""
        if exchange.back_s >= exchange.sent_s and exchange.rtt_s >= -2 * TICK_S:
            self._exchanges.append(exchange)
            self._fit = None

    @property
    def fit(self) -> ClockFit | None:
        """The best line so far, None before the first exchange."""
        if self._fit is None and self._exchanges:
            self._fit = _line(list(self._exchanges))
        return self._fit


def _line(exchanges: list[Exchange]) -> ClockFit:
    rtt = np.array([exchange.rtt_s for exchange in exchanges])
    shortest = max(0.0, float(rtt.min()))
    cut = max(float(np.sort(rtt)[(len(rtt) - 1) // 3]), shortest + CLOSE_RTT_S)
    used = [exchange for exchange, wire_s in zip(exchanges, rtt, strict=True) if wire_s <= cut]
    at_tick = (used[-1].received_tick + used[-1].answered_tick) // 2
    ticks = np.array([(e.received_tick - at_tick + e.answered_tick - at_tick) / 2 for e in used]) * TICK_S
    # Departure of the host's clock from nominal rate: small numbers, so that nothing is lost in rounding.
    at_s = (used[-1].sent_s + used[-1].back_s) / 2
    apart = np.array([(e.sent_s - at_s + e.back_s - at_s) / 2 for e in used]) - ticks
    # A midpoint is wrong by half its round trip at most: rectangular.
    noise_s = max(float(np.median(rtt[rtt <= cut])) / 2 / math.sqrt(3), 20e-6)
    offset, slope, slope_error = _ridge(ticks, apart, noise_s)
    residual = apart - offset - slope * ticks
    good = np.abs(residual) <= 3 * 1.4826 * np.median(np.abs(residual)) + TICK_S
    if 3 <= good.sum() < len(good):
        offset, slope, slope_error = _ridge(ticks[good], apart[good], noise_s)
        residual = (apart - offset - slope * ticks)[good]
    rms = math.sqrt(float(np.mean(residual**2)))
    return ClockFit(at_tick, at_s + offset, 1.0 + slope, rms, shortest / 2, slope_error, len(residual))


def _ridge(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], noise_s: float) -> tuple[float, float, float]:
    """Least squares with a Gaussian prior on the slope: offset, slope, standard error of the slope."""
    centre_x, centre_y = float(x.mean()), float(y.mean())
    weight = float(np.sum((x - centre_x) ** 2)) + (noise_s / PRIOR_DRIFT) ** 2
    slope = float(np.sum((x - centre_x) * (y - centre_y))) / weight
    spread_s = max(noise_s, float(np.std(y - centre_y - slope * (x - centre_x))))
    return centre_y - slope * centre_x, slope, min(PRIOR_DRIFT, spread_s / math.sqrt(weight))
