"""The bridge's clock on the host's: offset and drift from four-stamp exchanges.

One exchange: the host sends at t1, the bridge receives at T2 and answers at T3 (its ticks), the host receives at
t4. Then T = (T2 + T3) / 2 belongs to t = (t1 + t4) / 2, wrong by at most half the round trip
(t4 - t1) - (T3 - T2), however unequal the two ways were (RFC 5905, section 8).

* The third of the exchanges with the shortest round trips, plus any within 50 us of the shortest, goes into the fit. An
  exchange weighs less the longer its round trip was; residuals over three times their median magnitude are left out
  once.
* The fit is a line that may bend a little each minute: a resonator moves by some 10 ppm per degree, and a board warms
  up. Least squares with Gaussian priors: the rate is within 0.1 % or so of nominal (one sigma), and bends by 20 ppm
  from one minute to the next. So the rate stays sane while the exchanges span only moments.
* A time without exchanges is one bend, of the variance of all the minutes in it: nobody knows what happened meanwhile.
* Exchanges of the last quarter of an hour are kept, the older ones the sparser, in a bounded store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.bridge.exchange import TICK_S, Exchange

__all__ = ["Alignment", "ClockFit"]

KEPT_EXCHANGES = 240
HISTORY_S = 900.0
SPARSE_S = 10.0
PRIOR_DRIFT = 1e-3
PRIOR_BEND = 20e-6
LEAST_RATE_ERROR = 5e-6
BEND_EACH_S = 60.0
CLOSE_RTT_S = 50e-6
LEAST_NOISE_S = 20e-6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClockFit:
    """``host_s = at_s + (tick - at_tick) * TICK_S * rate``, and before each bend another rate.

    Args:
        at_tick: reference tick, the newest.
        at_s: host time of it.
        rate: host seconds per bridge second since the last bend; 1 - 80e-6 for a bridge that runs 80 ppm fast.
        residual_s: root-mean-square residual of the exchanges used, by weight; or, when that is more, of the part of
            their half round trips that the shortest one does not have: errors that are alike leave no residual.
        asymmetry_s: half the shortest round trip: limit of the constant error.
        rate_error: standard error of ``rate``.
        exchanges: how many were used.
        offset_error_s: standard error of ``at_s``: few or slow exchanges tell little of where the line ends.
        bends: pairs of a tick, and how much larger the rate is from there on than before; ascending.
    """

    at_tick: int
    at_s: float
    rate: float
    residual_s: float
    asymmetry_s: float
    rate_error: float
    exchanges: int
    offset_error_s: float = 0.0
    bends: tuple[tuple[int, float], ...] = ()

    @property
    def drift_ppm(self) -> float:
        """How much faster than the host the bridge's clock runs."""
        return (1 / self.rate - 1) * 1e6

    @property
    def limit_s(self) -> float:
        """Limit of the error of one mapped instant: asymmetry, residual and the fit's own error together."""
        return self.asymmetry_s + 2 * math.hypot(self.residual_s, self.offset_error_s)

    def host_s(self, tick: npt.NDArray[np.int64]) -> Floats:
        """Host time of ticks; int64 [N] to float64 [N]. Beyond the exchanges the outermost rates go on."""
        host_s: Floats = self.at_s + (tick - self.at_tick).astype(np.float64) * (TICK_S * self.rate)
        first = int(tick.min()) if len(tick) else 0
        for bend_tick, change in self.bends:
            if first < bend_tick:
                host_s += np.maximum(bend_tick - tick, 0) * (TICK_S * change)
        return host_s


