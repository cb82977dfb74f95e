"""Policies that a plan can name, through a coordinator that serves them: from the file to what devices are told and the
head that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from coordinator.operator.client import Operator
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.tables import grants
from protos.orders import Verdict

Fleet = Callable[..., Any]
FEDAU = '[planner]\nparticipation = "fedau"\n[aggregate]\nweight = ["by_examples"]\nnormalise = "none"\n'
ON_DEMAND = '[budget]\nfleet_j = 100\n[planner]\npolicy = "on_demand"\nerror_bound = {bound}\n'


def test_who_takes_part_in_every_third_round_counts_three_times(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        text = tools.plan(plain_bundle, rounds=4, devices=1, quorum=1.0, more=FEDAU)
        run_id = operator.start_run(text, tmp_path)
        often, rarely = fleet(address, "often"), fleet(address, "rarely")
        often.join()
        for number in range(1, 5):
            order = often.order(round=number)
            if number == 2:
                # Too late for the second round, in time for the third.
                rarely.join()
            asked = {device.device_id for device in operator.status(run_id)[0].rounds[number].devices}
            assert asked == ({"often", "rarely"} if number > 2 else {"often"})
            if number > 2:
                other = rarely.order(round=number)
                assert rarely.send(rarely.answer(other, 4.0)).verdict is Verdict.ACCEPTED
            assert often.send(often.answer(order, 0.0)).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
    db = Database(sqlite_url(state / "coordinator.db"))
    with db.reading() as connection:
        rows = connection.execute(select(grants.c.round, grants.c.device_id, grants.c.factor))
        factors = {(row.round, row.device_id): row.factor for row in rows}
        made = [heads.get(connection, this_round.head_version) for this_round in status.rounds]
    db.close()
    # The first part is after three rounds at most: in round 3 there is no interval yet, in round 4 there is one of 3.
    assert factors == {**{(number, "often"): 1.0 for number in range(1, 5)}, (3, "rarely"): 1.0, (4, "rarely"): 3.0}
    assert {device.device_id: device.weight for device in status.rounds[4].devices} == {"often": 0.25, "rarely": 0.75}
    for name, value in made[0].items():
        assert np.array_equal(made[2][name], value), "often changes nothing"


@pytest.mark.parametrize(("bound", "bits"), [(0.1, 2.0), (0.01, 4.0)])
def test_an_error_bound_chooses_the_bits_that_devices_are_told(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, bound: float, bits: float
) -> None:
    text = tools.plan(plain_bundle, devices=2, more=ON_DEMAND.format(bound=bound))
    with Operator(address) as operator:
        run_id = operator.start_run(text.replace('codec = "float32"', 'codec = "entropy_coded"', 1), tmp_path)
        devices = [fleet(address, name) for name in "ab"]
        for device in devices:
            device.join()
        for device in devices:
            order = device.order()
            assert (order.codec.name, order.codec.parameters["bits"]) == ("entropy_coded", bits)
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"


def test_joules_of_the_fleet_that_pay_for_a_part_of_it_are_spent_in_expectation_and_on_all_alike(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state, names = tmp_path / "state", [f"d{number}" for number in range(8)]
    more = "[budget]\nfleet_j = {}\n[planner]\npolicy = 'joules'\np_min = 0.1\n"
    with tools.served(state) as address, Operator(address) as operator:
        devices = {name: fleet(address, name) for name in names}
        for device in devices.values():
            device.join()

        def planned(fleet_j: float) -> dict[str, tuple[float, float]]:
            text = tools.plan(plain_bundle, rounds=2, devices=len(names), quorum=0.1, more=more.format(fleet_j))
            run_id = operator.start_run(text.replace('codec = "float32"', 'codec = "entropy_coded"', 1), tmp_path)
            tools.until(lambda: len(operator.status(run_id)[0].rounds) > 1, "the first round")
            asked = [device.device_id for device in operator.status(run_id)[0].rounds[1].devices]
            for name in asked[:1]:
                assert devices[name].order().run_id == run_id
            operator.stop_run(run_id)
            db = Database(sqlite_url(state / "coordinator.db"))
            with db.reading() as connection:
                rows = connection.execute(select(grants).where(grants.c.run_id == run_id)).all()
            db.close()
            assert {row.device_id for row in rows} == set(asked)
            return {row.device_id: (row.probability, row.expected_j) for row in rows}

        found = planned(1e6)
        assert set(found) == set(names), "all that there are, where the fleet has enough"
        assert {probability for probability, _ in found.values()} == {1.0}
        (cost_j,) = {cost_j for _, cost_j in found.values()}
        # Half of what two rounds of all of them cost: each takes part in a round by the toss of a coin.
        part = planned(0.5 * 2 * len(names) * cost_j)
    assert 0 < len(part) <= len(names)
    for probability, expected_j in part.values():
        assert expected_j == cost_j
        assert abs(probability - 0.5) < 1e-6
