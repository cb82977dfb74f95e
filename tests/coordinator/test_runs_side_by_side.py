"""Several runs at once: a queue with priorities, and runs beside each other that share the devices."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from coordinator.operator.client import Operator
from coordinator.run.rounds.sharing import Claim
from coordinator.store.database import Database, sqlite_url
from coordinator.store.tables import orders, rounds
from protos.orders import TrainOrder, Verdict

Fleet = Callable[..., Any]


def plan(tools: Any, bundle: Path, name: str, *, rounds: int = 1, **keys: Any) -> str:
    """A plan called so; ``beside``, ``priority`` and ``share`` go to [run]."""
    own = {key: keys.pop(key) for key in ("beside", "priority", "share") if key in keys}
    lines = "".join(f"{key} = {str(value).lower()}\n" for key, value in own.items())
    text: str = tools.plan(bundle, rounds=rounds, **keys)
    return text.replace('name = "test"\n', f'name = "{name}"\n{lines}')


def work(device: Any, orders: list[tuple[str, int, str]], done: Callable[[], bool]) -> None:
    """Answer whatever is ordered, one order at a time, until it is over."""
    while not done():
        order = device.ask()
        if isinstance(order, TrainOrder):
            orders.append((order.run_id, order.round, device.card.device_id))
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED


def played(tools: Any, address: str, fleet: Fleet, run_ids: list[str], names: str, operator: Any) -> list[Any]:
    """Devices work until these runs are over; returns what was ordered, in order."""
    ordered: list[Any] = []
    over = threading.Event()
    devices = [fleet(address, name) for name in names]
    for device in devices:
        device.join()
    threads = [threading.Thread(target=work, args=(device, ordered, over.is_set)) for device in devices]
    for thread in threads:
        thread.start()
    try:
        for run_id in run_ids:
            assert tools.finished(operator, run_id).state == "finished"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    return ordered


def test_a_run_beside_another_shares_its_devices_and_each_works_for_one_at_a_time(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        keys = {"devices": 3, "quorum": 1.0}
        first = operator.start_run(plan(tools, plain_bundle, "first", rounds=6, **keys), tmp_path)
        second = operator.start_run(plan(tools, plain_bundle, "second", rounds=6, beside=True, **keys), tmp_path)
        tools.until(lambda: "devices present" in operator.status(second)[0].reason, "the second run beside the first")
        ordered = played(tools, address, fleet, [first, second], "abc", operator)
    assert Counter(run_id for run_id, _, _ in ordered) == {first: 18, second: 18}
    db = Database(sqlite_url(tmp_path / "state/coordinator.db"))
    with db.reading() as connection:
        asked = Counter(connection.execute(select(orders.c.run_id, orders.c.round)).all())
        opened = connection.execute(select(rounds.c.run_id).where(rounds.c.round > 0).order_by(rounds.c.opened_unix_s))
        turns = list(opened.scalars())
    db.close()
    assert set(asked.values()) == {3}, "every round has all the devices, and none of them twice at once"
    assert turns[:6].count(first) == 3, "of equal shares they take turns"


def test_of_two_runs_beside_each_other_the_one_of_a_higher_share_gets_more_orders(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        more = operator.start_run(plan(tools, plain_bundle, "more", rounds=9, beside=True, share=3.0), tmp_path)
        less = operator.start_run(plan(tools, plain_bundle, "less", rounds=3, beside=True, share=1.0), tmp_path)
        for run_id in (more, less):
            tools.until(lambda run=run_id: "devices present" in operator.status(run)[0].reason, "both runs")
        ordered = played(tools, address, fleet, [more, less], "a", operator)
    turns = [run_id for run_id, _, _ in ordered]
    assert turns[:8].count(more) == 6


def test_a_run_of_a_higher_priority_goes_first_in_the_queue_and_the_queue_is_shown(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        on = operator.start_run(plan(tools, plain_bundle, "on"), tmp_path)
        tools.until(lambda: "devices present" in operator.status(on)[0].reason, "the first run")
        low = operator.start_run(plan(tools, plain_bundle, "low", priority=-1), tmp_path)
        high = operator.start_run(plan(tools, plain_bundle, "high", priority=5), tmp_path)
        assert operator.status(high)[0].reason == f"waits for {on} to end"
        assert operator.status(low)[0].reason == f"waits for {on} to end; 1 more before it"
        ordered = played(tools, address, fleet, [on, high, low], "a", operator)
    assert [run_id for run_id, _, _ in ordered] == [on, high, low]


def test_a_run_that_lacks_devices_lets_those_beside_it_work(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        many = operator.start_run(plan(tools, plain_bundle, "many", devices=50, priority=9), tmp_path)
        few = operator.start_run(plan(tools, plain_bundle, "few", rounds=2, devices=2, beside=True), tmp_path)
        played(tools, address, fleet, [few], "ab", operator)
        assert "2 of 50 devices present" in operator.status(many)[0].reason
        assert operator.stop_run(many) == "stopped"


def test_a_round_of_a_run_beside_another_ends_at_its_deadline(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        many = operator.start_run(plan(tools, plain_bundle, "many", devices=50), tmp_path)
        text = plan(tools, plain_bundle, "few", devices=2, quorum=0.5, deadline_s=3, beside=True)
        few = operator.start_run(text, tmp_path)
        here, silent = fleet(address, "here"), fleet(address, "silent")
        here.join()
        silent.join()
        order = here.order()
        assert (order.run_id, silent.order().run_id) == (few, few)
        assert here.send(here.answer(order, 1.0)).verdict is Verdict.ACCEPTED

        def is_over() -> bool:
            # Both stay present: it is the deadline that ends the round, and only a run that gathers waits for its turn.
            for device in (here, silent):
                device.ask()
            return bool(operator.status(few)[0].is_over)

        tools.until(is_over, "the end at the deadline")
        (status,) = operator.status(few)
        assert operator.stop_run(many) == "stopped"
    assert {device.device_id: device.outcome for device in status.rounds[1].devices} == {
        "here": "accepted",
        "silent": "missing",
    }


def test_runs_beside_each_other_go_on_where_they_were_after_a_restart(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        first = operator.start_run(plan(tools, plain_bundle, "first", rounds=2, devices=2, quorum=1.0), tmp_path)
        text = plan(tools, plain_bundle, "second", rounds=2, devices=2, quorum=1.0, beside=True)
        second = operator.start_run(text, tmp_path)
        device, other = fleet(address, "a"), fleet(address, "b")
        device.join()
        other.join()
        order = device.order()
        assert order.run_id in (first, second)
        report = device.answer(order, 1.0)
    with tools.served(state) as address, Operator(address) as operator:
        assert fleet(address, "a").send(report).verdict is Verdict.ACCEPTED
        ordered = played(tools, address, fleet, [first, second], "ab", operator)
    assert Counter(run_id for run_id, _, _ in ordered) == Counter({first: 4, second: 4}) - Counter({order.run_id: 1})


@pytest.mark.parametrize("share", [0.5, 1.0, 4.0])
def test_a_run_that_begins_later_neither_catches_up_nor_falls_behind(share: float) -> None:
    old, new = Claim(0, 1.0, 1), Claim(0, share, 2)
    old.took(1000)
    new.begins_beside([old])
    turns = []
    for _ in range(50):
        goes = min((old, new), key=lambda claim: claim.rank)
        goes.took(10)
        turns.append(goes)
    assert turns.count(new) == pytest.approx(50 * share / (1 + share), abs=1)