class Alignment:
    """Exchanges of one boot of the bridge, newest last; the fit follows them."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []
        self._fit: ClockFit | None = None

    def __len__(self) -> int:
        return len(self._exchanges)

    def add(self, exchange: Exchange) -> None:
        """Take an exchange in; one that claims a negative round trip is impossible and is left out."""
        if exchange.back_s >= exchange.sent_s and exchange.rtt_s >= -2 * TICK_S:
            self._exchanges.append(exchange)
            self._fit = None
            if len(self._exchanges) > KEPT_EXCHANGES:
                self._thin()

    @property
    def fit(self) -> ClockFit | None:
        """The best line so far, None before the first exchange."""
        if self._fit is None and self._exchanges:
            self._fit = _fit(self._exchanges)
        return self._fit

    def _thin(self) -> None:
        """Of the older half keep the best one of each few seconds, and nothing that is older than the history."""
        since_s = self._exchanges[-1].sent_s - HISTORY_S
        kept = [exchange for exchange in self._exchanges if exchange.sent_s >= since_s]
        half = len(kept) // 2
        best: dict[int, Exchange] = {}
        for exchange in kept[:half]:
            known = best.setdefault(int(exchange.sent_s // SPARSE_S), exchange)
            if exchange.rtt_s < known.rtt_s:
                best[int(exchange.sent_s // SPARSE_S)] = exchange
        # Exchanges in quick succession leave more than that: the oldest go.
        self._exchanges = [*best.values(), *kept[half:]][-KEPT_EXCHANGES:]


def _fit(exchanges: list[Exchange]) -> ClockFit:
    rtt = np.array([exchange.rtt_s for exchange in exchanges])
    shortest = max(0.0, float(rtt.min()))
    cut = max(float(np.sort(rtt)[(len(rtt) - 1) // 3]), shortest + CLOSE_RTT_S)
    used = [exchange for exchange, wire_s in zip(exchanges, rtt, strict=True) if wire_s <= cut]
    wire = rtt[rtt <= cut]
    newest = used[-1]
    at_tick = (newest.received_tick + newest.answered_tick) // 2
    ticks = np.array([(e.received_tick - at_tick + e.answered_tick - at_tick) / 2 for e in used]) * TICK_S
    # Departure of the host's clock from nominal rate: small numbers, so that nothing is lost in rounding.
    at_s = (newest.sent_s + newest.back_s) / 2
    apart = np.array([(e.sent_s - at_s + e.back_s - at_s) / 2 for e in used]) - ticks
    # A midpoint is wrong by half its round trip at most. The shortest is common to all of them: a constant error.
    noise_s = np.maximum(LEAST_NOISE_S, shortest / 4 + (wire - shortest) / 2)
    knots = _knots(ticks)
    line = _Line(ticks, apart, noise_s, knots)
    half = (wire - shortest) / 2
    good = np.abs(line.residual) <= 3 * 1.4826 * np.median(np.abs(line.residual)) + TICK_S
    if 3 <= good.sum() < len(good):
        line = _Line(ticks[good], apart[good], noise_s[good], knots)
        half = half[good]
    residual_s = math.sqrt(max(float(line.weight @ line.residual**2), float(line.weight @ half**2)))
    bends = tuple((at_tick + round(knot / TICK_S), float(bend)) for knot, bend in zip(knots, line.bends, strict=True))
    return ClockFit(
        at_tick, at_s + line.offset, 1.0 + line.slope, residual_s, shortest / 2, line.slope_error,
        len(line.residual), line.offset_error_s, bends,
    )  # fmt: skip


def _knots(ticks: Floats) -> Floats:
    """Where the line may bend: each whole minute before the newest exchange that has one within a minute of it."""
    minutes = np.unique(np.floor(-ticks / BEND_EACH_S).astype(np.int64))
    near = np.unique(np.concatenate([minutes, minutes + 1]))
    knots: Floats = -near[(near >= 1) & (near <= int(-ticks[0] / BEND_EACH_S))][::-1].astype(np.float64) * BEND_EACH_S
    return knots


class _Line:
    """Weighted least squares with Gaussian priors: an offset and a slope at x = 0, the newest, and bends before it.

    Args:
        x, y, noise_s: float64 [N], seconds; ``noise_s`` is the standard error of each y.
        knots: float64 [K], where the line may bend, negative.
    """

    def __init__(self, x: Floats, y: Floats, noise_s: Floats, knots: Floats) -> None:
        columns = [np.ones(len(x)), x, *(np.maximum(knot - x, 0.0) for knot in knots)]
        design = np.stack(columns, axis=1) / noise_s[:, None]
        # The prior of the rate is about its mean over the time: here, of the newest part. Bends are small beside
        # it, and the variances of as many minutes in one add.
        minutes = np.diff(knots, append=0.0) / BEND_EACH_S
        prior = np.array([0.0, 1 / PRIOR_DRIFT, *(1 / (PRIOR_BEND * np.sqrt(minutes)))])
        inverse = np.linalg.inv(design.T @ design + np.diag(prior**2))
        found = inverse @ (design.T @ (y / noise_s))
        self.residual: Floats = y - design @ found * noise_s
        self.weight: Floats = noise_s**-2.0 / np.sum(noise_s**-2.0)
        self.offset, self.slope = float(found[0]), float(found[1])
        self.bends = found[2:]
        # Where residuals are larger than was thought, so are the errors.
        freedom = max(1, len(x) - 2)
        worse = max(1.0, math.sqrt(float(np.sum((self.residual / noise_s) ** 2)) / freedom))
        self.offset_error_s = worse * math.sqrt(float(inverse[0, 0]))
        # Within a minute the rate moves too.
        self.slope_error = min(PRIOR_DRIFT, math.hypot(LEAST_RATE_ERROR, worse * math.sqrt(float(inverse[1, 1]))))
