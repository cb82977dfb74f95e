"""Server optimisers and local corrections: one contract for every row, their formulas, and a restart in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import head, report_of

from coordinator.aggregate.server_optimisers import SERVER_OPTIMISERS, ServerSettings
from coordinator.budgets.order_line import OrderLine
from coordinator.operator.client import Operator
from coordinator.run.reports.aggregation import Fold
from coordinator.store.database import Database
from coordinator.store.models import heads
from protos.errors import PlanError
from protos.normaliser import of_optimiser
from protos.plan.plan import parse
from protos.plan.sections import SERVERS, AggregateSection
from protos.update.tensors import decode
from protos.update.trees import shapes, subtract

Fleet = Callable[..., Any]
SHAPES = {"out_bias": (3,), "out_kernel": (4, 3)}
SETTINGS = ServerSettings(0.9, 0.99, 1e-3)
ROWS = sorted(SERVER_OPTIMISERS)


def changes(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(4)
    return [{name: random.normal(0, 0.1, shape) for name, shape in SHAPES.items()} for _ in range(count)]


def test_a_plan_knows_every_row() -> None:
    assert sorted(SERVERS) == ROWS


@pytest.mark.parametrize("name", ROWS)
def test_the_first_move_has_the_sign_of_the_change_and_no_change_moves_nothing(name: str) -> None:
    row = SERVER_OPTIMISERS[name]
    (change,) = changes(1)
    moved, _ = row.step(change, row.start(SHAPES, SETTINGS), SETTINGS)
    for key in SHAPES:
        np.testing.assert_array_equal(np.sign(moved[key]), np.sign(change[key]))
    nothing = {key: np.zeros(shape) for key, shape in SHAPES.items()}
    moved, _ = row.step(nothing, row.start(SHAPES, SETTINGS), SETTINGS)
    assert all((value == 0).all() for value in moved.values())


@pytest.mark.parametrize("name", ROWS)
def test_a_step_changes_nothing_that_it_was_given_and_is_the_same_each_time(name: str) -> None:
    row = SERVER_OPTIMISERS[name]
    first, second = changes(2)
    _, state = row.step(first, row.start(SHAPES, SETTINGS), SETTINGS)
    before = {key: value.copy() for key, value in state.items()}
    one, after_one = row.step(second, state, SETTINGS)
    two, after_two = row.step(second, state, SETTINGS)
    for key, value in state.items():
        np.testing.assert_array_equal(value, before[key])
        np.testing.assert_array_equal(after_one[key], after_two[key])
    for key in SHAPES:
        np.testing.assert_array_equal(one[key], two[key])


@pytest.mark.parametrize("name", ROWS)
def test_a_state_that_was_written_down_goes_on_with_the_same_bits(name: str, db: Database) -> None:
    row, state = SERVER_OPTIMISERS[name], SERVER_OPTIMISERS[name].start(SHAPES, SETTINGS)
    *some, last = changes(4)
    for change in some:
        _, state = row.step(change, state, SETTINGS)
    if not state:
        return
    with db.writing() as connection:
        read = heads.get(connection, heads.put(connection, state))
    one, _ = row.step(last, state, SETTINGS)
    two, _ = row.step(last, read, SETTINGS)
    for key in SHAPES:
        np.testing.assert_array_equal(one[key], two[key])


def test_the_formulas() -> None:
    d = {"out_bias": np.array([0.2, -0.1, 0.0]), "out_kernel": np.full((4, 3), 0.5)}
    momentum = SERVER_OPTIMISERS["momentum"]
    _, state = momentum.step(d, momentum.start(SHAPES, SETTINGS), SETTINGS)
    moved, _ = momentum.step(d, state, SETTINGS)
    np.testing.assert_allclose(moved["out_kernel"], 1.9 * 0.5, rtol=1e-6)
    for name, second in (("adam", 0.99 * 1e-6 + 0.01 * 0.25), ("yogi", 1e-6 + 0.01 * 0.25)):
        row = SERVER_OPTIMISERS[name]
        moved, _ = row.step(d, row.start(SHAPES, SETTINGS), SETTINGS)
        np.testing.assert_allclose(moved["out_kernel"], 0.1 * 0.5 / (second**0.5 + 1e-3), rtol=1e-5)


@pytest.mark.parametrize("name", ROWS)
def test_a_round_goes_on_from_the_state_that_the_one_before_it_left(name: str) -> None:
    plan = AggregateSection(weight=(), normalise="none", server=name, server_rate=0.5)
    row, settings = SERVER_OPTIMISERS[name], ServerSettings(plan.server_momentum, plan.server_second, plan.server_tau)
    now, sent = head(0), head(1)
    left, by_hand = None, row.start(shapes(now), settings)
    for _ in range(3):
        fold = Fold(plan, shapes(now), {"a": OrderLine("a", 5, None)}, server=left)
        fold.add(report_of("a"), sent)
        move, by_hand = row.step({key: value.astype(np.float64) for key, value in sent.items()}, by_hand, settings)
        after = fold.head_after(now)
        for key, moved in subtract(after, now).items():
            np.testing.assert_allclose(moved, 0.5 * move[key], rtol=1e-4, atol=1e-6)
        now, left = after, fold.server_after
        assert sorted(left) == sorted(by_hand)
        for key, value in by_hand.items():
            np.testing.assert_array_equal(left[key], value)


def test_an_adaptive_server_has_a_rate_of_its_own_and_no_planner() -> None:
    assert parse('[run]\nbundle = "b"\n[aggregate]\nserver = "adam"').aggregate.server_rate == 0.03
    assert parse('[run]\nbundle = "b"\n[aggregate]\nserver = "momentum"').aggregate.server_rate == 1.0
    planned = '[update]\ncodec = "eden"\n[planner]\npolicy = "joules"\n'
    with pytest.raises(PlanError, match="a planner guesses changes from plain ones"):
        parse(f'[run]\nbundle = "b"\n{planned}[aggregate]\nserver = "yogi"')


# What docs/plans.md calls them, as the lines of a plan that they are.
LINES = {
    "FedAvg": "",
    "FedProx": "[train]\nepochs = 1\nproximal_mu = 0.1\n",
    "FedAvgM": '[aggregate]\nserver = "momentum"\n',
    "FedAdam": '[aggregate]\nserver = "adam"\n',
    "FedYogi": '[aggregate]\nserver = "yogi"\n',
    "SCAFFOLD": '[train]\nepochs = 1\ncorrection = "scaffold"\n[aggregate]\nweight = ["by_examples"]\n',
    "SCAFFOLD with FedAvgM": '[train]\nepochs = 1\ncorrection = "scaffold"\n[aggregate]\n'
    'weight = ["by_examples"]\nserver = "momentum"\n',
}


def answered(device: Any, order: Any, change: float, *, steps: int | None = None) -> Any:
    """An honest report, with its FedNova's ||a||_1 and its control."""
    done = order.steps if steps is None else steps
    fields: dict[str, Any] = {
        "steps_done": done,
        "local_normaliser": of_optimiser("sgd", done, order.inputs),
        "control_held": order.control is not None and order.round > 1,
        "control_version": "" if order.control is None else order.control.version,
    }
    return device.send(device.answer(order, change, **fields))


