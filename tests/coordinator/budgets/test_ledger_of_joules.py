"""The ledger: granted, spent and uncertain joules, the same after kill -9, whatever is sent twice or late."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.operator.client import Operator
from coordinator.run import resume
from coordinator.server import fleet as fleet_module
from protos.energy.trace import Phase
from protos.orders import MeterCard, SettledEnergy, StopReason, TrainOrder, Verdict

Fleet = Callable[..., Any]
BUDGET = "[budget]\nper_round_j = 8\n"
PLANNER = "[budget]\nfleet_j = 36\n[planner]\npolicy = 'joules'\np_min = 0.2\n[aggregate]\nweight = ['by_examples']\n"


def sent(device: Any, run_id: str, number: int, energy_j: float, tools: Any) -> SettledEnergy:
    return SettledEnergy(run_id, number, (tools.joules(Phase.SEND, energy_j),))


def test_what_was_granted_and_not_told_is_uncertain_until_it_is(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, more=BUDGET), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        report = a.answer(a.order(), 1.0)
        b.order()

        def ledger() -> dict[str, tuple[float, float, float]]:
            return {
                budget.device_id: (budget.granted_j, budget.spent_j, budget.uncertain_j)
                for budget in operator.budgets(run_id)
            }

        assert ledger() == {"a": (8.0, 0.0, 8.0), "b": (8.0, 0.0, 8.0)}
        for _ in range(2):
            a.send(report)
            granted_j, spent_j, uncertain_j = ledger()["a"]
            assert (granted_j, spent_j) == (8.0, 3.5)
            assert 0.0 < uncertain_j < 4.5, "what sending cost is still to come, and only that"
        for _ in range(3):
            a.ask(sent(a, run_id, 1, 0.75, tools))
        assert ledger() == {"a": (8.0, 4.25, 0.0), "b": (8.0, 0.0, 8.0)}
        b.leave()
        tools.finished(operator, run_id)
        assert ledger()["b"] == (8.0, 0.0, 8.0), "an order that was never answered may have been worked on"
        (fit, none) = operator.budgets(run_id)
        assert (fit.fitted_rounds, none.fitted_rounds) == (1, 0)
        assert fit.today_j == 4.25


def test_joules_of_reports_that_come_late_or_are_refused_count_too(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=3, deadline_s=1.0, more=BUDGET), tmp_path)
        quick, slow, wrong = (fleet(address, name) for name in ("quick", "slow", "wrong"))
        for device in (quick, slow, wrong):
            device.join()
        held = slow.order()
        refused = wrong.answer(wrong.order(), 1.0, steps_done=1, local_normaliser=500.0)
        assert wrong.send(refused).verdict is Verdict.REJECTED
        quick.send(quick.answer(quick.order(), 1.0))
        tools.finished(operator, run_id)
        for _ in range(2):
            assert slow.send(slow.answer(held, 5.0)).verdict is Verdict.LATE
        spent = {budget.device_id: budget.spent_j for budget in operator.budgets(run_id)}
    assert spent == {"quick": 3.5, "slow": 3.5, "wrong": 3.5}


def test_a_battery_that_is_empty_ends_a_devices_part_and_no_more(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = "[budget]\nbattery_j = 10\n[budget.scale]\nrich = 100\n"
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=4, devices=2, more=budget), tmp_path)
        rich, poor = fleet(address, "rich"), fleet(address, "poor")
        rich.join()
        poor.join()
        for number in range(1, 5):
            order = rich.order(round=number)
            asked = {device.device_id for device in operator.status(run_id)[0].rounds[number].devices}
            assert asked == ({"rich", "poor"} if number <= 3 else {"rich"})
            if "poor" in asked:
                mine = poor.order(round=number)
                assert mine.budget_j is not None
                assert mine.budget_j <= 10 - 3.75 * (number - 1) + 1e-9
                poor.send(poor.answer(mine, 1.0))
                poor.ask(sent(poor, run_id, number, 0.25, tools)) if number < 3 else None
                if number == 3:
                    poor.ask(sent(poor, run_id, number, 0.5, tools))
            rich.send(rich.answer(order, 1.0))
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    bias = status.rounds[4].bias
    assert bias.left_out == ("poor",)
    assert (bias.from_plan_ratio, bias.from_plan > 0) == (None, True), "somebody has no say, and it is said"
    capsys.readouterr()
    assert main(["status", run_id, "--coordinator", address]) == 0
    why = "nothing is left of its budget"
    assert f"           left out: poor ({why})" in capsys.readouterr().out.splitlines()


def test_a_run_whose_budgets_are_spent_and_never_refill_ends_with_the_reason_and_the_next_one_begins(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, more="[budget]\nbattery_j = 3\n"), tmp_path)
        behind = operator.start_run(tools.plan(plain_bundle, rounds=1), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0))
        run = tools.finished(operator, run_id)
        assert (run.state, len(run.rounds)) == ("failed", 2), "round 2 is not opened, and no attempt is lost"
        assert "round 2 of 3 can never open: a: nothing is left of its budget; no budget refills" in run.reason
        order = device.order()
        assert order.run_id == behind
        device.send(device.answer(order, 1.0))
        assert tools.finished(operator, behind).state == "finished"


@pytest.mark.parametrize(
    "more",
    [
        "[budget]\nper_day_j = 3\n",
        "[budget]\nper_day_j = 0.75\n",
        "[budget]\nbattery_j = 3\nharvest = 'sun.csv'\n",
    ],
    ids=["a day's budget", "a day's budget of less than a joule", "a harvest"],
)
def test_a_run_whose_budgets_refill_with_time_waits_and_says_so(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, more: str
) -> None:
    (tmp_path / "sun.csv").write_text("hours,watts\n0,0.00001\n24,0.00001\n")
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, more=more), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0))
        tools.until(lambda: "no device may spend anything" in operator.status(run_id)[0].reason, "the reason")
        (run,) = operator.status(run_id)
        assert (run.state, len(run.rounds)) == ("running", 2), "round 2 is not opened, and no attempt is lost"
        assert operator.stop_run(run_id) == "stopped"


def test_a_run_that_waits_for_devices_or_joules_that_may_never_come_does_not_wait_for_ever(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: replace(rules(plan), gather_s=0.2, patience_s=1.0))
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, more="[budget]\nbattery_j = 3\n"), tmp_path)
        away, device = fleet(address, "away"), fleet(address, "a")
        monkeypatch.setattr(fleet_module.Fleet, "away_after_s", property(lambda self: 0.5))
        device.join()
        order = device.order()
        away.join()
        tools.until(lambda: {each_device.state for each_device in operator.devices()} == {"present", "away"}, "silence")
        device.send(device.answer(order, 1.0))
        # The other one could pay for round 2, and is away without a word.
        tools.until(lambda: device.ask() and operator.status(run_id)[0].is_over, "the end of the run")
        (run,) = operator.status(run_id)
    assert run.state == "failed"
    assert "no budget refills" in run.reason


def test_a_round_that_is_tried_again_asks_those_who_were_drawn_and_nobody_else(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    text = tools.plan(plain_bundle, devices=6, quorum=1.0, deadline_s=0.5, more=PLANNER.replace("36", "1"))
    with Operator(address) as operator:
        run_id = operator.start_run(text.replace('codec = "float32"', 'codec = "entropy_coded"', 1), tmp_path)
        devices = {name: fleet(address, name) for name in "abcdef"}
        for device in devices.values():
            device.join()
        tools.until(lambda: len(operator.status(run_id)[0].rounds) > 1, "the round")
        asked = {device.device_id for device in operator.status(run_id)[0].rounds[1].devices}
        assert 0 < len(asked) < 6
        status = tools.finished(operator, run_id)
    assert status.state == "failed"
    assert "given up after 3 attempts" in status.reason
    assert {device.device_id for device in status.rounds[1].devices} == asked


def test_a_device_without_a_meter_is_not_asked_by_a_planner(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    text = tools.plan(plain_bundle, more=PLANNER).replace('codec = "float32"', 'codec = "entropy_coded"', 1)
    with Operator(address) as operator:
        run_id = operator.start_run(text, tmp_path)
        blind = fleet(address, "blind", meter=MeterCard("unknown"))
        blind.join()
        blind.ask()
        tools.until(lambda: "blind has a budget and no meter" in operator.status(run_id)[0].reason, "the reason")


@pytest.fixture
def start_server(tmp_path: Path, tools: Any) -> Iterator[Callable[[Path], tuple[Any, str]]]:
    """`start_server(state)`: a server process and its address; killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def start(state: Path) -> tuple[Any, str]:
        ready = tmp_path / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(state)]
        command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready)]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[3]
        )
        running.append(process)
        tools.until(lambda: ready.exists() or process.poll() is not None, "the server")
        return process, ready.read_text().strip()

    yield start
    for process in running:
        process.kill()
        process.wait()


