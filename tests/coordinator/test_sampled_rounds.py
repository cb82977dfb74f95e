"""Some of the devices that are present are asked, and a round need not wait for its stragglers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.run.rounds.round_events import Accepted, Arrived, Close, Rules, Spared, Tick
from coordinator.run.rounds.round_machine import RoundMachine
from protos.errors import PlanError
from protos.orders import TrainOrder, Verdict
from protos.plan.plan import parse

Fleet = Callable[..., Any]


def test_so_many_are_asked_and_in_the_end_everyone(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        rounds = 12
        text = tools.plan(plain_bundle, devices=4, rounds=rounds, quorum=1.0, sample=2)
        run_id = operator.start_run(text, tmp_path)
        devices = [fleet(address, name) for name in "abcd"]
        for device in devices:
            device.join()
        while not operator.status(run_id)[0].is_over:
            for device in devices:
                order = device.ask()
                if isinstance(order, TrainOrder):
                    assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        status = operator.status(run_id)[0]
    assert status.state == "finished"
    assert [len(this_round.devices) for this_round in status.rounds[1:]] == [2] * rounds
    asked = Counter(device.device_id for found in status.rounds[1:] for device in found.devices)
    assert set(asked) == set("abcd")


def test_a_round_closes_when_enough_have_reported_and_stragglers_come_late(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=4, quorum=0.5, enough=0.75, deadline_s=600)
        run_id = operator.start_run(text, tmp_path)
        devices = [fleet(address, name) for name in "abcd"]
        for device in devices:
            device.join()
        held = [(device, device.answer(device.order(), 1.0)) for device in devices]
        assert [device.send(report).verdict for device, report in held[:3]] == [Verdict.ACCEPTED] * 3
        assert tools.finished(operator, run_id).state == "finished"
        assert held[3][0].send(held[3][1]).verdict is Verdict.LATE


def test_nothing_is_enough_while_a_report_is_being_written_or_the_orders_are() -> None:
    machine = RoundMachine(Rules(rounds=1, devices=4, quorum=0.5, deadline_s=10.0, enough=0.5))
    for name in "abcd":
        machine.step(Arrived(name), 0.0)
    machine.step(Tick(), 0.0)
    # Planning is not done: who is asked is not known.
    assert machine.step(Accepted("a"), 0.1) == []
    machine.step(Spared(("d",)), 0.2)
    assert machine.step(Tick(), 0.2) == [], "one of three"
    (closed,) = machine.step(Accepted("b"), 0.3)
    assert isinstance(closed, Close)
    assert closed.reported == ("a", "b")


def test_a_sample_that_contradicts_the_plan_is_refused(plain_bundle: Path, tools: Any) -> None:
    with pytest.raises(PlanError, match=r"less than round\.quorum"):
        parse(tools.plan(plain_bundle, quorum=0.8, enough=0.5))
    text = tools.plan(plain_bundle, sample=3, more='[planner]\npolicy = "joules"\n')
    with pytest.raises(PlanError, match="would draw again"):
        parse(text.replace('codec = "float32"', 'codec = "entropy_coded"', 1))
