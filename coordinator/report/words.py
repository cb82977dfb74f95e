"""Figures as a report prints them. One that is not known is `?`; one that has nothing to measure is `-`."""

from __future__ import annotations

import time

from coordinator.operator.tables import UNKNOWN, joules, percent
from coordinator.report.joules import JouleSum

__all__ = ["bytes_", "counted", "day", "of_score", "seconds", "sum_of", "with_width"]


def with_width(value: float | None, half_width: float | None) -> str:
    """Joules with the half width of their interval.

    >>> with_width(12.34, 0.5), with_width(12.34, None), with_width(None, None)
    ('12.3 ± 0.5', '12.3', '?')
    """
    if value is None:
        return UNKNOWN
    return joules(value) if half_width is None else f"{joules(value)} ± {half_width:.2g}"


def sum_of(total: JouleSum) -> str:
    """A sum; where records are unknown, that it is a bound from below.

    >>> sum_of(JouleSum()), sum_of(JouleSum(known_j=2.0, known=1, unknown=3, unbounded=1))
    ('-', '≥ 2 (3 unknown)')
    """
    if not total.known and not total.unknown:
        return "-"
    if not total.known:
        return UNKNOWN
    said = with_width(total.known_j, total.uncertainty_j)
    return f"≥ {said} ({total.unknown} unknown)" if total.unknown else said


def of_score(measure: str, value: float | None) -> str:
    """A score in its own way: per cent of accuracy, others as they are."""
    if measure == "accuracy":
        return percent(value)
    return "-" if value is None else f"{value:.4f}"


def bytes_(count: int) -> str:
    """Bytes for people, powers of ten.

    >>> bytes_(999), bytes_(12_345), bytes_(3_000_000)
    ('999 B', '12.3 kB', '3.00 MB')
    """
    size, unit = float(count), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, bigger
    return f"{count} B" if unit == "B" else f"{size:.3g} {unit}" if size < 99.95 and size >= 10 else _three(size, unit)


def _three(size: float, unit: str) -> str:
    return f"{size:.2f} {unit}" if size < 10 else f"{size:.0f} {unit}"


def counted(counts: dict[str, int]) -> str:
    """Counts by name, or `-`.

    >>> counted({"late": 2, "missing": 1})
    '2 late, 1 missing'
    """
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "-"


def seconds(value: float | None) -> str:
    """Seconds, or minutes and hours of them.

    >>> seconds(None), seconds(12.3), seconds(3700)
    ('-', '12.3 s', '1 h 2 min')
    """
    if value is None:
        return "-"
    if value < 120:
        return f"{value:.1f} s"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def day(unix_s: float | None) -> str:
    """An instant with its zone, the same on every machine."""
    return "-" if unix_s is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix_s))