def play(bundle: Path, start: Any, fleet: Fleet, tools: Any, state: Path, kill_after: int | None) -> tuple[Any, Any]:
    """Five devices, three rounds of a planner with a total; gives the heads and the ledger."""
    process, address = start(state)
    counts = {"a": 40, "b": 8, "c": 120, "d": 24, "e": 64}

    def arrive() -> dict[str, Any]:
        made = {name: fleet(address, name, train_examples=count) for name, count in counts.items()}
        for device in made.values():
            device.join()
        return made

    with Operator(address) as operator:
        text = tools.plan(bundle, rounds=3, devices=5, quorum=1.0, more=PLANNER)
        text = text.replace('codec = "float32"', 'codec = "entropy_coded"', 1)
        run_id = operator.start_run(text, bundle.parent)
    devices = arrive()
    answered, last = 0, ""

    def tell(name: str, number: int) -> None:
        # Nobody waits for what this call is answered: it is told at once.
        devices[name].ask(sent(devices[name], run_id, number, 0.25 + 0.01 * number, tools), waits_s=0.01)

    for number in range(1, 4):
        with Operator(address) as operator:
            tools.until(lambda: len(operator.status(run_id)[0].rounds) > number, f"round {number}")  # noqa: B023
            asked = [device.device_id for device in operator.status(run_id)[0].rounds[number].devices]
        # The last report of a round opens the next one, which may or may not know yet what sending that report cost.
        # So that cost is told when the next round is there: the same in every play.
        if last:
            tell(last, number - 1)
        last = max(asked)
        for name in sorted(asked):
            order = devices[name].order(round=number)
            assert isinstance(order, TrainOrder)
            report = devices[name].answer(order, (ord(name) - 98) / number)
            assert devices[name].send(report).verdict is Verdict.ACCEPTED
            answered += 1
            if answered == kill_after:
                process.kill()
                process.wait()
                process, address = start(state)
                devices = {key: fleet(address, key, train_examples=count) for key, count in counts.items()}
                assert devices[name].send(report).verdict is Verdict.DUPLICATE
                devices = arrive()
            if name != last:
                tell(name, number)
    with Operator(address) as operator:
        status = tools.finished(operator, run_id)
        tell(last, 3)
        ledger = operator.budgets(run_id)
    assert status.state == "finished"
    heads = [this_round.head_version for this_round in status.rounds]
    return (heads, [sorted(d.device_id for d in this_round.devices) for this_round in status.rounds]), ledger


