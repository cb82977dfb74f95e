"""What a trace says of a set of intervals: joules, coverage, and what the lines of the budget need to know."""

from __future__ import annotations

import numpy as np

from protos.energy.trace import UNUSABLE, Floats, PowerTrace, SampleFlag
from protos.energy.trace_splitting import between, cut_samples, measure_before, stepped
from protos.energy.uncertainty import ErrorModel, IntervalSummary

__all__ = ["examine", "unusable_bits"]

ROUGH_SHARE = 0.45
"""Mean of the smaller of two successive squared differences of white noise, in parts of the mean square difference."""
BLOCK = 8
"""Samples that are looked at together, to see errors that take each other away."""
OSCILLATOR_LIMIT = 0.13
"""A sensor's clock is within 10 % of nominal (SBOS448); and a little for dither."""
ALIKE_ERRORS = 1.5
"""Allowance for errors of neighbouring samples that are alike, since dither is not complete disorder."""


def examine(
    clean: PowerTrace, start_s: Floats, stop_s: Floats, errors: ErrorModel, halves: PowerTrace | None = None
) -> tuple[IntervalSummary, int]:
    """Sum a trace over disjoint ascending intervals.

    Args:
        clean: disjoint samples in order (:meth:`PowerTrace.disjoint`).
        start_s: float64 [M].
        stop_s: float64 [M], none before its start.
        errors: the chain; tells for how long each sample was looked at.
        halves: the trace as :func:`protos.energy.trace_splitting.stepped` at all edges of the whole, made here from
            these edges if None. Give the same to all parts of a whole, so that they add up to it.

    Returns:
        What is known of the time in the intervals, and the flags of every sample that touches them, or-ed.
    """
    # Intervals that touch are one: no energy leaves the set there.
    apart = start_s[1:] > stop_s[:-1]
    start_s = start_s[np.concatenate([[True], apart])]
    stop_s = stop_s[np.concatenate([apart, [True]])]
    edges = np.column_stack([start_s, stop_s]).ravel()
    halves = stepped(clean, edges) if halves is None else halves
    energy_j = float(between(halves, halves.power_w, edges)[::2].sum())
    covered_s = float(between(clean, np.ones(len(clean)), edges)[::2].sum())
    duration_s = float((stop_s - start_s).sum())
    uncovered_s = max(0.0, duration_s - covered_s)
    first, last = np.searchsorted(clean.stop_s, edges[0], "right"), np.searchsorted(clean.start_s, edges[-1], "left")
    # Neighbours on both sides are looked at too.
    low, high = max(0, first - 2), min(len(clean), last + 2)
    part = slice(low, high)
    near = PowerTrace(clean.start_s[part], clean.stop_s[part], clean.power_w[part], clean.flags[part])
    inside_s = measure_before(start_s, stop_s, near.stop_s) - measure_before(start_s, stop_s, near.start_s)
    mine = inside_s > 0
    if not mine.any() or covered_s <= 0:
        return IntervalSummary(energy_j, covered_s, uncovered_s), 0
    power, bits = near.power_w[mine], near.flags[mine]
    weight_s = inside_s[mine]
    mean_w = float(weight_s @ power) / float(weight_s.sum())
    spread_w = float(weight_s @ (power - mean_w) ** 2 / weight_s.sum()) ** 0.5
    width, unseen_s, count = _looks(near, errors)
    rough, step = _roughness(near.power_w)
    rough = rough * _remaining(power)
    # A sample's own part in the sums, where only a part of it lies inside.
    share = inside_s / width
    variance = ALIKE_ERRORS**2 * unseen_s / count * (width * rough + unseen_s * step)
    cut_ws = _cuts(clean, edges)
    flags = int(np.bitwise_or.reduce(bits))
    return (
        IntervalSummary(
            energy_j=energy_j,
            covered_s=covered_s,
            uncovered_s=uncovered_s,
            spread_w=spread_w,
            peak_w=float(power.max()),
            low_w=float(power.min()),
            alike=_alike(power, weight_s),
            cut_ws=float(np.sqrt(np.sum(cut_ws**2))),
            cut_sum_ws=float(cut_ws.sum()),
            sync_w=_shifted(clean, start_s, stop_s),
            unseen_w2s2=float(share @ variance),
            unseen_s=float(share @ unseen_s),
            swing_ws=float(share @ (unseen_s * _swing(near.power_w))),
            squared_s2=float(share @ (width**2 / count)),
            samples=int(mine.sum()),
            clipped=bool(flags & (SampleFlag.CLIPPED | SampleFlag.OVERFLOW)),
        ),
        flags,
    )


