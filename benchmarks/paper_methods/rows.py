"""Rows of `papers.py`, and what each paper is asked for."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        prunings: seeds that a model is pruned with (fl_pqsu).
    """

    folder: Path
    quick: bool
    seeds: int
    rounds: int | None = None
    only: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    keep: Path | None = None
    first: int = 0
    prunings: int = 1


def row(setting: str, method: str, quantity: str, values: Sequence[float]) -> Row:
    """Mean and interval; null when a seed has no figure."""
    mean, half = mean_and_interval(values)
    known = math.isfinite(mean)
    return Row(setting, method, quantity, mean if known else None, half if math.isfinite(half) else None, len(values))


def kept(asked: Asked, name: str, made: Callable[[], Any]) -> Any:
    """What was found under this name before, in the folder of ``--keep``; else it is made, and kept there.

    So a run that was cut goes on where it stopped. The name has to tell everything that the figures depend on.

    Args:
        made: gives something that JSON can hold.
    """
    if asked.keep is None:
        return made()
    path = asked.keep / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    found = made()
    asked.keep.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(found))
    os.replace(unfinished, path)
    return found