@pytest.mark.processes
def test_killed_in_the_middle_of_planned_rounds_no_bit_of_heads_or_ledger_changes(
    plain_bundle: Path, start_server: Any, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    calm, calm_ledger = play(plain_bundle, start_server, fleet, tools, tmp_path / "calm", None)
    asked = [len(one) for one in calm[1][1:]]
    assert all(asked)
    assert sum(asked) < 3 * 5, "the total pays for some devices a round only"
    heads, ledger = play(plain_bundle, start_server, fleet, tools, tmp_path / "killed", 3)
    assert heads == calm
    assert ledger == calm_ledger
    assert all(one.uncertain_j == 0 and one.fitted_rounds == one.orders for one in calm_ledger)


def test_the_command_shows_the_ledger(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, more=BUDGET), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0, steps_done=0, stop_reason=StopReason.BUDGET))
        tools.finished(operator, run_id)
    capsys.readouterr()
    assert main(["budgets", run_id, "--coordinator", address]) == 0
    shown = capsys.readouterr().out
    assert "uncertain" in shown
    assert "3.5" in shown
    assert main(["budgets", run_id, "--json", "--coordinator", address]) == 0
    (row,) = json.loads(capsys.readouterr().out)["devices"]
    assert (row["granted_j"], row["spent_j"], row["orders"]) == (8.0, 3.5, 1)
    assert main(["budgets", "no such run", "--coordinator", address]) != 0
    assert len(capsys.readouterr().err.splitlines()) == 1
