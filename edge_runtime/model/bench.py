"""Latency and joules of one prediction: let the board settle, warm up, measure, let it cool down.

1. *Rest*: the board idles, and its power is the baseline.
2. *Warm up*: predictions until the medians of the last :data:`GROUPS` groups differ by no more than :data:`SPREAD` of
   their mean, or a third of the time is over; then that is said.
3. *Measure*: predictions one after the other for the asked time, one window of the meter around all of them.
4. *Rest* again: between both rests idle power is a straight line, and is taken away
   (:meth:`edge_runtime.api.Window.net`).

Joules of a prediction are those of the window, less idle, divided by the predictions; so is the interval. Temperature
and throttling are looked at once a second: a board whose clock was held down is not the usual one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_runtime.api import Meter, Window
from edge_runtime.health.condition import Condition

__all__ = ["Benched", "bench"]

GROUPS, GROUP, SPREAD = 5, 8, 0.05
_REST_SHARE, _MOST_REST_S = 0.2, 10.0


@dataclass(frozen=True)
class Benched:
    """What came of it.

    Attributes:
        latencies_s: of each prediction, float64 [N].
        spread: of the medians of the last groups of the warm-up, relative; ``settled`` says whether it was small
            enough.
        seen: the board's condition, before, once a second, and after.
        window: around all predictions; ``before`` and ``after`` are the rests.
    """

    latencies_s: np.ndarray[Any, np.dtype[np.float64]]
    spread: float
    settled: bool
    seen: tuple[Condition, ...]
    window: Window
    before: Window
    after: Window

    def as_dict(self, version: str) -> dict[str, Any]:
        """JSON values, of schema ``edgejoule.bench/1``; an unknown figure is None."""
        count, net = len(self.latencies_s), self.window.net(self.before, self.after)
        p50, p90, p99 = (float(value) * 1e3 for value in np.percentile(self.latencies_s, (50, 90, 99)))
        heat = [condition.temperature_c for condition in self.seen if condition.temperature_c is not None]
        gross_j, interval = self.window.energy_j, net.interval_j
        return {
            "version": version,
            "predictions": count,
            "seconds": self.window.duration_s,
            "p50_ms": p50,
            "p90_ms": p90,
            "p99_ms": p99,
            "energy_j": None if net.energy_j is None else net.energy_j / count,
            "interval_j": None if interval is None else [value / count for value in interval],
            "gross_j": None if gross_j is None else gross_j / count,
            "idle_w": self.before.mean_w,
            "method": self.window.method,
            "sensor": self.window.sensor,
            "flags": list(net.flags) + ([] if self.settled else ["unsettled"]),
            "warm_up_spread": self.spread,
            "temperature_c": {
                "before": self.seen[0].temperature_c,
                "after": self.seen[-1].temperature_c,
                "highest": max(heat, default=None),
            },
            "throttled": any(condition.throttling.slowed for condition in self.seen),
            "under_voltage": any(condition.throttling.under_voltage for condition in self.seen),
        }


def bench(
    predict: Callable[[], object],
    meter: Meter,
    look: Callable[[], Condition],
    seconds: float,
    *,
    now_s: Callable[[], float] = time.perf_counter,
    rest: Callable[[float], None] = time.sleep,
) -> Benched:
    """Measure one kind of prediction for ``seconds``; rests and warm-up come on top.

    Args:
        predict: makes one prediction.
        meter: open.
        look: at the board; costs nothing when asked often.
    """
    rest_s = min(_MOST_REST_S, _REST_SHARE * seconds)
    seen = [look()]
    with meter.window("rest") as before:
        rest(rest_s)
    spread, settled = _warm_up(predict, seconds / 3, now_s)
    latencies: list[float] = []
    with meter.window("infer") as window:
        end_s, look_s = now_s() + seconds, now_s() + 1.0
        begun_s = now_s()
        while begun_s < end_s or not latencies:
            predict()
            done_s = now_s()
            latencies.append(done_s - begun_s)
            begun_s = done_s
            if done_s >= look_s:
                seen.append(look())
                begun_s = now_s()
                look_s = begun_s + 1.0
    with meter.window("rest") as after:
        rest(rest_s)
    seen.append(look())
    return Benched(np.array(latencies), spread, settled, tuple(seen), window, before, after)


def _warm_up(predict: Callable[[], object], most_s: float, now_s: Callable[[], float]) -> tuple[float, bool]:
    medians: list[float] = []
    end_s = now_s() + most_s
    while True:
        group = []
        for _ in range(GROUP):
            begun_s = now_s()
            predict()
            group.append(now_s() - begun_s)
        medians = [*medians, float(np.median(group))][-GROUPS:]
        spread = (max(medians) - min(medians)) / (sum(medians) / len(medians)) if sum(medians) else 0.0
        if len(medians) == GROUPS and spread <= SPREAD:
            return spread, True
        if now_s() >= end_s:
            return spread, False
