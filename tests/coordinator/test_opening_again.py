"""Actions on a round are keyed by run, round and attempt: carried out twice they count once, and a restart changes
nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lossy_proxy import LossyProxy
from sqlalchemy import select

from coordinator.operator.client import Operator
from coordinator.run import resume
from coordinator.store import runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.tables import events
from protos.convert.orders import order_to
from protos.errors import EdgejouleError
from protos.orders import Verdict

Fleet = Callable[..., Any]
BATTERY = "[budget]\nbattery_j = 10\n"


@pytest.fixture
def lossy(postgres: str) -> Iterator[tuple[LossyProxy, str, str]]:
    """A proxy before an empty database: the proxy, the URL through it, and the direct one."""
    port = postgres.rpartition(":")[2].partition("/")[0]
    proxy = LossyProxy(int(port))
    yield proxy, postgres.replace(f":{port}/", f":{proxy.port}/"), postgres
    proxy.close()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for devices that do not come back."""
    real = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(real(plan), gather_s=0.3))


def _attempt(url: str, run_id: str) -> int:
    db = Database(url)
    with db.reading() as connection:
        last = runs.last_round(connection, run_id)
    db.close()
    assert last is not None
    return int(last["attempt"])


def test_a_round_whose_opening_was_not_answered_is_opened_once(
    lossy: tuple[LossyProxy, str, str], plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    proxy, through, _ = lossy
    with tools.served(tmp_path / "state", through) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, more=BATTERY), tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        proxy.lose_next_commit(after=b"INSERT INTO orders")
        b.join()
        # Its own grants counted as spent, and no device could spend anything for ever after.
        orders = tools.until(lambda: [one for one in (a.ask(), b.ask()) if hasattr(one, "budget_j")], "the orders")
        assert proxy.lost == 1
        assert all(order.budget_j == 10.0 for order in orders)
        granted = {budget.device_id: budget.granted_j for budget in operator.budgets(run_id)}
        for device in (a, b):
            assert device.send(device.answer(device.order(), 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
    assert granted == {"a": 10.0, "b": 10.0}


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("statement", [b"INSERT INTO heads", b"INSERT INTO events"])
def test_a_round_whose_end_was_not_answered_ends_once(
    lossy: tuple[LossyProxy, str, str], plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, statement: bytes
) -> None:
    proxy, through, direct = lossy
    # A round that closes does so when all have answered or left; one without its quorum waits for the deadline.
    quorum, deadline_s = (0.5, 60) if statement == b"INSERT INTO heads" else (1.0, 4)
    with tools.served(tmp_path / "state", through) as address, Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=2, quorum=quorum, deadline_s=deadline_s)
        run_id = operator.start_run(text, tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        taken = order_to(b.order()).ByteSize()
        report = a.answer(a.order(), 1.0)
        # Closed with the report of a, or abandoned for want of that of b.
        proxy.lose_next_commit(after=statement)
        assert a.send(report).verdict is Verdict.ACCEPTED
        b.leave()
        status = tools.finished(operator, run_id)
    assert proxy.lost == 1
    (of_b,) = (device for device in status.rounds[1].devices if device.device_id == "b")
    assert abs(of_b.bytes_down - taken) < 16, "an order that was sent once"
    db = Database(direct)
    with db.reading() as connection:
        query = select(events.c.detail).where(events.c.run_id == run_id, events.c.kind == "abandoned")
        told = list(connection.execute(query).scalars())
    db.close()
    assert len(told) == len(set(told)), "said once"


@pytest.mark.usefixtures("soon")
def test_a_further_attempt_does_not_count_the_orders_that_it_renews_as_spent(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=1, more=BATTERY)
        run_id = operator.start_run(text, tmp_path)
        a, b = fleet(address, "a"), fleet(address, "b")
        a.join()
        b.join()
        assert b.order().budget_j == 10.0
        assert a.send(a.answer(a.order(), 1.0)).verdict is Verdict.ACCEPTED
        # b was cut off in the middle of its work, and is back; the same start of it, which knows what it spent.
        b.join()
        tools.until(lambda: _attempt(sqlite_url(tmp_path / "state/coordinator.db"), run_id) == 2, "a second attempt")
        assert b.send(b.answer(b.order(), 1.0)).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
        granted = {budget.device_id: budget.granted_j for budget in operator.budgets(run_id)}
    assert status.state == "finished"
    assert granted == {"a": 10.0, "b": 10.0}


@pytest.mark.usefixtures("soon")
def test_a_restart_does_not_change_who_counts_in_a_further_attempt(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state, url = tmp_path / "state", sqlite_url(tmp_path / "state/coordinator.db")
    with tools.served(state) as address, Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=3, quorum=1.0, deadline_s=3)
        run_id = operator.start_run(text, tmp_path)
        devices = {name: fleet(address, name) for name in "abc"}
        for device in devices.values():
            device.join()
        orders = {name: device.order() for name, device in devices.items()}
        devices["a"].send(devices["a"].answer(orders["a"], 1.0))
        devices["c"].leave()
        tools.until(lambda: devices["b"].ask() and _attempt(url, run_id) == 2, "a second attempt")
        devices["b"].order()
    with tools.served(state) as address, Operator(address) as operator:
        b = fleet(address, "b")
        b.join()
        assert b.send(b.answer(b.order(), 1.0)).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
    assert status.state == "finished"
    assert _attempt(url, run_id) == 2, "a and b were asked in it, and both have reported"


def test_a_run_whose_start_or_resumption_was_not_answered_is_taken_up_all_the_same(
    lossy: tuple[LossyProxy, str, str], plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    proxy, through, _ = lossy
    with tools.served(tmp_path / "state", through) as address, Operator(address) as operator:
        proxy.lose_next_commit(after=b"INSERT INTO runs")
        with pytest.raises(EdgejouleError):
            operator.start_run(tools.plan(plain_bundle, rounds=2), tmp_path)
        device = fleet(address, "a")
        device.join()
        order = device.order(1)
        assert operator.pause_run(order.run_id) == "paused"
        proxy.lose_next_commit(after=b"UPDATE runs")
        with pytest.raises(EdgejouleError):
            operator.resume_run(order.run_id)
        assert device.order(1).attempt == 2