def unusable_bits(trace: PowerTrace, start_s: Floats, stop_s: Floats) -> int:
    """Flags of the samples that cover no time, or-ed over those that touch one of the intervals.

    Args:
        trace: samples in any order.
        start_s: float64 [M].
        stop_s: float64 [M], none before its start.
    """
    bad = (trace.flags & UNUSABLE) != 0
    if not bad.any():
        return 0
    begin_s, end_s, bits = trace.start_s[bad, None], trace.stop_s[bad, None], trace.flags[bad]
    touched = ((begin_s < stop_s) & (end_s > start_s)).any(axis=1)
    return int(np.bitwise_or.reduce(bits[touched])) if touched.any() else 0


def _looks(near: PowerTrace, errors: ErrorModel) -> tuple[Floats, Floats, Floats]:
    """Per sample: its seconds, those of them in which the shunt was not looked at, how many conversions it stands for.

    With a known time per conversion a sample that spans two periods (a conversion missed) was seen for half as long.
    """
    width = near.stop_s - near.start_s
    whole = (near.flags & SampleFlag.RECOVERED) == 0
    usual_s = float(np.median(width[whole])) if whole.any() else errors.shunt_s or 1.0
    count = np.where(whole, 1.0, np.maximum(1.0, np.round(width / usual_s)))
    if errors.shunt_s > 0:
        look_s = errors.shunt_s * _pace(width[whole], errors)
        return width, np.maximum(0.0, width - np.minimum(look_s, width / count) * count), count
    return width, (1.0 - errors.duty) * width, count


def _pace(width: Floats, errors: ErrorModel) -> float:
    """The sensor's own clock: its conversion time over the nominal one, as the sample tells it that one of ten is
    quicker than: a conversion that is missed makes samples longer.

    1 where samples are not as far apart as conversions: a sensor that is polled, or that misses some.
    """
    if len(width) < BLOCK:
        return 1.0
    pace = float(np.percentile(width, 10)) * errors.duty / errors.shunt_s
    return pace if abs(pace - 1) <= OSCILLATOR_LIMIT else 1.0


def _roughness(power: Floats) -> tuple[Floats, Floats]:
    """Per sample: variance of a load faster than samples, and half the squared step to its neighbours; W^2.

    A step between two levels shows in one difference, or in two that share it; noise shows in every one. So the
    smaller of a sample's two differences tells the one from the other.
    """
    if len(power) < 2:
        return np.zeros(len(power)), np.zeros(len(power))
    squares = np.diff(power) ** 2
    left, right = np.concatenate([squares[:1], squares]), np.concatenate([squares, squares[-1:]])
    return np.minimum(left, right) / (2 * ROUGH_SHARE), (left + right) / 4


def _swing(power: Floats) -> Floats:
    """Per sample: mean of the differences to its two neighbours, W."""
    jumps = np.abs(np.diff(power)) if len(power) > 1 else np.zeros(1)
    return np.asarray((np.concatenate([[0.0], jumps]) + np.concatenate([jumps, [0.0]]))[: len(power)] / 2, np.float64)


def _remaining(power: Floats) -> float:
    """At most 1: by how much errors of neighbours take each other away, in parts of the variance.

    A load of about twice the period of the samples swings from one to the next, and little remains over a few of them.
    """
    blocks = len(power) // BLOCK
    if blocks < 4:
        return 1.0
    each, together = _roughness(power)[0], _roughness(power[: blocks * BLOCK].reshape(-1, BLOCK).mean(axis=1))[0]
    alone = float(each.mean())
    return min(1.0, BLOCK * float(together.mean()) / alone) if alone > 0 else 1.0


def _alike(power: Floats, weight_s: Floats) -> float:
    """Root of the sum of squared shares of time at one and the same reading, 0 to 1."""
    _, which = np.unique(power, return_inverse=True)
    shares = np.bincount(which, weight_s) / weight_s.sum()
    return float(np.sqrt(shares @ shares))


def _cuts(clean: PowerTrace, edges: Floats) -> Floats:
    """Per edge: range of power around the sample it cuts times the sample's duration, Ws; 0 where it cuts none."""
    at = cut_samples(clean, edges)
    at = at[at >= 0]
    if not len(at):
        return np.zeros(0)
    powers = clean.power_w[np.clip(np.stack([at - 1, at, at + 1]), 0, len(clean) - 1)]
    return np.asarray((powers.max(axis=0) - powers.min(axis=0)) * (clean.stop_s[at] - clean.start_s[at]), np.float64)


def _shifted(clean: PowerTrace, start_s: Floats, stop_s: Floats) -> float:
    """Energy per second that a small shift of all edges together moves into the set or out of it, W.

    One error of the clock mapping holds for all edges. A load that steps at the edges has another power before than
    after; the larger of both sums counts.
    """

    def power(t_s: Floats, side: int) -> Floats:
        if side < 0:
            at = np.searchsorted(clean.stop_s, t_s, "right") - 1
        else:
            at = np.searchsorted(clean.start_s, t_s, "left")
        return clean.power_w[np.clip(at, 0, len(clean) - 1)]

    return max(abs(float((power(start_s, side) - power(stop_s, side)).sum())) for side in (-1, 1))
