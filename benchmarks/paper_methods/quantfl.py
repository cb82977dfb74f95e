"""QuantFL (arXiv:2603.17507) as rows of `papers.py`: the runs of `quantfl.py`, pre-trained against random start.

What is saved is the share of float32's bits, both ways, that did not travel; points are those of the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import quantfl
from benchmarks.paper_methods.rows import Asked, Row
from benchmarks.quantised import plot
from protos.errors import UsageError

_QUANTITIES = (
    # of `papers.py`, of `quantfl.py`, its interval, factor
    ("accuracy, %", "accuracy_mean", "accuracy_ci95", 100.0),
    ("points below float32", "below_float32", "below_ci95", 1.0),
    ("bits saved, %", "saved", None, 100.0),
    ("bits saved, heads alone, %", "saved_of_heads", None, 100.0),
    ("kB up", "bits_up", None, 1 / 8e3),
    ("kB down", "bits_down", None, 1 / 8e3),
    ("J, WiFi", "joules", "joules_ci95", 1.0),
)


def rows(asked: Asked) -> list[Row]:
    """Every data set, start, codec and rate."""
    if asked.seeds < 2:
        raise UsageError("an interval needs 2 seeds or more", where="--seeds")
    # Backbones are made once, and found again where runs are kept: these depend on them.
    folder = asked.folder
    if asked.keep is not None:
        folder = asked.keep / "-".join(["quantfl", "quick" if asked.quick else "full", *sorted(asked.only)])
        folder.mkdir(parents=True, exist_ok=True)
        asked = replace(asked, keep=folder)
    found = quantfl.compared(folder, asked.seeds, quick=asked.quick, only=asked.only, few=True, asked=asked)
    return [each_row for row in found for each_row in _rows(row)]


def _rows(row: quantfl.Row) -> list[Row]:
    setting, made = f"{row.dataset}, {row.start} start", []
    method = row.codec if row.codec in ("float32", "closed_form") else f"{row.codec}, {row.rate:g} bits"
    for name, key, interval, factor in _QUANTITIES:
        half = None if interval is None else factor * getattr(row, interval)
        made.append(Row(setting, method, name, factor * getattr(row, key), half, row.seeds))
    return made


def draw(rows: Sequence[Any], path: Path) -> None:
    """The picture of `plot.py` without the way there: what each rate ended with."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((row.setting, row.method), {})[row.quantity] = row
    shown = []
    for (setting, method), of in found.items():
        dataset, start = setting.removesuffix(" start").rsplit(", ", 1)
        bits, share = 8e3 * (of["kB up"].mean + of["kB down"].mean), of["accuracy, %"]
        shown.append(
            SimpleNamespace(
                dataset=dataset, start=start, codec=method.split(",")[0], accuracy_mean=share.mean / 100,
                accuracy_ci95=(share.ci95 or 0.0) / 100, curve=[(bits, share.mean / 100)],
            )
        )  # fmt: skip
    plot.draw(shown, path)