@pytest.mark.parametrize("name", LINES)
def test_any_of_them_goes_on_after_a_restart_with_the_same_bits(
    name: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    found: dict[str, list[Any]] = {}
    for kind in ("through", "restarted"):
        state, last = tmp_path / kind, None
        with tools.served(state) as address, Operator(address) as operator:
            run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, more=LINES[name]), tmp_path)
            device = fleet(address, "a", session=kind)
            device.join()
            first = device.order(round=1)
            assert answered(device, first, 0.25).verdict == "accepted"
            if kind == "through":
                assert answered(device, device.order(round=2), 0.5).verdict == "accepted"
                last = device.order(round=3)
            else:
                tools.until(lambda: len(operator.status(run_id)[0].rounds) > 1, "round 1")  # noqa: B023
        if kind == "restarted":
            with tools.served(state) as address:
                device = fleet(address, "a", session="again")
                device.join()
                assert answered(device, device.order(round=2), 0.5).verdict == "accepted"
                last = device.order(round=3)
        assert last is not None
        parts = (*last.head, *(last.control.tensors if last.control is not None else ()))
        found[kind] = [decode([part], {part.name: part.shape})[part.name] for part in parts]
    assert len(found["through"]) == (4 if "SCAFFOLD" in name else 2)
    for one, two in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", LINES)
def test_a_round_in_which_nobody_makes_a_step_moves_nothing(
    name: str, plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle, rounds=4, more=LINES[name]), tmp_path)
        device = fleet(address, "a")
        device.join()
        answered(device, device.order(round=1), 0.25)
        before = device.order(round=2)
        answered(device, before, 0.0, steps=0)
        after = device.order(round=3)
        assert after.head_version == before.head_version
        assert after.control == before.control
        assert answered(device, after, 0.25).verdict == "accepted"
        # What was there before is not lost by a round without a step.
        last = device.order(round=4)
        assert last.head_version != before.head_version
        assert last.control is None or last.control.epoch == 1


def test_momentum_goes_on_after_a_restart(plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path) -> None:
    more = '[aggregate]\nserver = "momentum"\nserver_momentum = 0.5\nnormalise = "none"\n'
    found: dict[str, list[Any]] = {}
    for kind in ("through", "restarted"):
        state, head = tmp_path / kind, None
        with tools.served(state) as address, Operator(address) as operator:
            run_id = operator.start_run(tools.plan(plain_bundle, rounds=3, more=more), tmp_path)
            device = fleet(address, "a", session=kind)
            device.join()
            device.send(device.answer(device.order(round=1), 0.25))
            if kind == "through":
                device.send(device.answer(device.order(round=2), 0.25))
                head = device.order(round=3).head
            else:
                tools.until(lambda: len(operator.status(run_id)[0].rounds) > 1, "round 1")  # noqa: B023
        if kind == "restarted":
            with tools.served(state) as address:
                device = fleet(address, "a", session="again")
                device.join()
                device.send(device.answer(device.order(round=2), 0.25))
                head = device.order(round=3).head
        assert head is not None
        tree = decode(head, {one.name: one.shape for one in head})
        found[kind] = [tree[name] for name in sorted(tree)]
        # Moves of 0.25, then 0.5 x 0.25 + 0.25.
        np.testing.assert_allclose(tree["out_bias"], 0.25 + 0.375)
    for one, two in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(one, two)
