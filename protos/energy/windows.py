"""Named windows over a power trace: they may nest and overlap, and each is summed by itself.

Rules kept here:

* A window's joules depend on nothing but the samples in it: what other windows there are does not matter.
* Coverage below 0.99 is flagged ``degraded``; below 0.9 there is no figure, and that is ``None``.
* Samples that are not usable cover no time; a sum that is negative beyond the zero's error is no figure.
* A clipped or overflown sample leaves a figure with that flag, and no uncertainty.
* Idle energy is subtracted in :mod:`protos.energy.baseline`, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protos.energy.attribution import MINIMUM_COVERAGE, is_reversed, sample_words
from protos.energy.baseline import Baseline, NetEnergy, net_of
from protos.energy.interval import add_terms, combine
from protos.energy.interval_summary import examine, unusable_bits
from protos.energy.trace import UNUSABLE, Method, PowerTrace, SampleFlag, covered_share
from protos.energy.uncertainty import ErrorModel, UncertaintyTerm

__all__ = ["Window", "WindowEnergy", "WindowSums", "judge_window", "sum_window", "sum_windows", "window_energies"]

_NEIGHBOURS = 4


@dataclass(frozen=True, slots=True)
class Window:
    """A name for the time from ``start_s`` to ``stop_s``. Names may repeat."""

    name: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class WindowSums:
    """Sums of a window before judgement; those of successive stretches can be added."""

    energy_j: float
    covered_s: float
    uncovered_s: float
    max_w: float | None
    samples: int
    bits: int
    terms: tuple[UncertaintyTerm, ...]

    def __add__(self, other: WindowSums) -> WindowSums:
        peaks = [peak for peak in (self.max_w, other.max_w) if peak is not None]
        return WindowSums(
            self.energy_j + other.energy_j,
            self.covered_s + other.covered_s,
            self.uncovered_s + other.uncovered_s,
            max(peaks, default=None),
            self.samples + other.samples,
            self.bits | other.bits,
            add_terms(self.terms, other.terms),
        )


@dataclass(frozen=True, slots=True)
class WindowEnergy:
    """The energy of one window, with what one must know to believe it.

    Args:
        name: the window's.
        start_s, stop_s: its time.
        gross_j: joules seen in the covered seconds; None when there is no figure.
        net: the same less idle; None without a baseline or a figure.
        covered_s, uncovered_s: seconds with and without samples.
        mean_w: gross power over the covered seconds; None without a figure.
        max_w: largest sample that touches the window; None without one.
        samples: how many touch it.
        method: ``measured``, ``estimated`` or ``unknown``.
        flags: ``degraded``, ``clipped`` and the like; empty when all is well.
        uncertainty_j: half width of the 95 % interval of ``gross_j``; None when it cannot be bounded.
        worst_case_j: sum of the limits of all errors; None alike.
        coverage_factor: ``k`` of the interval; None alike.
        budget: the lines behind it.
    """

    name: str
    start_s: float
    stop_s: float
    gross_j: float | None
    net: NetEnergy | None
    covered_s: float
    uncovered_s: float
    mean_w: float | None
    max_w: float | None
    samples: int
    method: Method
    flags: tuple[str, ...]
    uncertainty_j: float | None
    worst_case_j: float | None
    coverage_factor: float | None
    budget: tuple[UncertaintyTerm, ...]

    @property
    def duration_s(self) -> float:
        """Seconds from start to stop."""
        return self.stop_s - self.start_s

    @property
    def net_j(self) -> float | None:
        """Joules less idle, None when not known."""
        return self.net.energy_j if self.net else None

    @property
    def coverage(self) -> float:
        """Covered share of the window, 0 to 1; a window of no duration is covered."""
        return covered_share(self.covered_s, self.uncovered_s)


def sum_window(trace: PowerTrace, start_s: float, stop_s: float, errors: ErrorModel | None = None) -> WindowSums:
    """Sum a trace from ``start_s`` to ``stop_s``, which is not before it."""
    return next(sum_windows(trace, [(start_s, stop_s)], errors))


def sum_windows(
    trace: PowerTrace, spans: Iterable[tuple[float, float]], errors: ErrorModel | None = None
) -> Iterator[WindowSums]:
    """Sum a trace over each of several spans, start and stop, which may overlap; what holds for all is done once."""
    model = errors or ErrorModel()
    clean = trace.usable().disjoint()
    unusable = (trace.flags & UNUSABLE) != 0
    bad = PowerTrace(trace.start_s[unusable], trace.stop_s[unusable], trace.power_w[unusable], trace.flags[unusable])
    for start_s, stop_s in spans:
        edges = np.array([start_s]), np.array([stop_s])
        # Nothing but the samples inside and their neighbours counts: the rest need not be walked through.
        low = max(0, int(np.searchsorted(clean.stop_s, start_s, "right")) - _NEIGHBOURS)
        near = slice(low, int(np.searchsorted(clean.start_s, stop_s, "left")) + _NEIGHBOURS)
        part = PowerTrace(clean.start_s[near], clean.stop_s[near], clean.power_w[near], clean.flags[near])
        stretch, bits = examine(part, *edges, model)
        bits |= unusable_bits(bad, *edges)
        yield WindowSums(
            stretch.energy_j,
            stretch.covered_s,
            stretch.uncovered_s,
            stretch.peak_w if stretch.samples else None,
            stretch.samples,
            bits,
            model.terms(stretch),
        )


def judge_window(
    window: Window,
    sums: WindowSums,
    *,
    baseline: Baseline | None = None,
    method: Method = "measured",
    flags: Iterable[str] = (),
    minimum_coverage: float = MINIMUM_COVERAGE,
) -> WindowEnergy:
    """Decide whether sums are a figure, and subtract idle."""
    coverage = covered_share(sums.covered_s, sums.uncovered_s)
    backwards = is_reversed(sums.energy_j, sums.terms)
    known = method != "unknown" and coverage >= minimum_coverage and not backwards
    bounded = known and not sums.bits & (SampleFlag.CLIPPED | SampleFlag.OVERFLOW)
    words = [*flags, *sample_words(coverage, sums.bits, backwards=backwards)]
    interval = combine(sums.terms) if bounded else None
    net = None
    if known and baseline is not None:
        net = net_of(
            sums.energy_j, sums.terms, baseline, window.start_s, window.stop_s, covered_s=sums.covered_s
        )  # fmt: skip
        if baseline.after is None:
            words.append("one-baseline")
    return WindowEnergy(
        name=window.name,
        start_s=window.start_s,
        stop_s=window.stop_s,
        gross_j=sums.energy_j if known else None,
        net=net,
        covered_s=sums.covered_s,
        uncovered_s=sums.uncovered_s,
        mean_w=sums.energy_j / sums.covered_s if known and sums.covered_s > 0 else None,
        max_w=sums.max_w,
        samples=sums.samples,
        method=method if known else "unknown",
        flags=tuple(dict.fromkeys(words)),
        uncertainty_j=interval.expanded_j if interval else None,
        worst_case_j=interval.worst_case_j if interval else None,
        coverage_factor=interval.coverage_factor if interval else None,
        budget=sums.terms if bounded else (),
    )


def window_energies(
    trace: PowerTrace,
    windows: Sequence[Window],
    *,
    errors: ErrorModel | None = None,
    baseline: Baseline | None = None,
    method: Method = "measured",
) -> list[WindowEnergy]:
    """The energy of each window, in the order given.

    >>> trace = PowerTrace.of([0, 1, 2], [1, 2, 3], [2.0, 4.0, 2.0])
    >>> both = window_energies(trace, [Window("round", 0.0, 3.0), Window("train", 1.0, 2.0)])
    >>> [(part.name, part.gross_j, part.max_w) for part in both]
    [('round', 8.0, 4.0), ('train', 4.0, 4.0)]
    """
    clean = trace.disjoint()
    return [
        judge_window(window, sum_window(clean, window.start_s, window.stop_s, errors), baseline=baseline, method=method)
        for window in windows
    ]
