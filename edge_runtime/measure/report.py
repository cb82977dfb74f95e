"""A measurement as figures: one JSON document, or lines for people. Unknown is null, or ``?``."""

from __future__ import annotations

from typing import Any

from edge_runtime.measure.measurement import Measurement
from edge_runtime.measure.period import MeasuredPeriod
from protos.energy.baseline import Baseline, IdleReading, NetEnergy, net_of
from protos.energy.interval import Interval
from protos.energy.trace import PhaseEnergy

__all__ = ["document", "known", "lines", "net"]


def document(result: Measurement) -> dict[str, Any]:
    """The figures by name; unknown ones are None."""
    energy = result.main.energy
    return {
        "schema": "edgejoule.measurement/1",
        "energy_j": energy.energy_j,
        "uncertainty_j": energy.uncertainty_j,
        "coverage_factor": energy.coverage_factor,
        "worst_case_j": energy.worst_case_j,
        "mean_w": _mean_w(energy),
        "peak_w": result.main.peak_w,
        "duration_s": _duration_s(energy),
        "covered_s": energy.covered_s,
        "uncovered_s": energy.uncovered_s,
        "coverage": energy.coverage,
        "method": energy.method,
        "sensor": energy.sensor,
        "calibration_id": result.identity.calibration_id,
        "quality": result.identity.quality,
        "flags": list(energy.flags),
        "budget": {term.name: term.standard_j for term in energy.budget},
        "baseline": _baseline(result),
        "ended_by": result.ended,
        "command": None if result.command is None else list(result.command),
        "exit_code": result.exit_code,
    }


def lines(result: Measurement) -> list[str]:
    """The figures, one a line; at most 80 columns but for names."""
    energy = result.main.energy
    worst = "" if energy.worst_case_j is None else f", worst case {energy.worst_case_j:.2g} J"
    text = [
        f"energy    {known(energy.energy_j, '.4g')} J ± {known(energy.uncertainty_j, '.2g')} J (95 %){worst}",
        f"mean      {known(_mean_w(energy), '.4g')} W",
        f"peak      {known(result.main.peak_w, '.4g')} W",
        *_net_lines(result),
        f"time      {_duration_s(energy):.3f} s, {energy.coverage:.1%} covered",
        f"method    {energy.method} ({result.identity.quality})",
        f"sensor    {energy.sensor}",
        f"flags     {', '.join(energy.flags) or 'none'}",
    ]
    if result.command is not None:
        text.append(f"command   ended with {result.exit_code}")
    return text


def known(value: float | None, form: str) -> str:
    """A figure in a format, ``?`` when it is not known."""
    return "?" if value is None else format(value, form)


def net(result: Measurement) -> NetEnergy | None:
    """The energy less that of the board at rest; None without a baseline, or when one of the figures is unknown."""
    readings = []
    for period in (result.before, result.after):
        if period is None:
            continue
        try:
            readings.append(IdleReading.of_figure(period.energy, period.start_s, period.stop_s))
        except ValueError:
            return None
    main, energy = result.main, result.main.energy
    if not readings or energy.energy_j is None:
        return None
    baseline = Baseline(*readings)
    return net_of(energy.energy_j, energy.budget, baseline, main.start_s, main.stop_s, covered_s=energy.covered_s)


def _interval(result: Measurement, left: NetEnergy | None) -> Interval | None:
    """How wrong the net energy may be; None when one of the figures in it cannot be bounded."""
    bounded = all(period.energy.uncertainty_j is not None for period in result.periods)
    return left.interval if left is not None and bounded else None


def _baseline(result: Measurement) -> dict[str, Any] | None:
    if result.before is None:
        return None
    left = net(result)
    interval = _interval(result, left)
    return {
        "net_j": left.energy_j if left else None,
        "net_uncertainty_j": interval.expanded_j if interval else None,
        "net_worst_case_j": interval.worst_case_j if interval else None,
        "idle_j": left.idle_j if left else None,
        "budget": {term.name: term.standard_j for term in left.budget} if left and interval else {},
        "flags": [] if result.after else ["one-baseline"],
        "before": _idle(result.before),
        "after": _idle(result.after),
    }


def _idle(period: MeasuredPeriod | None) -> dict[str, Any] | None:
    if period is None:
        return None
    energy = period.energy
    return {
        "mean_w": _mean_w(energy),
        "energy_j": energy.energy_j,
        "uncertainty_j": energy.uncertainty_j,
        "duration_s": _duration_s(energy),
        "coverage": energy.coverage,
        "flags": list(energy.flags),
    }


def _net_lines(result: Measurement) -> list[str]:
    if result.before is None:
        return []
    left = net(result)
    interval = _interval(result, left)
    spread = "?" if interval is None else f"{interval.expanded_j:.2g}"
    worst = "" if interval is None else f", worst case {interval.worst_case_j:.2g} J"
    after = "" if result.after is None else f", {known(_mean_w(result.after.energy), '.4g')} W after"
    return [
        f"net       {known(left.energy_j if left else None, '.4g')} J ± {spread} J (95 %){worst}",
        f"idle      {known(_mean_w(result.before.energy), '.4g')} W before{after}",
    ]


def _duration_s(energy: PhaseEnergy) -> float:
    return energy.covered_s + energy.uncovered_s


def _mean_w(energy: PhaseEnergy) -> float | None:
    """Mean power of the covered seconds."""
    if energy.energy_j is None or energy.covered_s <= 0:
        return None
    return energy.energy_j / energy.covered_s
