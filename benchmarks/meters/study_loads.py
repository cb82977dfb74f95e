"""Loads for the studies of the metering: each knows its joules exactly, and is drawn from a seeded generator."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Rng = np.random.Generator
FIRST_S, LAST_S = 100.0, 108.0
"""The time that is studied."""
SPAN_S = (FIRST_S - 1.0, LAST_S + 1.0)
"""The time for which a load is known."""


class SteppedLoad:
    """Constant power between knots; ``power_w`` has one entry fewer than ``times_s``."""

    known_from_s = float("-inf")

    def __init__(self, times_s: Floats, power_w: Floats) -> None:
        self.times_s, self.power_w = times_s, power_w
        self._joules = np.concatenate([[0.0], np.cumsum(np.diff(times_s) * power_w)])

    def poll(self, now_s: float) -> None:
        return None

    def energy_j(self, t_s: Any) -> Floats:
        """Joules up to each instant within the knots."""
        return np.asarray(np.interp(t_s, self.times_s, self._joules), np.float64)


def constant(rng: Rng) -> SteppedLoad:
    return SteppedLoad(np.array(SPAN_S), np.array([rng.uniform(0.5, 10)]))


def square(rng: Rng) -> SteppedLoad:
    """Two levels; periods from 1 ms to 1 s, any duty and phase."""
    period_s, duty = 10 ** rng.uniform(-3, 0), rng.uniform(0.1, 0.9)
    starts = np.arange(SPAN_S[0] - rng.uniform(0, period_s), SPAN_S[1] + period_s, period_s)
    times = np.column_stack([starts, starts + duty * period_s]).ravel()
    return SteppedLoad(times, np.tile([rng.uniform(4, 10), rng.uniform(0.5, 4)], len(starts))[:-1])


def ramps(rng: Rng) -> SteppedLoad:
    """Straight lines between random powers, in steps of 0.5 ms."""
    times = np.arange(SPAN_S[0], SPAN_S[1], 5e-4)
    corners = np.sort(rng.uniform(*SPAN_S, rng.integers(3, 40)))
    return SteppedLoad(times, np.interp(times[:-1], corners, rng.uniform(0.5, 10, len(corners))))


def bursts(rng: Rng) -> SteppedLoad:
    """Idle, with work of random length at random times: an inference, a step of training, a packet."""
    mean_s = 10 ** rng.uniform(-3, -0.5)
    edges = SPAN_S[0] + np.cumsum(rng.exponential(mean_s, int(2.5 * (SPAN_S[1] - SPAN_S[0]) / mean_s) + 40))
    times = np.concatenate([[SPAN_S[0]], edges])
    idle_w = rng.uniform(0.5, 4)
    power = np.where(np.arange(len(edges)) % 2, idle_w + rng.uniform(0.5, 6, len(edges)), idle_w)
    return SteppedLoad(times, power)


def wandering(rng: Rng) -> SteppedLoad:
    """A board at work: a slow drift, a fast jitter, levels that hold for a while; 1 kHz, like a recording."""
    times = np.arange(SPAN_S[0], SPAN_S[1], 1e-3)
    levels = rng.uniform(2, 7, 1 + len(times) // 50)[np.cumsum(rng.random(len(times)) < 0.01)]
    jitter = rng.gamma(2.0, rng.uniform(0.05, 0.5), len(times))
    return SteppedLoad(times, (levels + jitter)[:-1])


def recorded(rng: Rng) -> SteppedLoad:
    """A piece of a published 1 kHz trace, scaled to a board's watts; :func:`wandering` where there is none."""
    traces = _traces()
    if not traces:
        return wandering(rng)
    whole = traces[rng.integers(len(traces))]
    times = np.arange(SPAN_S[0], SPAN_S[1], 1e-3)
    first = rng.integers(0, len(whole) - len(times))
    piece = whole[first : first + len(times) - 1]
    return SteppedLoad(times, rng.uniform(1, 3) + piece * (rng.uniform(1, 4) / whole.mean()))


LOADS: dict[str, Callable[[Rng], SteppedLoad]] = {
    "constant": constant,
    "square": square,
    "ramps": ramps,
    "bursts": bursts,
    "wandering": wandering,
    "recorded": recorded,
}


def _traces() -> list[Floats]:
    """Powers of the reference recordings (MLPerf Tiny), W at 1 kHz; none where the reference data are not there."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("EDGEJOULE_REFERENCE_DATA") or beside) / "power_traces" / "mlperf_tiny_1khz"
    if not _TRACES and folder.is_dir():
        for path in sorted(folder.rglob("*-energy.bin"))[:6]:
            _TRACES.append(np.frombuffer(path.read_bytes()[5:], "<f4").astype(np.float64) * 1e-3)
    return [trace for trace in _TRACES if len(trace) > 2e4]


_TRACES: list[Floats] = []
