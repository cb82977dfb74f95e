"""What a call costs, counted in statements and in steps of SQLite's machine, and a store to make it cost something."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from stored_runs import head

from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel
from coordinator.budgets.order_line import OrderLine
from coordinator.store import devices, reports, runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from protos.convert.reports import serialise_report
from protos.model.bundle import open_bundle
from protos.orders import DeviceCard, DeviceReport, MeterCard, StopReason
from protos.orders import Engine as RuntimeEngine
from protos.update.tensors import as_float32

_STEPS_AT_ONCE = 10


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Counts statements, parsed cost models, and tens of steps of SQLite's machine, in every thread."""
    found: Counter[str] = Counter()
    counting = [True]
    parse = CostModel.from_state

    def parsed(state: Any) -> CostModel:
        found["models"] += 1
        return parse(state)

    def stepped() -> int:
        # The handler stays with its connection when this is over.
        found["steps"] += _STEPS_AT_ONCE * counting[0]
        return 0

    def begun(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        found["statements"] += 1
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(stepped, _STEPS_AT_ONCE)

    with monkeypatch.context() as patched:
        patched.setattr(CostModel, "from_state", staticmethod(parsed))
        event.listen(Engine, "before_cursor_execute", begun)
        try:
            yield found
        finally:
            counting[0] = False
            event.remove(Engine, "before_cursor_execute", begun)


def fill(state: Path, bundle: Path, *, known: int, rounds: int, in_each: int) -> None:
    """A store with the costs of so many devices, and a finished run of so many rounds with so many devices."""
    state.mkdir()
    db = Database(sqlite_url(state / "coordinator.db"))
    bundle_id = open_bundle(bundle).bundle_id
    model = CostModel(prices_of("pi4", macs=1000, coordinates=650, batch_size=8))
    engine, meter = RuntimeEngine("ai-edge-litert", "2.3.0", "xnnpack"), MeterCard("measured", "ina219:test")
    names = [f"old-{at:04}" for at in range(max(known, in_each))]
    with db.writing() as connection:
        for name in names:
            devices.join(connection, DeviceCard(name, "1", "0", "pi4", engine, meter, 40, 10))
            devices.leave(connection, name)
        for name in names[:known]:
            costs.keep(connection, name, bundle_id, model)
        initial = heads.put(connection, head())
        runs.add(connection, NewRun("run-old", "old", "plan-1", "toml", "/", bundle_id, rounds, initial))
        runs.add_round_zero(connection, "run-old", head_version=initial, accuracy=None, loss=None)
        for number in range(1, rounds + 1):
            lines = [OrderLine(name, 5, 1.0) for name in names[:in_each]]
            runs.open_round(connection, "run-old", number, 1, lines, "")
            grants.add(connection, "run-old", number, lines, time.time())
            for line in lines:
                report = DeviceReport(
                    "run-old", number, line.device_id, "plan-1", bundle_id, initial, 5, 5, 40, 5.0,
                    StopReason.COMPLETED, 2.0, 1.0, engine, (), as_float32(head(1)), 40, 0.1,
                )  # fmt: skip
                reports.accept(connection, report, serialise_report(report), 1.0)
            runs.close_round(connection, "run-old", number, head_version=initial, accuracy=None, loss=None)
        runs.change(connection, "run-old", state="finished")
    db.close()
