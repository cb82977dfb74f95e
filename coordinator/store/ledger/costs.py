"""Cost models by device and bundle, and what each round was planned for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, bindparam, delete, select, update

from coordinator.budgets.cost_model import CostModel
from coordinator.budgets.unbiased import Whole
from coordinator.operator.status import WeightBias
from coordinator.store.keys import batched
from coordinator.store.ledger import known_fits
from coordinator.store.tables import cost_models, round_plans

# Made once: putting a statement together costs more than a small one takes.
_FITS_OF = select(cost_models.c.device_id, cost_models.c.state).where(
    cost_models.c.device_id.in_(bindparam("devices", expanding=True)), cost_models.c.bundle_id == bindparam("bundle")
)

_PLANS = select(round_plans).where(
    round_plans.c.run_id == bindparam("run"),
    round_plans.c.round >= bindparam("since"),
    round_plans.c.round <= bindparam("last"),
)


def models(connection: Connection, bundle_id: str) -> dict[str, CostModel]:
    """Every fit for work with this bundle, by device."""
    query = select(cost_models.c.device_id, cost_models.c.state).where(cost_models.c.bundle_id == bundle_id)
    return {row.device_id: CostModel.from_state(json.loads(row.state)) for row in connection.execute(query)}


def models_of(
    connection: Connection, bundle_id: str, device_ids: Iterable[str], *, to_learn: bool = False
) -> dict[str, CostModel]:
    """The fits of these devices for work with this bundle, by device: nobody else's is read.

    Args:
        to_learn: they are the caller's, to change; else they are shared, and stay as they are.
    """
    made: dict[str, CostModel] = {}
    for some in batched(device_ids):
        for row in connection.execute(_FITS_OF, {"devices": some, "bundle": bundle_id}):
            made[row.device_id] = known_fits.fit(connection, row.device_id, bundle_id, row.state, to_learn=to_learn)
    return made


def keep(connection: Connection, device_id: str, bundle_id: str, model: CostModel) -> None:
    """Write down a fit."""
    key = and_(cost_models.c.device_id == device_id, cost_models.c.bundle_id == bundle_id)
    state = model.text()
    if not connection.execute(update(cost_models).where(key).values(state=state)).rowcount:
        connection.execute(cost_models.insert().values(device_id=device_id, bundle_id=bundle_id, state=state))


@dataclass(frozen=True)
class KeptPlan:
    """For whom a round was planned, with their weights; without ``whole``, for those whose reports come."""

    whole: Whole | None
    weights: Mapping[str, float]
    bias: WeightBias


def keep_plan(connection: Connection, run_id: str, number: int, plan: KeptPlan) -> None:
    """Write down what a round was planned for; a further attempt at it replaces what was there."""
    connection.execute(delete(round_plans).where(_round(run_id, number)))
    whole = plan.whole
    connection.execute(
        round_plans.insert(),
        {
            "run_id": run_id,
            "round": number,
            "weight": None if whole is None else whole.weight,
            "work": None if whole is None else whole.work,
            "weights": json.dumps(dict(plan.weights), sort_keys=True),
            "bias": json.dumps({**vars(plan.bias), "left_out": list(plan.bias.left_out)}),
        },
    )


def plans(
    connection: Connection, run_id: str, since_round: int = 0, last_round: int = 2**31 - 1
) -> dict[int, KeptPlan]:
    """By round."""
    made: dict[int, KeptPlan] = {}
    asked = {"run": run_id, "since": since_round, "last": last_round}
    for row in connection.execute(_PLANS, asked).mappings():
        bias = json.loads(row["bias"])
        whole = None if row["weight"] is None else Whole(row["weight"], row["work"])
        made[row["round"]] = KeptPlan(
            whole, json.loads(row["weights"]), WeightBias(**{**bias, "left_out": tuple(bias["left_out"])})
        )
    return made


def whole_of(connection: Connection, run_id: str, number: int) -> Whole | None:
    """Whom a round speaks for, where devices were drawn; else None."""
    query = select(round_plans.c.weight, round_plans.c.work).where(_round(run_id, number))
    row = connection.execute(query).first()
    return None if row is None or row.weight is None else Whole(row.weight, row.work)


def _round(run_id: str, number: int) -> ColumnElement[bool]:
    return and_(round_plans.c.run_id == run_id, round_plans.c.round == number)
