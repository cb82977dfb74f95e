"""Runs for one device of the field benchmark, begun and looked at."""

from __future__ import annotations

import itertools

from benchmarks.device.faults import Rig
from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus

__all__ = ["begin", "look"]

_NUMBERS = itertools.count(1)


def begin(rig: Rig, *, epochs: int = 1, more: str = "", deadline_s: int = 60) -> str:
    """Start a run of one round for one device; its id.

    Args:
        more: further sections of the plan.
    """
    plan = (
        f'[run]\nbundle = "{rig.bundle.path}"\nname = "field-{next(_NUMBERS)}"\nrounds = 1\nseed = 7\n'
        f"[round]\ndevices = 1\ndeadline_s = {deadline_s}\n[train]\nepochs = {epochs}\n"
        f'[update]\ncodec = "float32"\n{more}'
    )
    with Operator(rig.address) as operator:
        return operator.start_run(plan, rig.folder)


def look(rig: Rig, run_id: str) -> RunStatus:
    """How a run is doing."""
    with Operator(rig.address) as operator:
        return operator.status(run_id)[0]
