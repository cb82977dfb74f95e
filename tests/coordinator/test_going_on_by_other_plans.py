"""A run that goes on by another plan keeps what it has: late reports that were taken, and a server's state where the
new plan's optimiser can go on from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.operator.client import Operator
from coordinator.server import run_scheduler
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from protos.errors import RefusedError
from protos.model.bundle import open_bundle
from protos.orders import Verdict

Fleet = Callable[..., Any]


def _moved(state: Path, version: str, bundle: Path) -> float:
    """How far the first bias of a head lies from that of the bundle."""
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.reading() as connection:
            head = heads.get(connection, version)
    finally:
        db.close()
    return float(head["out_bias"][0] - open_bundle(bundle).initial_head()["out_bias"][0])


def test_a_server_optimiser_that_another_plan_brings_goes_on_from_the_head_and_begins_with_a_state_of_its_own(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state, kinds = tmp_path / "state", ["momentum", "adam", "yogi", "mean", "adam", "momentum"]

    def text(kind: str) -> str:
        return str(tools.plan(plain_bundle, rounds=len(kinds), more=f'[aggregate]\nserver = "{kind}"\n'))

    for at, kind in enumerate(kinds):
        # Each plan in a process of its own: what it goes on from is what is on disk.
        with tools.served(state) as address, Operator(address) as operator:
            if not at:
                run_id = operator.start_run(text(kind), tmp_path)
            else:
                operator.resume_run(run_id, text(kind), tmp_path)
            device = fleet(address, "a")
            device.join()
            order = device.order(round=at + 1)
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
            tools.until(lambda: operator.status(run_id)[0].rounds[at + 1].state != "open", "the end of the round")  # noqa: B023
            if at + 1 < len(kinds):
                assert operator.pause_run(run_id) == "paused"
                assert operator.status(run_id)[0].rounds[at + 1].state == "closed"
            else:
                assert tools.finished(operator, run_id).state == "finished"


@pytest.mark.parametrize("restarts", [False, True])
def test_a_late_report_that_was_taken_counts_also_when_the_run_goes_on_by_another_plan(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, restarts: bool
) -> None:
    def plan(staleness: int, train: str) -> str:
        more = f'[aggregate]\nweight = []\nnormalise = "none"\nstaleness = {staleness}\n{train}'
        return str(tools.plan(plain_bundle, rounds=2, devices=3, quorum=0.5, enough=0.6, late=2, more=more))

    state = tmp_path / "state"

    def joined(address: str) -> dict[str, Any]:
        # A round waits for those of the round before: the last that join.
        devices = {name: fleet(address, name) for name in "cab"}
        for device in devices.values():
            device.join()
        return devices

    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(plan(1, ""), tmp_path)
        devices = joined(address)
        orders = {name: device.order(1) for name, device in devices.items()}
        for name in "ab":
            devices[name].send(devices[name].answer(orders[name], 1.0))
        for name in "ab":
            devices[name].order(2)
        late = devices["c"].answer(orders["c"], 4.0)
        assert devices["c"].send(late).verdict is Verdict.ACCEPTED
        assert operator.pause_run(run_id) == "paused"
        with pytest.raises(RefusedError, match="round 2 holds late reports, and this plan takes none"):
            operator.resume_run(run_id, tools.plan(plain_bundle, rounds=2, devices=3), tmp_path)
        operator.resume_run(run_id, plan(2, "[train]\nepochs = 3\n"), tmp_path)
        if not restarts:
            _finish_second(operator, run_id, devices, late)
            status = tools.finished(operator, run_id)
    if restarts:
        with tools.served(state) as address, Operator(address) as operator:
            _finish_second(operator, run_id, joined(address), late)
            status = tools.finished(operator, run_id)
    assert status.state == "finished"
    first, last = (_moved(state, status.rounds[number].head_version, plain_bundle) for number in (1, 2))
    # Two reports of this round, and one that counts by the plan that is on.
    assert last - first == pytest.approx((2 * 1.0 + 0.25 * 4.0) / 2.25, abs=1e-5)


def _finish_second(operator: Operator, run_id: str, devices: dict[str, Any], late: Any) -> None:
    orders = {name: device.order(2) for name, device in devices.items()}
    # Two of three are enough.
    for name in "ca":
        assert devices[name].send(devices[name].answer(orders[name], 1.0)).verdict is Verdict.ACCEPTED
    assert devices["c"].send(late).verdict is Verdict.DUPLICATE


@pytest.mark.parametrize("restarts", [False, True])
def test_a_report_that_was_made_by_the_plan_before_is_refused_and_its_device_takes_the_renewed_order(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, restarts: bool
) -> None:
    def plan(epochs: int) -> str:
        more = f"[train]\nepochs = {epochs}\n"
        return str(tools.plan(plain_bundle, devices=2, quorum=1.0, deadline_s=600, more=more))

    def joined(address: str) -> dict[str, Any]:
        devices = {name: fleet(address, name) for name in "ab"}
        for device in devices.values():
            device.join()
        return devices

    def taken(devices: dict[str, Any]) -> None:
        for device in devices.values():
            order = device.order(1)
            assert order.attempt == 2
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED

    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(plan(1), tmp_path)
        devices = joined(address)
        orders = {name: device.order(1) for name, device in devices.items()}
        operator.pause_run(run_id)
        operator.resume_run(run_id, plan(2), tmp_path)
        devices["a"].order(1)
        refused = devices["b"].send(devices["b"].answer(orders["b"], 1.0, attempt=1))
        assert (refused.verdict, refused.reason.partition(":")[0]) == (Verdict.REJECTED, "wrong_plan")
        if not restarts:
            taken(devices)
            assert tools.finished(operator, run_id).state == "finished"
    if restarts:
        with tools.served(tmp_path / "state") as address, Operator(address) as operator:
            taken(joined(address))
            assert tools.finished(operator, run_id).state == "finished"


def test_a_harvest_is_the_one_that_a_run_was_given_with_its_plan_whatever_becomes_of_the_file(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state, table = tmp_path / "state", tmp_path / "sun.csv"

    def plan(rounds: int) -> str:
        return str(tools.plan(plain_bundle, rounds=rounds, more='[budget]\nharvest = "sun.csv"\nbattery_j = 1000\n'))

    def granted(run_id: str, address: str, number: int) -> float:
        device = fleet(address, "a")
        device.join()
        order = device.order(number)
        assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        return float(order.budget_j or 0.0)

    # So little that the day's time does not matter.
    table.write_text("hours,watts\n0,0.001\n24,0.001\n")
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(plan(2), tmp_path)
        table.write_text("hours,watts\n0,50000\n24,50000\n")
        assert granted(run_id, address, 1) < 1001
        tools.until(lambda: operator.status(run_id)[0].rounds[1].state == "closed", "the round")
        operator.pause_run(run_id)
    table.unlink()
    with tools.served(state) as address, Operator(address) as operator:
        operator.resume_run(run_id)
        assert granted(run_id, address, 2) < 1001
        assert tools.finished(operator, run_id).state == "finished"


@pytest.mark.parametrize("beside", [True, False])
def test_a_run_beside_others_goes_on_with_the_priority_that_another_plan_gives_it_or_in_its_turn(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    claims: list[tuple[int, float]] = []
    real = run_scheduler.Claim

    def claim(priority: int, share: float, sequence: int) -> Any:
        claims.append((priority, share))
        return real(priority, share, sequence)

    def plan(keys: str) -> str:
        return str(tools.plan(plain_bundle)).replace("rounds = 1\n", f"rounds = 1\n{keys}\n")

    monkeypatch.setattr(run_scheduler, "Claim", claim)
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(plan("beside = true"), tmp_path)
        tools.until(lambda: "0 of 1 devices" in operator.status(run_id)[0].reason, "its turn")
        operator.pause_run(run_id)
        operator.resume_run(
            run_id, plan("beside = true\npriority = 5\nshare = 3" if beside else "priority = 2"), tmp_path
        )
        tools.until(lambda: len(claims) == 2, "its turn")
        device = fleet(address, "a")
        device.join()
        assert device.send(device.answer(device.order(), 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
    assert claims == [(0, 1.0), (5, 3.0) if beside else (2, 1.0)]


def test_a_planner_that_another_plan_brings_does_without_the_reports_that_are_forgotten(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    def plan(more: str) -> str:
        text = tools.plan(
            plain_bundle, rounds=4, devices=2, more=f'[aggregate]\nweight = []\nnormalise = "none"\n{more}'
        )
        return str(text).replace('codec = "float32"', 'codec = "entropy_coded"', 1)

    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        run_id = operator.start_run(plan(""), tmp_path)
        devices = {name: fleet(address, name) for name in "ab"}
        for device in devices.values():
            device.join()
        held = {name: device.order(1) for name, device in devices.items()}
        # What it reported is forgotten when the round after has closed.
        assert devices["b"].send(devices["b"].answer(held["b"], 1.0)).verdict is Verdict.ACCEPTED
        devices["b"].leave()
        for number in (1, 2, 3):
            order = held["a"] if number == 1 else devices["a"].order(number)
            assert devices["a"].send(devices["a"].answer(order, 1.0)).verdict is Verdict.ACCEPTED
        tools.until(lambda: operator.status(run_id)[0].rounds[3].state == "closed", "the third round")
        operator.pause_run(run_id)
        devices["b"].join()
        operator.resume_run(run_id, plan("[budget]\nfleet_j = 60\n[planner]\npolicy = 'joules'\np_min = 1\n"), tmp_path)
        for device in devices.values():
            assert device.send(device.answer(device.order(4), 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
