"""Rows of `papers.py`, and what each paper is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.one_pass.fleet import mean_and_interval


@dataclass(frozen=True)
class Row:
    """One figure over all seeds."""

    setting: str
    method: str
    quantity: str
    mean: float | None
    ci95: float | None
    seeds: int


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a paper.

    Attributes:
        folder: for bundles and data.
        rounds: at most, or None for the paper's own number.
        only: data sets; empty for all.
        methods: empty for all.
        keep: folder of what takes long to make and is found there again; None: made anew.
        first: the first seed.
    """

    folder: Path
    quick: bool
    seeds: int
    rounds: int | None = None
    only: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    keep: Path | None = None
    first: int = 0


def row(setting: str, method: str, quantity: str, values: Sequence[float]) -> Row:
    """Mean and interval; null when a seed has no figure."""
    mean, half = mean_and_interval(values)
    known = math.isfinite(mean)
    return Row(setting, method, quantity, mean if known else None, half if math.isfinite(half) else None, len(values))
