"""A run that rests costs its devices nothing, holds up no other run, and goes on where it was: also by another plan."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from coordinator import cli
from coordinator.operator.client import Operator
from coordinator.run.run_driver import RunDriver
from coordinator.server import run_scheduler
from protos.errors import RefusedError
from protos.orders import Verdict
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


def two(fleet: Fleet, address: str) -> tuple[Any, Any]:
    """Two devices that have joined."""
    devices = fleet(address, "a"), fleet(address, "b")
    for device in devices:
        device.join()
    return devices


def is_wanted(device: Any, order: Any) -> bool:
    request = pb.AwaitEndRequest(
        device_id=device.card.device_id, session=device.card.session, run_id=order.run_id, round=order.round
    )
    return bool(device.stub.AwaitEnd(request, timeout=20).wanted)


def test_a_pause_ends_the_devices_work_keeps_their_reports_and_lets_the_next_run_go_on(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, rounds=2, devices=2, quorum=1.0)
        run_id = operator.start_run(text, tmp_path)
        first, second = two(fleet, address)
        order, other = first.order(), second.order()
        assert first.send(first.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert is_wanted(second, other)
        assert operator.pause_run(run_id) == "paused"
        assert not is_wanted(second, other)
        status = operator.status(run_id)[0]
        assert (status.state, status.reason) == ("paused", f"paused; go on with: coordinator resume {run_id}")
        assert not status.is_over
        behind = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=1.0), tmp_path)
        for device in (second, first):
            held = device.order()
            assert held.run_id == behind
            assert device.send(device.answer(held, 1.0)).verdict is Verdict.ACCEPTED
        tools.finished(operator, behind)
        assert operator.resume_run(run_id) == "running"
        again = second.order()
        assert (again.run_id, again.round, again.attempt) == (run_id, 1, 2)
        assert second.send(second.answer(again, 3.0)).verdict is Verdict.ACCEPTED
        for device in (first, second):
            assert device.send(device.answer(device.order(round=2), 1.0)).verdict is Verdict.ACCEPTED
        done = tools.finished(operator, run_id)
    assert done.state == "finished"
    assert {device.device_id: device.outcome for device in done.rounds[1].devices} == {"a": "accepted", "b": "accepted"}


def test_a_run_may_be_paused_more_often_than_a_round_may_fail_and_over_restarts(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for pause in range(5):
        with tools.served(state) as address, Operator(address) as operator:
            if not pause:
                run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
            else:
                assert operator.status(run_id)[0].state == "paused", "a restart does not wake it"
                operator.resume_run(run_id)
            device = fleet(address, "a")
            device.join()
            order = device.order()
            assert order.attempt == pause + 1
            operator.pause_run(run_id)
    with tools.served(state) as address, Operator(address) as operator:
        operator.resume_run(run_id)
        device = fleet(address, "a")
        device.join()
        assert device.send(device.answer(device.order(), 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"


def test_a_pause_after_the_round_lets_it_close_and_another_plan_goes_on_from_its_head(
    address: str,
    plain_bundle: Path,
    fleet: Fleet,
    tools: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, pause = Event(), RunDriver.pause

    async def seen(driver: RunDriver, *, after_round: bool) -> None:
        # The run knows of it before this one waits for the first time.
        asyncio.get_running_loop().call_soon(asked.set)
        await pause(driver, after_round=after_round)

    monkeypatch.setattr(RunDriver, "pause", seen)
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, devices=2, quorum=1.0), tmp_path)
        first, second = two(fleet, address)
        held = [(device, device.order()) for device in (first, second)]
        command = ["pause", run_id, "--after-round", "--json", "--coordinator", address]
        pausing = Thread(target=cli.main, args=(command,))
        pausing.start()
        assert asked.wait(60), "a pause that comes after the reports is one of the next round"
        for device, order in held:
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        pausing.join(60)
        said = capsys.readouterr().out
        assert json.loads(said[said.index("{") :])["state"] == "paused"
        assert operator.status(run_id)[0].rounds[1].state == "closed"
        plan = tmp_path / "other.toml"
        plan.write_text(tools.plan(plain_bundle, rounds=2, devices=1, more="\n[train]\nepochs = 3\n"))
        assert cli.main(["resume", run_id, "--plan", str(plan), "--coordinator", address]) == 0
        device, (_, before) = first, held[0]
        order = device.order(round=2)
        assert order.steps == 3 * before.steps
        assert order.plan_id != before.plan_id
        assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        tools.until(lambda: operator.status(run_id)[0].is_over or second.ask(), "the end")


def test_what_cannot_go_on_by_another_plan_is_refused_with_the_way_on(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    other = tools.bundle(tmp_path / "other", width=9)
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, rounds=2, devices=2, quorum=1.0)
        run_id = operator.start_run(text, tmp_path)
        with pytest.raises(RefusedError, match="not paused"):
            operator.resume_run(run_id)
        first, second = two(fleet, address)
        first.send(first.answer(first.order(), 1.0))
        second.order()
        operator.pause_run(run_id)
        with pytest.raises(RefusedError, match="holds reports that were made by the plan it has"):
            operator.resume_run(run_id, text.replace("seed = 7", "seed = 8"), tmp_path)
        with pytest.raises(RefusedError, match="trains the bundle"):
            operator.resume_run(run_id, tools.plan(other), tmp_path)
        assert operator.status(run_id)[0].state == "paused"
        assert operator.stop_run(run_id) == "stopped"
        with pytest.raises(RefusedError, match="is stopped"):
            operator.pause_run(run_id)


def test_a_round_that_was_interrupted_is_not_one_that_the_run_has_already(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, rounds=3, devices=2, quorum=1.0)
        run_id = operator.start_run(text, tmp_path)
        both = two(fleet, address)
        for device in both:
            device.send(device.answer(device.order(), 1.0))
        for device in both:
            device.order(round=2)
        operator.pause_run(run_id)
        with pytest.raises(RefusedError, match="has 1 rounds already"):
            operator.resume_run(run_id, text.replace("rounds = 3", "rounds = 1"), tmp_path)
        operator.resume_run(run_id, text.replace("rounds = 3", "rounds = 2"), tmp_path)
        assert operator.status(run_id)[0].rounds_planned == 2


def test_a_report_of_a_run_that_waits_for_its_turn_keeps_its_device_from_no_run_that_waits_for_it(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_scheduler, "OPENING_S", 0.1)
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, rounds=1, devices=2, quorum=1.0)
        run_id = operator.start_run(text, tmp_path)
        first, second = two(fleet, address)
        assert first.send(first.answer(first.order(), 1.0)).verdict is Verdict.ACCEPTED
        held = second.answer(second.order(), 1.0)
        # Whose answer did not get through, all the while.
        second.leave()
        operator.pause_run(run_id)
        behind = operator.start_run(text, tmp_path)
        tools.until(lambda: "1 of 2 devices" in operator.status(behind)[0].reason, "the turn of the other run")
        assert operator.resume_run(run_id) == "running"
        second.join()
        assert second.send(held).verdict is Verdict.LATE
        for device in (first, second):
            order = device.order()
            assert order.run_id == behind
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        tools.finished(operator, behind)
        again = second.order()
        assert (again.run_id, again.attempt) == (run_id, 2)
        assert second.send(second.answer(again, 3.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
