"""Rounds over real gRPC: late energy, who takes part, and when a round closes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.run import round_transactions
from coordinator.server import run_scheduler
from protos.energy.trace import Phase
from protos.model.bundle import open_bundle
from protos.orders import (
    Engine,
    MeterCard,
    SettledEnergy,
    StopReason,
    Verdict,
    WaitOrder,
)
from protos.update.trees import version

Fleet = Callable[..., Any]


def test_late_energy_rides_in_the_next_call_and_counts_once(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0))
        late = SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, 0.25),))
        for _ in range(3):
            device.ask(late)
        device.ask(SettledEnergy(run_id, 1, (tools.joules(Phase.SEND, None),)))
        device.leave(SettledEnergy("run-unknown", 1, (tools.joules(Phase.SEND, 99.0),)))
        status = tools.finished(operator, run_id)
        (shown,) = operator.devices()
    energy = {phase_energy.phase: phase_energy.energy_j for phase_energy in status.rounds[1].devices[0].energy}
    assert energy == {Phase.EMBED: 1.0, Phase.TRAIN: 2.0, Phase.ENCODE: 0.5, Phase.SEND: 0.25}
    assert status.rounds[1].devices[0].spent_j == 3.75
    assert (shown.energy_j, shown.unknown_phases, shown.state) == (3.75, 0, "left")


def test_unknown_energy_stays_unknown(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a", meter=MeterCard("unknown"))
        device.join()
        device.send(device.answer(device.order(), 1.0, energy=(tools.joules(Phase.TRAIN, None),)))
        status = tools.finished(operator, run_id)
        (shown,) = operator.devices()
    assert status.rounds[1].devices[0].energy[0].energy_j is None
    assert status.rounds[1].devices[0].spent_j is None
    assert (shown.energy_j, shown.unknown_phases) == (None, 1)


def test_a_device_without_a_meter_gets_no_order_with_a_budget(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, more="[budget]\nper_round_j = 5\n"), tmp_path)
        blind = fleet(address, "blind", meter=MeterCard("unknown"))
        blind.join()
        assert isinstance(blind.ask(), WaitOrder)
        tools.until(lambda: "blind has a budget and no meter" in operator.status(run_id)[0].reason, "the reason")
        seeing = fleet(address, "seeing", budget_j=3.0)
        seeing.join()
        order = seeing.order()
        assert order.budget_j == 3.0, "the smaller of the plan's and its own"
        seeing.send(seeing.answer(order, 1.0))
        assert tools.finished(operator, run_id).state == "finished"


def test_a_run_that_begins_asks_all_who_are_there_and_not_the_first_of_them_alone(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        devices = {name: fleet(address, name) for name in "abcd"}
        for device in devices.values():
            device.join()
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        devices["a"].order()
        assert [one.device_id for one in operator.status(run_id)[0].rounds[1].devices] == ["a", "b", "c", "d"]


def test_devices_with_another_engine_are_left_out_with_a_warning(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        odd = fleet(address, "odd", engine=Engine("tflite-runtime", "2.14.0", "builtin"))
        odd.join()
        others = [fleet(address, name) for name in "ab"]
        for device in others:
            device.join()
        for device in others:
            order = device.order()
            assert "odd runs tflite-runtime/builtin" in operator.status(run_id)[0].reason
        assert isinstance(odd.ask(), WaitOrder)
        for device in others:
            order = device.order()
            device.send(device.answer(order, 1.0))
        tools.finished(operator, run_id)


def test_a_device_that_leaves_is_not_waited_for(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, deadline_s=3600), tmp_path)
        stays, leaves = fleet(address, "stays"), fleet(address, "leaves")
        stays.join()
        leaves.join()
        leaves.order()
        stays.send(stays.answer(stays.order(), 1.0))
        leaves.leave()
        status = tools.finished(operator, run_id)
    assert {device.device_id: device.outcome for device in status.rounds[1].devices} == {
        "stays": "accepted",
        "leaves": "missing",
    }


def test_a_round_closes_at_its_deadline_and_what_comes_then_is_late(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, deadline_s=1.0), tmp_path)
        quick, slow = fleet(address, "quick"), fleet(address, "slow")
        quick.join()
        slow.join()
        held = slow.order()
        quick.send(quick.answer(quick.order(), 1.0))
        tools.finished(operator, run_id)
        receipt = slow.send(slow.answer(held, 5.0))
        status = operator.status(run_id)[0]
    assert receipt.verdict is Verdict.LATE
    outcomes = {device.device_id: (device.outcome, device.weight) for device in status.rounds[1].devices}
    assert outcomes == {"quick": ("accepted", 1.0), "slow": ("late", 0.0)}


def test_a_round_without_quorum_is_tried_again_with_the_reports_it_has_and_then_fails(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=3, quorum=1.0, deadline_s=0.5)
        run_id = operator.start_run(text, tmp_path)
        devices = [fleet(address, name) for name in "abc"]
        for device in devices:
            device.join()
        report = devices[0].answer(devices[0].order(), 1.0)
        assert devices[0].send(report).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
        assert devices[0].send(report).verdict is Verdict.DUPLICATE
    assert status.state == "failed"
    assert "1 of 3 reports, 3 needed; given up after 3 attempts" in status.reason
    assert status.rounds[1].state == "abandoned"
    assert status.rounds[0].head_version == version(open_bundle(plain_bundle).initial_head())


def test_a_round_without_a_step_leaves_the_head_as_it_is(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle), tmp_path)
        device = fleet(address, "a")
        device.join()
        report = device.answer(device.order(), 3.0, steps_done=0, stop_reason=StopReason.BUDGET)
        assert device.send(report).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
    assert status.rounds[1].head_version == status.rounds[0].head_version
    assert status.rounds[1].devices[0].weight == 0.0


def test_a_planner_slower_than_the_deadline_takes_nothing_from_the_devices(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = round_transactions.open_round

    def slow(*args: Any) -> Any:
        time.sleep(1.5)
        return real(*args)

    monkeypatch.setattr(round_transactions, "open_round", slow)
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, deadline_s=1.0), tmp_path)
        device = fleet(address, "a")
        device.join()
        # A busy computer may take longer than the second that is left: then there is another attempt.
        for attempt in (1, 2, 3):
            order = tools.until(
                lambda number=attempt: getattr(one := device.ask(), "attempt", 0) == number and one, "an order"
            )
            assert 0.0 < order.deadline_s <= 1.0
            if device.send(device.answer(order, 1.0, attempt=attempt)).verdict is Verdict.ACCEPTED:
                break
        assert tools.finished(operator, run_id).state == "finished"


def test_an_order_that_is_asked_for_after_its_deadline_leaves_no_time(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle, deadline_s=60.0), tmp_path)
        device = fleet(address, "a")
        device.join()
        assert 0.0 < device.order().deadline_s <= 60.0
        real = run_scheduler._now_s
        # The calls of devices come late; the round's own clock has not struck.
        monkeypatch.setattr(run_scheduler, "_now_s", lambda: real() + 90.0)
        assert device.order().deadline_s == 0.0
