"""A device that waits for the coordinator is present: what keeps it waiting is not its silence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.run import report_transactions
from coordinator.server import fleet, run_scheduler
from coordinator.server.services import device_service
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase
from protos.orders import SettledEnergy
from protos.v1 import edgejoule_pb2 as pb

SILENT = "fell silent"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A second and a half of silence are enough."""
    monkeypatch.setattr(fleet, "AWAY_AFTER_S", 1.5)
    monkeypatch.setattr(fleet, "IDLE_PACE_S", 0.1)
    monkeypatch.setattr(run_scheduler, "HOLD_S", 0.0)
    caplog.set_level(logging.INFO, "edgejoule.coordinator")


@pytest.fixture
def here(tmp_path: Path, tools: Any) -> Iterator[str]:
    with tools.served(tmp_path / "state") as address:
        yield address


def test_a_device_whose_call_waits_for_the_disk_is_present(
    here: str, fleet: Callable[..., Any], tools: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = report_transactions.settle

    def slow(*args: Any) -> Any:
        time.sleep(2.5)
        return real(*args)

    monkeypatch.setattr(report_transactions, "settle", slow)
    device = fleet(here, "a")
    device.join()
    device.ask(SettledEnergy("run-none", 1, (tools.joules(Phase.SEND, 1.0),)))
    assert SILENT not in caplog.text
    # Who does not call is still found out.
    tools.until(lambda: SILENT in caplog.text, "its silence")


def test_a_device_is_not_silent_while_nobody_listens(
    here: str, fleet: Callable[..., Any], tools: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    devices = [fleet(here, f"d{number}") for number in range(8)]
    stop = threading.Event()

    def live(device: Any) -> None:
        device.join()
        while not stop.is_set():
            device.ask()
            time.sleep(0.05)

    threads = [threading.Thread(target=live, args=(device,)) for device in devices]
    for thread in threads:
        thread.start()
    real = device_service.settled_from
    stalls = iter([2.5, 2.5])

    def stall(settled: Any) -> Any:
        # The event loop does not turn: parsing a large answer, a machine short of memory, a paused container.
        if settled:
            time.sleep(next(stalls))
        return real(settled)

    monkeypatch.setattr(device_service, "settled_from", stall)
    other = fleet(here, "other")
    other.join()
    for _ in range(2):
        other.ask(SettledEnergy("run-none", 1, (tools.joules(Phase.SEND, 1.0),)))
        time.sleep(0.3)
    stop.set()
    silent = [record.getMessage() for record in caplog.records if SILENT in record.getMessage()]
    for thread in threads:
        thread.join()
    assert [text for text in silent if "other" not in text] == []


def test_a_device_that_uploads_slowly_is_present(
    here: str,
    fleet: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    tools: Any,
    plain_bundle: Path,
    tmp_path: Path,
) -> None:
    with Operator(here) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(here, "a")
        device.join()
        data = serialise_report(device.answer(device.order(), 1.0))
        operator.stop_run(run_id)  # it is not owed any more, so it is not busy

    def parts() -> Iterator[Any]:
        yield pb.ReportRequest(
            header=pb.ReportHeader(run_id=run_id, round=1, device_id="a", total_bytes=len(data), sha256=b"")
        )
        time.sleep(2.5)
        yield pb.ReportRequest(data=data)

    caplog.clear()
    with pytest.raises(Exception, match="not the declared ones"):
        device.stub.Report(parts(), timeout=20)
    assert SILENT not in caplog.text
