"""Plans to read: those that come with the package, and the smallest with a few lines more."""

from __future__ import annotations

from pathlib import Path

from protos.plan.plan import RunPlan, parse

PLANS = sorted((Path(__file__).parents[2] / "plans").glob("*.toml"))


def plan(extra: str = "", *, run: str = "") -> RunPlan:
    return parse(f'[run]\nbundle = "b"\n{run}\n{extra}', where="p.toml")
