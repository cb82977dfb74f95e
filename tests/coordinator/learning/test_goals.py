"""A run ends when its goal is reached, or its joules are spent, and says which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator.operator.client import Operator
from protos.energy.trace import Phase


def test_a_run_ends_when_its_joules_are_spent(tools: Any, plain_bundle: Path, address: str, fleet: Any) -> None:
    device = fleet(address, "d1")
    device.join()
    with Operator(address) as operator:
        # A scripted round costs 3.5 J.
        text = tools.plan(plain_bundle, rounds=9, more="[evaluate]\nuntil_j = 6.0\n")
        run_id = operator.start_run(text, plain_bundle.parent)
        for number in (1, 2):
            device.send(device.answer(device.order(number), 0.1))
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    assert [this_round.round for this_round in status.rounds if this_round.state == "closed"] == [0, 1, 2]
    assert status.reason == "the devices have spent 7 J, and the run was to end at 6 J"


def test_joules_that_may_have_been_spent_count_towards_the_end(
    tools: Any, plain_bundle: Path, address: str, fleet: Any
) -> None:
    device = fleet(address, "d1")
    device.join()
    with Operator(address) as operator:
        # Of the 4 J that it was granted 1.5 are known to be spent, and nobody knows what training took.
        more = "[budget]\nper_round_j = 4.0\n[evaluate]\nuntil_j = 3.0\n"
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=9, more=more), plain_bundle.parent)
        energy = (tools.joules(Phase.EMBED, 1.0), tools.joules(Phase.TRAIN, None), tools.joules(Phase.ENCODE, 0.5))
        device.send(device.answer(device.order(1), 0.1, energy=energy))
        status = tools.finished(operator, run_id)
        (account,) = operator.budgets(run_id)
    assert [this_round.round for this_round in status.rounds if this_round.state == "closed"] == [0, 1]
    assert (account.spent_j, account.uncertain_j) == (1.5, 2.5)
    assert status.reason == "the devices have spent 4 J, and the run was to end at 3 J"


def test_a_run_ends_when_its_goal_is_reached(tools: Any, digits: Path, address: str, fleet: Any) -> None:
    device = fleet(address, "d1")
    device.join()
    with Operator(address) as operator:
        data = digits / "digits.npz"
        text = tools.plan(digits / "digits", rounds=9, more=f'[evaluate]\ndata = "{data}"\nuntil = 0.01\n')
        run_id = operator.start_run(text, digits)
        tools.until(lambda: operator.status(run_id)[0].is_over, "the end")
        status = operator.status(run_id)[0]
    # The head that it began with is good enough: no device is asked for anything.
    assert status.state == "finished"
    assert status.reason.startswith("the goal of 0.01 was reached in round 0 with 0.")
