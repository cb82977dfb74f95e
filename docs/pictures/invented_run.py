"""A run of eight boards as a coordinator's state holds it, written without any board: figures drawn from a seed.

For the pictures of the documents alone. Nothing in it was measured; it has what there is to see: meters and none,
limits, heat, late, missing and refused reports, and a round that is open.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np

from coordinator.budgets.order_line import OrderLine
from coordinator.store import runs
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from coordinator.store.tables import devices, energy, grants, orders, refusals, reports, rounds, strains
from protos.energy.trace import Phase
from protos.orders import DeviceCard, Engine, MeterCard

PLAN = """[run]
bundle = "digits-bundle"
name = "{name}"
rounds = 24
seed = {seed}

[round]
devices = 6
deadline_s = 120

[train]
epochs = 1

[update]
codec = "entropy_coded"

[budget]
per_round_j = 12.0

[aggregate]
weight = ["by_examples"]
"""
# Name, board, mean watts at work, examples, and whether it has a meter.
FLEET = (
    ("kitchen-pi4", "pi4", 3.9, 420, True), ("garage-pi4", "pi4", 4.1, 380, True),
    ("roof-zero2", "zero-2", 1.3, 150, True),
    ("hall-pi5", "pi5", 6.2, 510, True), ("lab-pi5", "pi5", 6.0, 490, True), ("coral-1", "coral-dev", 3.6, 300, True),
    ("barn-pi3", "pi3b+", 3.2, 260, True), ("attic-pi4", "pi4", 3.8, 350, False),
)  # fmt: skip
PHASES = ((Phase.EMBED, 0.3), (Phase.TRAIN, 1.5), (Phase.ENCODE, 0.1), (Phase.SEND, 0.25))


def write(state: Path, *, closed: int = 17, seed: int = 1, name: str = "flowers", is_over: bool = False) -> str:
    """Write the run into a coordinator's state folder; returns its id. All but the last round have closed."""
    state.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    run_id, now = f"run-{seed:010x}", time.time()
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.writing() as connection:
            head = heads.put(connection, {"out_bias": np.full(3, seed, np.float32)})
            bundle = "sha256:" + "5e" * 32
            plan = PLAN.format(name=name, seed=seed)
            runs.add(connection, NewRun(run_id, name, f"plan-{seed:016x}", plan, "/srv/lab/plans", bundle, 24, head))
            runs.add_round_zero(connection, run_id, head_version=head, accuracy=0.21, loss=1.61)
            if not connection.execute(devices.select()).first():
                connection.execute(devices.insert(), [_row(card_of(*one), now) for one in FLEET])
            for number in range(1, closed + (1 if is_over else 2)):
                runs.open_round(connection, run_id, number, 1, [OrderLine(one[0], 40, 12.0) for one in FLEET], "")
                opened = now - 95.0 * (closed + 1 - number) - 40
                is_open = number > closed
                for index, one in enumerate(FLEET):
                    _work(connection, rng, run_id, number, index, one, is_open=is_open)
                score = 0.21 + 0.68 * (1 - math.exp(-number / 5)) + 0.008 * rng.standard_normal()
                values = {"opened_unix_s": opened}
                if not is_open:
                    values |= {
                        "state": "closed",
                        "closed_unix_s": opened + 62 + 12 * rng.random(),
                        "head_version": head,
                    }
                    values |= {"accuracy": score, "loss": 1.65 * math.exp(-number / 6) + 0.31}
                mine = (rounds.c.run_id == run_id) & (rounds.c.round == number)
                connection.execute(rounds.update().where(mine).values(**values))
            # Last: a round that opens sets its run going. A run that is paused needs no bundle.
            over = {"state": "finished", "finished_unix_s": now - 900} if is_over else {"state": "paused"}
            connection.execute(runs.runs.update().where(runs.runs.c.run_id == run_id).values(**over))
    finally:
        db.close()
    return run_id


def _work(connection, rng, run_id, number, index, one, *, is_open) -> None:  # type: ignore[no-untyped-def]
    name, _, watts, examples, metered = one
    key = {"run_id": run_id, "round": number, "device_id": name}
    outcome = "accepted"
    if name == "roof-zero2" and number % 3 == 0:
        outcome = "late"
    if name == "barn-pi3" and number > 12:
        outcome = "missing"
    if name == "attic-pi4" and number in (4, 9, 17):
        outcome = "rejected"
        detail = "bad_update: coded wrongly: 17 codes are missing"
        connection.execute(refusals.insert().values(**key, code="bad_update", count=1, detail=detail))
    if is_open:
        outcome = "accepted" if index in (3, 4) else "ordered"
    told = outcome in ("accepted", "late")
    mine = (orders.c.run_id == run_id) & (orders.c.round == number) & (orders.c.device_id == name)
    up = int(1400 + 200 * rng.random()) if told else 0
    connection.execute(orders.update().where(mine).values(outcome=outcome, bytes_up=up, bytes_down=2600))
    if outcome == "accepted":
        connection.execute(
            reports.insert().values(
                **key, data=b"", sha256=b"", weight=float(examples), steps_done=40, examples=examples,
                stop_reason="budget" if name == "hall-pi5" and number % 5 == 0 else "completed",
                loss=1.7 * math.exp(-number / 6) + 0.3, embedded=examples if number == 1 else 0,
                accepted_unix_s=time.time(), attempt=1,
            )
        )  # fmt: skip
        hot = 48 + 9 * math.sin(number / 4 + index) + 2 * index
        connection.execute(
            strains.insert().values(
                **key,
                heat_s=6.0 if hot > 67 else 0.0,
                busy_s=0.0,
                hottest_c=hot,
                throttled=hot > 66,
                under_voltage=False,
            )
        )
    spent = 0.0
    if told:
        for phase, seconds in PHASES:
            lasted = seconds * (3 if phase is Phase.EMBED and number == 1 else 1) * (0.9 + 0.2 * rng.random())
            joules = watts * lasted if metered else None
            spent += joules or 0.0
            connection.execute(
                energy.insert().values(
                    **key, phase=str(phase), energy_j=joules, covered_s=lasted if metered else 0.0,
                    uncovered_s=0.0 if metered else lasted, method="measured" if metered else "unknown",
                    sensor=f"ina219:{name}" if metered else "", uncertainty_j=0.018 * joules if joules else None,
                    flags=json.dumps([] if metered else ["no-sensor"]),
                )
            )  # fmt: skip
    connection.execute(
        grants.insert().values(
            **key, unix_s=time.time(), granted_j=12.0, probability=1.0, factor=1.0, costs="{}", bytes_up=up, learnt=1
        )
    )


def card_of(name: str, board: str, watts: float, examples: int, metered: bool) -> DeviceCard:
    """What a board of the fleet says of itself."""
    meter = MeterCard("measured" if metered else "unknown", f"ina219:{name}" if metered else "")
    return DeviceCard(name, "s", "0.1.0", board, Engine("ai-edge-litert", "2.3.0", "xnnpack"), meter, examples, 40)


def _row(card: DeviceCard, now: float) -> dict[str, object]:
    left = card.device_id == "barn-pi3"
    return {
        "device_id": card.device_id,
        "session": card.session,
        "state": "left" if left else "here",
        "card": json.dumps(dataclasses.asdict(card)),
        "last_seen_unix_s": now - (1500 if left else 3),
        "reason": "the supply sagged, and it was shut down" if left else "",
    }
