"""A run with an open round as a store holds it, and reports for it."""

from __future__ import annotations

import numpy as np

from coordinator.budgets.order_line import OrderLine
from coordinator.store import batches, runs
from coordinator.store.database import Database
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from protos.convert.reports import serialise_report
from protos.energy.trace import Method, Phase, PhaseEnergy
from protos.orders import DeviceReport, Engine, StopReason
from protos.update.tensors import as_float32
from protos.update.trees import Tree


def head(seed: int = 0) -> Tree:
    rng = np.random.default_rng(seed)
    return {"out_bias": rng.normal(size=3).astype(np.float32), "out_kernel": rng.normal(size=(2, 3)).astype(np.float32)}


def started(db: Database, run_id: str = "run-1", name: str = "digits") -> None:
    """A run with an open round 1 of two devices."""
    with db.writing() as connection:
        initial = heads.put(connection, head())
        runs.add(connection, NewRun(run_id, name, "plan-1", "toml", "/", "sha256:1", 3, initial))
        runs.add_round_zero(connection, run_id, head_version=initial, accuracy=0.5, loss=None)
        runs.open_round(connection, run_id, 1, 1, [OrderLine("a", 5, None), OrderLine("b", 7, 2.5)], "")


def report_of(device_id: str, energy_j: float | None = 2.0) -> DeviceReport:
    method: Method = "unknown" if energy_j is None else "measured"
    return DeviceReport(
        "run-1", 1, device_id, "plan-1", "sha256:1", "head", 5, 5, 40, 5.0, StopReason.COMPLETED, 2.0, 1.0,
        Engine("e", "1", "d"), (PhaseEnergy(Phase.TRAIN, energy_j, 1.0, 0.0, method, "s", None, ("x",)),),
        as_float32(head(1)), 40, 0.1,
    )  # fmt: skip


def accept(db: Database, report: DeviceReport, weight: float = 1.0) -> bytes:
    data = serialise_report(report)
    with db.writing() as connection:
        batches.accept(connection, [batches.Taken(report, data, weight, None, 0)])
    return data
