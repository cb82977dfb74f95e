"""What devices would have sent is guessed from their own last changes: a served run against the estimate by hand.

The estimate is written out here in double precision, from nothing but who was asked with which chance, the weights of
the round, and what the devices sent:

    head += server_rate (A / W) (sum over all of w h + sum over those asked of w / max(p, p_min) (D - h)) / W

with D a device's change per unit of its normaliser, h the guess of it, W and A the sums over all of w and w times the
normaliser of the steps planned. h is 0.9^age of the device's own last D, and for the rest the head's own last change in
the same unit; nothing in the first round. Without FedNova, units and A / W are 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from coordinator.operator.client import Operator
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.tables import grants, orders, round_plans
from protos.energy.trace import Phase
from protos.orders import SettledEnergy, Verdict

ROUNDS, P_MIN = 6, 0.2
EXAMPLES = {"a": 40, "b": 8, "c": 120, "d": 24, "e": 64}
PLANNER = """
[budget]
fleet_j = 60
[planner]
policy = "joules"
p_min = 0.2
[aggregate]
weight = ["by_examples"]
normalise = "{normalise}"
server_rate = 0.5
"""


@dataclass
class Played:
    """What a run came to, and what its devices sent: by round and device, change and steps done."""

    versions: list[str]
    heads: list[dict[str, np.ndarray]]
    sent: dict[int, dict[str, tuple[dict[str, np.ndarray], int]]]
    planned: dict[int, dict[str, Any]] = field(default_factory=dict)


def changes(number: int, name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Each device goes its own way, and a little further astray in each round."""
    rng = np.random.default_rng([number, ord(name)])
    own = np.random.default_rng(ord(name))
    return {
        key: (own.normal(size=shape) + 0.3 * rng.normal(size=shape)).astype(np.float32)
        for key, shape in sorted(shapes.items())
    }


Restarts = tuple[tuple[int, int], ...]


def play(
    bundle: Path, fleet: Callable[..., Any], tools: Any, state: Path, normalise: str, restarts: Restarts
) -> Played:
    """Play all rounds; ``restarts``: a round, and after how many of its reports a new coordinator takes the place."""
    text = tools.plan(bundle, rounds=ROUNDS, devices=5, quorum=1.0, more=PLANNER.format(normalise=normalise))
    text = text.replace('codec = "float32"', 'codec = "entropy_coded"', 1)
    sent: dict[int, dict[str, Any]] = {}
    left = [(number, count) for number, count in restarts]
    run_id, number, answered = "", 1, 0
    while number <= ROUNDS:
        with tools.served(state) as address, Operator(address) as operator:
            if not run_id:
                run_id = operator.start_run(text, bundle.parent)
            devices = {name: fleet(address, name, train_examples=count) for name, count in EXAMPLES.items()}
            for device in devices.values():
                device.join()
            while number <= ROUNDS and (number, answered) not in left:
                tools.until(lambda: len(operator.status(run_id)[0].rounds) > number, f"round {number}")  # noqa: B023
                asked = sorted(device.device_id for device in operator.status(run_id)[0].rounds[number].devices)
                here = sent.setdefault(number, {})
                for name in [device_id for device_id in asked if device_id not in here]:
                    order = devices[name].order(round=number)
                    shapes = {one.name: one.shape for one in order.head}
                    # One is cut short, one does nothing at all in one round.
                    steps = {"c": 2, "e": 0 if number == 3 else order.steps}.get(name, order.steps)
                    change = changes(number, name, shapes)
                    report = devices[name].answer(order, change, steps_done=min(steps, order.steps))
                    assert devices[name].send(report).verdict is Verdict.ACCEPTED
                    told = SettledEnergy(run_id, number, (tools.joules(Phase.SEND, 0.25),))
                    here[name] = (change, report.steps_done)
                    answered += 1
                    # The last report of a round opens the next, which must not depend on when this comes.
                    if len(here) < len(asked):
                        devices[name].ask(told)
                    if (number, answered) in left:
                        break
                if len(here) == len(asked):
                    number, answered = number + 1, 0
            if (number, answered) in left:
                left.remove((number, answered))
                continue
            status = tools.finished(operator, run_id)
    assert status.state == "finished"
    versions = [this_round.head_version for this_round in status.rounds]
    db = Database(sqlite_url(state / "coordinator.db"))
    with db.reading() as connection:
        kept = [heads.get(connection, version) for version in versions]
        planned: dict[int, dict[str, Any]] = {}
        for row in connection.execute(select(round_plans)):
            planned[row.round] = {"weights": json.loads(row.weights), "weight": row.weight, "work": row.work}
        lines = select(grants.c.round, grants.c.device_id, grants.c.probability, orders.c.steps).join(
            orders, (grants.c.round == orders.c.round) & (grants.c.device_id == orders.c.device_id)
        )
        for row in connection.execute(lines):
            planned[row.round][row.device_id] = (row.probability, row.steps)
    db.close()
    return Played(versions, kept, sent, planned)


def by_hand(played: Played, normalise: str) -> list[dict[str, np.ndarray]]:
    """The heads of all rounds, from the formula."""
    nova = normalise == "fednova"
    head = {name: value.astype(np.float64) for name, value in played.heads[0].items()}
    made, own = [head], {}
    last = None
    for number in range(1, ROUNDS + 1):
        plan = played.planned[number]
        weights, unit = plan["weights"], plan["work"] / plan["weight"] if nova else 1.0
        whole = sum(weights.values())
        guess = {}
        for name in weights:
            guess[name] = {key: np.zeros_like(value) for key, value in head.items()}
            if last is not None:
                age, mine = own.get(name, (0, None))
                fresh = 0.9 ** (number - 1 - age) if mine is not None else 0.0
                for key in head:
                    guess[name][key] = (1 - fresh) * last[key] + (fresh * mine[key] if mine is not None else 0.0)
        sums = {key: sum(weights[name] * guess[name][key] for name in weights) for key in head}
        for name, (change, steps) in played.sent[number].items():
            if not steps:
                continue
            say = weights[name] / max(plan[name][0], P_MIN)
            each = {key: value.astype(np.float64) / (steps if nova else 1) for key, value in change.items()}
            for key in head:
                sums[key] = sums[key] + say * (each[key] - guess[name][key])
            own[name] = (number, each)
        moved = {key: 0.5 * unit * sums[key] / whole for key in head}
        head = {key: head[key] + moved[key] for key in head}
        last = {key: moved[key] / (0.5 * unit) for key in head}
        made.append(head)
    return made


@pytest.mark.parametrize("normalise", ["fednova", "none"])
def test_a_served_run_is_the_estimate_by_hand_also_after_restarts(
    normalise: str, plain_bundle: Path, fleet: Callable[..., Any], tools: Any, tmp_path: Path
) -> None:
    calm = play(plain_bundle, fleet, tools, tmp_path / "calm", normalise, ())
    chances = [calm.planned[n][name][0] for n in calm.sent for name in calm.sent[n]]
    assert min(chances) < 0.9, "some are asked by chance"
    asked = {name: [n for n in calm.sent if name in calm.sent[n]] for name in EXAMPLES}
    assert any(two - value > 1 for rounds in asked.values() for value, two in pairwise(rounds)), "memories age"
    for found, expected in zip(calm.heads, by_hand(calm, normalise), strict=True):
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=2e-5)
    restarted = play(plain_bundle, fleet, tools, tmp_path / "restarted", normalise, ((4, 0), (5, 1)))
    assert restarted.versions == calm.versions, "what was remembered is made again from the reports, bit by bit"
