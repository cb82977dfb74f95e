"""What happens while a report is being written: on a real coordinator, whose disk takes its time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.run import report_transactions
from protos.orders import Receipt, Verdict

Fleet = Callable[..., Any]


class SlowDisk:
    """Writes of reports wait at their beginning or at their end, until they may go on."""

    def __init__(self, where: str) -> None:
        self.where, self.reached, self.go_on = where, threading.Event(), threading.Event()
        self._accept = report_transactions.accept

    def accept(self, *words: Any) -> Receipt:
        if self.where == "before":
            self._wait()
        receipt = self._accept(*words)
        if self.where == "after":
            self._wait()
        return receipt

    def _wait(self) -> None:
        self.reached.set()
        assert self.go_on.wait(60)


@pytest.fixture(params=["before", "after"])
def disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    """A disk that waits before or after it has written."""
    made = SlowDisk(request.param)
    monkeypatch.setattr(report_transactions, "accept", made.accept)
    return made


@pytest.fixture
def apart(disk: SlowDisk) -> Iterator[Callable[..., list[Any]]]:
    """`apart(f, *words)`: call it in a thread; what it gives comes into the list."""
    threads: list[threading.Thread] = []

    def begin(call: Callable[..., Any], *words: Any) -> list[Any]:
        given: list[Any] = []
        threads.append(threading.Thread(target=lambda: given.append(call(*words)), daemon=True))
        threads[-1].start()
        return given

    yield begin
    disk.go_on.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def outcomes(operator: Operator, run_id: str, number: int = 1) -> dict[str, str]:
    return {device.device_id: device.outcome for device in operator.status(run_id)[0].rounds[number].devices}


def test_an_operator_who_stops_the_run_waits_for_the_report_that_is_being_written(
    disk: SlowDisk,
    apart: Any,
    address: str,
    plain_bundle: Path,
    fleet: Fleet,
    tools: Any,
    tmp_path: Path,
) -> None:
    with Operator(address) as operator, Operator(address) as other:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=2, devices=2), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        for device in (a, b):
            device.join()
        report = a.answer(a.order(), 1.0)
        b.order()
        receipt = apart(a.send, report)
        assert disk.reached.wait(30)
        stopped = apart(other.stop_run, run_id)
        assert not stopped
        disk.go_on.set()
        status = tools.finished(operator, run_id)
        tools.until(lambda: stopped and receipt, "the answers")
        assert outcomes(operator, run_id) == {"a": "accepted", "b": "missing"}
    assert status.state == "stopped"
    assert (receipt[0].verdict, stopped) == (Verdict.ACCEPTED, ["stopped"])
    assert len(status.rounds) == 2, "the round is not closed, and no other one begins"
    assert status.rounds[1].state == "abandoned"


def test_the_last_one_leaves_while_a_report_is_being_written_and_the_round_closes_with_it(
    disk: SlowDisk, apart: Any, address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=0.5), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        for device in (a, b):
            device.join()
        report = a.answer(a.order(), 1.0)
        b.order()
        receipt = apart(a.send, report)
        assert disk.reached.wait(30)
        left = [apart(one.leave) for one in (b, a)]
        disk.go_on.set()
        status = tools.finished(operator, run_id)
        tools.until(lambda: receipt and all(left), "the answers")
        assert outcomes(operator, run_id) == {"a": "accepted", "b": "missing"}
    assert (status.state, receipt[0].verdict) == ("finished", Verdict.ACCEPTED)
    assert status.rounds[1].devices[0].weight == 1.0


def test_the_deadline_passes_while_a_report_is_being_written_and_it_still_counts(
    disk: SlowDisk, apart: Any, address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=1.0), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        for device in (a, b):
            device.join()
        mine, other = a.answer(a.order(), 1.0), b.answer(b.order(), 3.0)
        receipt = apart(a.send, mine)
        assert disk.reached.wait(30)
        # Comes before or after the deadline; either way its answer waits for what becomes of the round.
        late = apart(b.send, other)
        deadline = threading.Event()
        deadline.wait(1.5)
        assert len(operator.status(run_id)[0].rounds) == 2
        assert operator.status(run_id)[0].rounds[1].state == "open"
        disk.go_on.set()
        tools.until(lambda: receipt and late, "the answers")
        status = tools.finished(operator, run_id)
        assert outcomes(operator, run_id) == {"a": "accepted", "b": "accepted"}
    assert (receipt[0].verdict, late[0].verdict) == (Verdict.ACCEPTED, Verdict.ACCEPTED)
    assert status.state == "finished"


def test_the_same_report_sent_again_while_it_is_being_written_is_a_duplicate(
    disk: SlowDisk, apart: Any, address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=1), tmp_path)
        a = fleet(address, "a")
        a.join()
        report = a.answer(a.order(), 1.0)
        receipts = [apart(a.send, report) for _ in range(3)]
        assert disk.reached.wait(30)
        disk.go_on.set()
        tools.until(lambda: all(receipts), "the answers")
        status = tools.finished(operator, run_id)
    found = sorted(receipt[0].verdict for receipt in receipts)
    assert found.count(Verdict.ACCEPTED) == 1
    assert set(found) <= {Verdict.ACCEPTED, Verdict.DUPLICATE}
    assert [device.spent_j for device in status.rounds[1].devices] == [3.5], "its joules count once"
