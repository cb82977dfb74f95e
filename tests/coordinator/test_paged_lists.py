"""Lists of devices and their ledgers come in pages, whose cost does not grow with the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from counted_costs import counted, fill

from coordinator.operator import client
from coordinator.operator.client import Operator
from protos.v1 import edgejoule_pb2 as pb

PAGE = 50
CALLS = {
    "devices": lambda stub, after: stub.ListDevices(pb.ListDevicesRequest(after=after, page=PAGE), timeout=30),
    "budgets": lambda stub, after: stub.GetBudgets(
        pb.GetBudgetsRequest(run_id="run-old", after=after, page=PAGE), timeout=30
    ),
}


def page_costs(state: Path, bundle: Path, tools: Any, monkeypatch: pytest.MonkeyPatch, fleet: int) -> dict[str, Any]:
    """What a page costs in a fleet of this size, from the middle of it."""
    fill(state, bundle, known=fleet, rounds=1, in_each=fleet)
    found: dict[str, Any] = {}
    with tools.served(state) as address, Operator(address) as operator:
        for name, call in CALLS.items():
            asked: list[Counter[str]] = []
            for _ in range(3):
                with counted(monkeypatch) as counts:
                    answer = call(operator._stub, f"old-{fleet // 2:04}")
                assert len(answer.devices) == PAGE
                assert answer.more
                asked.append(Counter(counts))
            # What the coordinator does by itself meanwhile counts as well, and can only add.
            found[name] = {what: min(one[what] for one in asked) for what in ("statements", "steps")}
            found[name]["models"] = asked[0]["models"]
    return found


def test_what_a_page_costs_does_not_grow_with_the_fleet(
    plain_bundle: Path, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = page_costs(tmp_path / "few", plain_bundle, tools, monkeypatch, 110)
    many = page_costs(tmp_path / "many", plain_bundle, tools, monkeypatch, 550)
    for name in CALLS:
        assert few[name]["statements"] == many[name]["statements"], name
        assert few[name]["models"] == many[name]["models"], name
        # An index is a level deeper.
        assert many[name]["steps"] < 1.3 * few[name]["steps"] + 200, name


def part_of_a_round(state: Path, bundle: Path, tools: Any, monkeypatch: pytest.MonkeyPatch, fleet: int) -> Any:
    """What a page costs that begins in the middle of a round with so many devices, in statements, steps and bytes."""
    fill(state, bundle, known=1, rounds=2, in_each=fleet)
    asked: list[Counter[str]] = []
    with tools.served(state) as address, Operator(address) as operator:
        for _ in range(3):
            with counted(monkeypatch) as counts:
                answer = operator._stub.GetStatus(
                    pb.GetStatusRequest(
                        run_id="run-old", since_round=1, page=PAGE, parts=True, after=f"old-{fleet // 4:04}", say=1.0
                    ),
                    timeout=30,
                )
            (row,) = answer.runs[0].rounds
            assert [device.device_id for device in row.devices] == [
                f"old-{fleet // 4 + at:04}" for at in range(1, PAGE + 1)
            ]
            assert (answer.next_round, answer.next_after) == (1, f"old-{fleet // 4 + PAGE:04}")
            asked.append(counts + Counter(bytes=answer.ByteSize()))
        whole = [this_round.devices for this_round in operator.status("run-old")[0].rounds[1:]]
        monkeypatch.setattr(client, "PAGE", 0)
        assert whole == [this_round.devices for this_round in operator.status("run-old")[0].rounds[1:]]
    return {what: min(one[what] for one in asked) for what in ("statements", "steps", "bytes")}


def test_what_a_page_of_a_round_costs_does_not_grow_with_the_devices_of_that_round(
    plain_bundle: Path, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PAGE", PAGE)
    few = part_of_a_round(tmp_path / "few", plain_bundle, tools, monkeypatch, 110)
    monkeypatch.setattr(client, "PAGE", PAGE)
    many = part_of_a_round(tmp_path / "many", plain_bundle, tools, monkeypatch, 1100)
    assert many["statements"] == few["statements"]
    assert many["bytes"] < 1.3 * few["bytes"]
    assert many["steps"] < 1.3 * few["steps"] + 200


@pytest.mark.parametrize("page", [1, 7, 500])
def test_pages_put_together_are_the_whole(
    plain_bundle: Path, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    state = tmp_path / "state"
    fill(state, plain_bundle, known=9, rounds=2, in_each=14)
    with tools.served(state) as address, Operator(address) as operator:
        monkeypatch.setattr(client, "DEVICES_PAGE", page)
        devices, budgets = operator.devices(), operator.budgets("old")
        monkeypatch.setattr(client, "DEVICES_PAGE", 0)
        assert devices == operator.devices()
        assert budgets == operator.budgets("old")
    assert [device.device_id for device in devices] == [f"old-{at:04}" for at in range(14)]
    assert [budget.device_id for budget in budgets] == [f"old-{at:04}" for at in range(14)]
    assert {budget.orders for budget in budgets} == {2}


def test_a_page_goes_on_behind_a_device_that_is_gone_meanwhile(
    plain_bundle: Path, fleet: Callable[..., Any], address: str
) -> None:
    with Operator(address) as operator:
        for name in "abcd":
            device = fleet(address, name)
            device.join()
            device.leave()
        first = operator._stub.ListDevices(pb.ListDevicesRequest(page=2), timeout=30)
        assert [each_device.device_id for each_device in first.devices] == ["a", "b"]
        operator.forget_device("b")
        rest = operator._stub.ListDevices(pb.ListDevicesRequest(after="b", page=2), timeout=30)
        assert [each_device.device_id for each_device in rest.devices] == ["c", "d"]
        assert not rest.more
