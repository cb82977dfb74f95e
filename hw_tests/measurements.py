"""What a test measured: a name, a value, a unit, a limit, and whether the value is inside.

A test calls the fixture ``measure``::

    def test_the_bridge_is_quick(bridge, bench, measure):
        measure("hello", asked_s, "s", limit=bench.tolerance("hello_s"), uncertainty=0.001)

A value beyond its limit fails the test when its body has ended, so that what comes behind it is measured as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from protos.atomic import write_whole

__all__ = ["SCHEMA", "Limit", "Measure", "Measurement", "Measurements", "file_name", "inside", "table", "write_rows"]

SCHEMA = 1
"""Of measurements.json; a new number when a field changes its meaning or goes away."""

Limit = float | tuple[float | None, float | None] | None
"""The most that the magnitude may be; or the least and the most, None being open; or no limit at all."""
Measure = Callable[..., "Measurement"]
"""``measure(name, value, unit, limit=None, uncertainty=None)``."""

WIDTH = 80
_NAME_WIDTH = 35


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row.

    Args:
        test: node id of the test.
        name: of the quantity, unique within its test.
        value: None when it is not known.
        unit: as printed: "J", "s", and "1" for a ratio or a count.
        limit: see :data:`Limit`.
        uncertainty: half width of the 95 % interval of ``value``; None when it is not known.
        passed: whether ``value`` is inside; None without a limit.
    """

    test: str
    name: str
    value: float | None
    unit: str
    limit: Limit = None
    uncertainty: float | None = None
    passed: bool | None = None


def inside(value: float | None, limit: Limit) -> bool | None:
    """Whether a value keeps its limit; None without a limit. What is not known, or no number, keeps none.

    >>> inside(-0.2, 0.25), inside(3, (1, None)), inside(None, 0.25), inside(7, None)
    (True, True, False, None)
    """
    if limit is None:
        return None
    if value is None or not math.isfinite(value):
        return False
    if isinstance(limit, tuple):
        least, most = limit
        return (least is None or value >= least) and (most is None or value <= most)
    return abs(value) <= limit


@dataclass
class Measurements:
    """The rows of one test."""

    test: str
    rows: list[Measurement] = field(default_factory=list)

    def __call__(
        self,
        name: str,
        value: float | None,
        unit: str,
        limit: Limit | Sequence[float | None] = None,
        uncertainty: float | None = None,
    ) -> Measurement:
        """Note a value; returns its row.

        Raises:
            ValueError: the name is taken, a limit is no limit, or an uncertainty is negative.
        """
        if any(row.name == name for row in self.rows):
            raise ValueError(f"{self.test} has measured {name!r} already")
        bound = _bound(limit)
        if uncertainty is not None and not 0 <= uncertainty < math.inf:
            raise ValueError(f"{name!r}: uncertainty {uncertainty} is negative, or no number")
        number = None if value is None else float(value)
        known = None if uncertainty is None else float(uncertainty)
        row = Measurement(self.test, name, number, unit, bound, known, inside(number, bound))
        self.rows.append(row)
        return row

    @property
    def failures(self) -> list[Measurement]:
        """Rows beyond their limits."""
        return [row for row in self.rows if row.passed is False]

    def verdict(self) -> str | None:
        """What is beyond its limit, in words; None when nothing is."""
        said = [f"{row.name} is {_number(row.value)} {row.unit}, {_limit(row.limit)} allowed" for row in self.failures]
        return "; ".join(said) or None


def write_rows(path: Path, session: Mapping[str, Any], rows: Sequence[Measurement]) -> None:
    """Write the file whole: ``schema``, ``session``, and ``measurements``, a list of rows.

    Raises:
        OSError: it cannot be written.
    """
    document = {"schema": SCHEMA, "session": session, "measurements": [_plain(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as file:
        file.write(json.dumps(document, indent=1, allow_nan=False).encode() + b"\n")


def file_name(test: str) -> str:
    """A name for the files of a test, which holds for every file system.

    >>> file_name("hw_tests/test_hw_soak.py::test_it[energy 1]")
    'test_hw_soak.test_it-energy-1'
    """
    path, _, rest = test.partition("::")
    whole = f"{Path(path).stem}.{rest}" if rest else Path(path).stem
    return re.sub(r"[^\w.]+", "-", whole).strip("-")[:150]


def table(rows: Sequence[Measurement]) -> list[str]:
    """Lines of at most 80 columns: name, value, uncertainty, unit, limit, verdict; a heading for each test.

    >>> print(*table([Measurement("hw_tests/test_hw_a.py::test_b", "rate", 193.2, "Hz", (180, None), 0.5)]), sep="\\n")
    test_hw_a.test_b
      rate                                     193.2 +-0.5     Hz    >= 180
    """
    lines: list[str] = []
    last = None
    for row in rows:
        if row.test != last:
            last = row.test
            lines.append(_heading(file_name(row.test)))
        name = row.name if len(row.name) <= _NAME_WIDTH else row.name[: _NAME_WIDTH - 1] + "~"
        verdict = {True: "", False: "  FAIL", None: ""}[row.passed]
        unit = "" if row.unit == "1" else row.unit
        spread = f"+-{row.uncertainty:.2g}" if row.uncertainty else ""
        value = f"{_number(row.value):>10} {spread:<9} {unit:<5}"
        line = f"  {name:<{_NAME_WIDTH}} {value} {_limit(row.limit)}".rstrip()
        lines.append(line[: WIDTH - len(verdict)] + verdict)
    return lines


def _bound(limit: Limit | Sequence[float | None]) -> Limit:
    if limit is None:
        return None
    if isinstance(limit, (int, float)):
        if not 0 <= limit < math.inf:
            raise ValueError(f"{limit} is no limit of a magnitude: give a number from 0 on, or (least, most)")
        return float(limit)
    try:
        least, most = (None if value is None else float(value) for value in limit)
    except (TypeError, ValueError) as cause:
        raise ValueError(f"{limit!r} is no limit: give a number, or (least, most)") from cause
    if least is None and most is None:
        raise ValueError("a limit that is open on both sides is none")
    if any(value is not None and math.isnan(value) for value in (least, most)):
        raise ValueError("a limit is no number")
    if least is not None and most is not None and least > most:
        raise ValueError(f"no value lies between {least} and {most}")
    return least, most


def _plain(row: Measurement) -> dict[str, Any]:
    values = asdict(row)
    # JSON has no infinity: a value that is none fails its limit, and is null here.
    values["value"] = row.value if row.value is not None and math.isfinite(row.value) else None
    if isinstance(row.limit, tuple):
        values["limit"] = list(row.limit)
    return values


def _heading(name: str) -> str:
    """A name in one line: of a long one the middle is left out, since cases differ in their ends."""
    return name if len(name) <= WIDTH else f"{name[:34]}~{name[35 - WIDTH :]}"


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"


def _limit(limit: Limit) -> str:
    if limit is None:
        return ""
    if not isinstance(limit, tuple):
        return f"within {_number(limit)}"
    least, most = limit
    if least == most:
        return f"= {_number(least)}"
    if most is None:
        return f">= {_number(least)}"
    return f"<= {_number(most)}" if least is None else f"{_number(least)} to {_number(most)}"
