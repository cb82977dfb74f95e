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
            asked = {one.device_id for one in operator.status(run_id)[0].rounds[number].devices}
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
        made = [heads.get(connection, one.head_version) for one in status.rounds]
    db.close()
    # The first part is after three rounds at most: in round 3 there is no interval yet, in round 4 there is one of 3.
    assert factors == {**{(number, "often"): 1.0 for number in range(1, 5)}, (3, "rarely"): 1.0, (4, "rarely"): 3.0}
    assert {one.device_id: one.weight for one in status.rounds[4].devices} == {"often": 0.25, "rarely": 0.75}
    for name, value in made[0].items():
        assert np.array_equal(made[2][name], value), "often changes nothing"


@pytest.mark.parametrize(("bound", "bits"), [(0.1, 2.0), (0.01, 4.0)])
def test_an_error_bound_chooses_the_bits_that_devices_are_told(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, bound: float, bits: float
) -> None:
    text = tools.plan(plain_bundle, devices=2, more=ON_DEMAND.format(bound=bound))
    with Operator(address) as operator:
        run_id = operator.start_run(text.replace('codec = "float32"', 'codec = "entropy_coded"'), tmp_path)
        devices = [fleet(address, name) for name in "ab"]
        for device in devices:
            device.join()
        for device in devices:
            order = device.order()
            assert (order.codec.name, order.codec.parameters["bits"]) == ("entropy_coded", bits)
            assert device.send(device.answer(order, 1.0)).verdict is Verdict.ACCEPTED
        assert tools.finished(operator, run_id).state == "finished"
