"""What people ask to see comes in pages, beside the devices' calls, and never fails a run that succeeded."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.commands.start import wait
from coordinator.operator import client
from coordinator.operator.client import Operator
from coordinator.operator.status import RunStatus
from coordinator.server import operations
from coordinator.store import reading
from protos.errors import UnreachableError
from protos.orders import Verdict
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


def played(address: str, bundle: Path, fleet: Fleet, tools: Any, folder: Path, rounds: int = 5) -> str:
    """A finished run of so many rounds with two devices."""
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(bundle, rounds=rounds, devices=2), folder)
        devices = [fleet(address, name) for name in "ab"]
        for device in devices:
            device.join()
        for number in range(1, rounds + 1):
            orders = [device.order(round=number) for device in devices]
            for device, order in zip(devices, orders, strict=True):
                assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
    return run_id


def test_pages_of_any_size_make_the_same_run(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path)
    calls: list[int] = []
    real = reading.run_part

    def counted(*args: Any) -> tuple[RunStatus, reading.Cursor]:
        found = real(*args)
        calls.append(sum(len(this_round.devices) for this_round in found[0].rounds))
        return found

    monkeypatch.setattr(reading, "run_part", counted)
    with Operator(address) as operator:
        monkeypatch.setattr(client, "PAGE", 0)
        (whole,) = operator.status(run_id)
        for page in (1, 3, 4, 1000):
            calls.clear()
            monkeypatch.setattr(client, "PAGE", page)
            assert operator.status(run_id) == [whole]
            assert sum(calls) == 10
            assert max(calls) <= page, "however many devices a round has"
            assert operator.status(run_id, since_round=4)[0].rounds == whole.rounds[4:]
        (row,) = operator.runs()
        # An older client knows of no parts, and is sent whole rounds, one at least.
        answer = operator._stub.GetStatus(pb.GetStatusRequest(run_id=run_id, since_round=1, page=1), timeout=30)
        assert [len(this_round.devices) for this_round in answer.runs[0].rounds] == [2]
        assert (answer.next_round, answer.next_after) == (2, "")
    assert [this_round.round for this_round in row.rounds] == [5]
    assert row.rounds[0].devices == ()


def test_the_list_of_runs_is_one_row_a_run(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=2)
    capsys.readouterr()
    assert main(["status", "--json", "--coordinator", address]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert (row["run_id"], row["state"], row["round"], row["rounds_planned"]) == (run_id, "finished", 2, 2)
    assert "rounds" not in row
    assert main(["status", "--coordinator", address]) == 0
    assert "2/2" in capsys.readouterr().out


def test_no_device_waits_for_what_people_ask_to_see(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    real = operations._status

    def long(*args: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(*args)

    with Operator(address) as operator, Operator(address) as patient:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        monkeypatch.setattr(operations, "_status", long)
        shown: list[RunStatus] = []
        asking = threading.Thread(target=lambda: shown.extend(patient.status(run_id)))
        asking.start()
        assert begun.wait(20)
        device = fleet(address, "a")
        device.join()
        assert device.send(device.answer(device.order(), 1.0)).verdict is Verdict.ACCEPTED
        assert not shown
        go_on.set()
        asking.join(30)
    assert [run.run_id for run in shown] == [run_id]


@pytest.mark.parametrize("as_json", [False, True])
def test_waiting_for_a_run_that_succeeds_succeeds_also_when_all_of_it_cannot_be_shown(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], as_json: bool,
) -> None:  # fmt: skip
    plan = tmp_path / "plan.toml"
    plan.write_text(tools.plan(plain_bundle))
    real = Operator.status
    busy, over = iter((True, False, True, True)), threading.Event()

    def status(self: Operator, run: str = "", since_round: int = 0) -> list[RunStatus]:
        if over.is_set() or next(busy, False):
            raise UnreachableError("does not answer in time", where="coordinator")
        found = real(self, run, since_round)
        if found[0].is_over:
            over.set()
        return found

    monkeypatch.setattr(Operator, "status", status)
    device = fleet(address, "a")

    def work() -> None:
        device.join()
        device.send(device.answer(device.order(), 1.0))

    working = threading.Thread(target=work)
    working.start()
    code = main(["start", str(plan), "--wait", "--coordinator", address, *(["--json"] if as_json else [])])
    working.join(30)
    out, err = capsys.readouterr()
    assert code == 0
    if as_json:
        assert [this_round["round"] for this_round in json.loads(out[out.index("{") :])["rounds"]] == [0, 1]
        assert "joules that devices told after their round are left out" in err
    else:
        assert "round 1" in out


def test_waiting_for_a_coordinator_that_has_gone_ends() -> None:
    with Operator("127.0.0.1:1") as operator, pytest.raises(UnreachableError):
        wait(operator, "run-x", timeout_s=None, quiet=True, patience_s=1.0)
