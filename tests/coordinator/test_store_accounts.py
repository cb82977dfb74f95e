"""What a store says of joules, shares and plans: each joule once, and the unknown as unknown."""

from __future__ import annotations

from stored_runs import accept, head, report_of, started

from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel, Prices
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.unbiased import Whole
from coordinator.operator.status import WeightBias
from coordinator.run.rounds import round_budgets
from coordinator.store import batches, devices, reading, reports, runs
from coordinator.store.database import Database
from coordinator.store.ledger import accounts as grants
from coordinator.store.ledger import costs, sums
from coordinator.store.models import heads
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import CostHint
from protos.update.trees import version


def test_energy_said_again_replaces_and_unknown_never_replaces_known(db: Database) -> None:
    started(db)

    def settle(energy_j: float | None) -> None:
        record = PhaseEnergy(Phase.SEND, energy_j, 1.0, 0.0, "measured", "s", None)
        with db.writing() as connection:
            reports.settle(connection, "run-1", 1, "a", [record])

    def shown() -> tuple[float | None, int]:
        with db.reading() as connection:
            return devices.spent(connection)["a"]

    settle(None)
    assert shown() == (None, 1), "unknown is not zero"
    settle(0.25)
    settle(0.5)
    settle(0.5)
    settle(None)
    assert shown() == (0.5, 0)


def test_idling_is_no_cost_of_a_device_in_a_round_and_in_all(db: Database) -> None:
    started(db)
    accept(db, report_of("a", 2.0))
    idle, send = (PhaseEnergy(phase, 0.5, 1.0, 0.0, "measured", "s", None) for phase in (Phase.IDLE, Phase.SEND))
    unknown = PhaseEnergy(Phase.IDLE, None, 0.0, 1.0, "unknown", "s", None)
    with db.writing() as connection:
        reports.settle(connection, "run-1", 1, "a", [idle, send])
        reports.settle(connection, "run-1", 1, "b", [unknown])
    with db.reading() as connection:
        assert devices.spent(connection) == {"a": (2.5, 0)}
        by_device = {device.device_id: device for device in reading.run_status(connection, "run-1").rounds[1].devices}
    assert by_device["a"].spent_j == 2.5
    assert by_device["b"].spent_j is None
    assert [phase_energy.phase for phase_energy in by_device["a"].energy] == [Phase.IDLE, Phase.TRAIN, Phase.SEND]


def test_a_status_tells_shares_bytes_and_unknowns(db: Database) -> None:
    started(db)
    accept(db, report_of("a"), 1.0)
    accept(db, report_of("b", None), 3.0)
    with db.writing() as connection:
        runs.add_bytes_down(connection, "run-1", 1, {"a": 100, "b": 50})
        runs.close_round(connection, "run-1", 1, head_version=heads.put(connection, head(2)), accuracy=0.75, loss=0.5)
    with db.reading() as connection:
        status = reading.run_status(connection, "run-1")
        assert [this_round.round for this_round in reading.run_status(connection, "run-1", 1).rounds] == [1]
    zero, one = status.rounds
    assert (zero.accuracy, zero.loss, zero.devices) == (0.5, None, ())
    assert (one.state, one.accuracy, one.head_version) == ("closed", 0.75, version(head(2)))
    assert one.bytes_down == 150
    a, b = one.devices
    assert (a.weight, b.weight, a.budget_j, b.budget_j) == (0.25, 0.75, None, 2.5)
    assert (a.spent_j, b.spent_j) == (2.0, None)
    assert a.energy[0].flags == ("x",)


def test_the_ledger_counts_each_joule_once_and_what_is_not_told_as_uncertain(db: Database) -> None:
    started(db)
    hint = CostHint(0.0, 0.1, 0.25, 3.0)
    lines = [
        OrderLine("a", 5, 8.0, 4.0, 0.5, 2.0, 3.0, 2.5, hint),
        OrderLine("b", 7, 2.5, expected_j=1.0),
    ]
    with db.writing() as connection:
        grants.add(connection, "run-1", 1, lines, 1000.0)
        grants.add(connection, "run-1", 1, [OrderLine("a", 5, 99.0)], 2000.0)
    with db.reading() as connection:
        found = grants.complete(connection, "run-1", 1, runs.lines_of(connection, "run-1", 1))
        assert (found["a"].budget_j, found["a"].factor, found["a"].costs) == (None, 2.0, hint)
        before = grants.accounts(connection, "run-1", 0.0)
        assert (before["a"].granted_j, before["a"].uncertain_j, before["a"].pending_j) == (8.0, 8.0, 2.5)
    accept(db, report_of("a", 2.0))
    told = [PhaseEnergy(phase, 0.5, 1.0, 0.0, "measured", "s", None) for phase in (Phase.EMBED, Phase.ENCODE)]
    with db.writing() as connection:
        for _ in range(2):
            reports.settle(connection, "run-1", 1, "a", told)
        half = grants.accounts(connection, "run-1", 0.0)["a"]
        assert (half.spent_j, half.uncertain_j) == (3.0, 0.5), "twice what sending is expected to cost"
        reports.settle(connection, "run-1", 1, "a", [PhaseEnergy(Phase.SEND, 0.25, 1.0, 0.0, "measured", "s", None)])
        ((lesson, joules),) = batches.lessons(connection, "run-1", 1, ["a"]).values()
        assert (lesson.steps, lesson.embedded) == (5, 40)
        assert sum(phase_energy.energy_j or 0.0 for phase_energy in joules) == 3.25
        batches.learnt(
            connection,
            "run-1",
            1,
            "sha256:b",
            {"a": CostModel(prices_of("pi4", macs=None, coordinates=5, batch_size=8))},
        )
        assert batches.lessons(connection, "run-1", 1, ["a"]) == {}
        whole = grants.accounts(connection, "run-1", 1500.0)
    assert (whole["a"].spent_j, whole["a"].uncertain_j, whole["a"].today_j) == (3.25, 0.0, 0.0)
    assert (whole["b"].spent_j, whole["b"].uncertain_j) == (0.0, 2.5)


def test_sums_are_kept_with_how_far_they_go(db: Database) -> None:
    started(db)
    one, two = grants.Account(1, 8.0, 3.0), grants.Account(2, 16.0, 7.5, today_j=4.5)
    with db.writing() as connection:
        assert sums.mark(connection, "run-1") == sums.Mark()
        sums.keep(connection, "run-1", sums.Mark(1, 1000.0), {"a": one, "b": one}, anew=True)
        assert sums.mark(connection, "run-1") == sums.Mark(1, 1000.0)
        sums.keep(connection, "run-1", sums.Mark(2, 2000.0), {"a": two}, anew=False)
        assert sums.mark(connection, "run-1") == sums.Mark(2, 2000.0)
        found, stale = sums.of_run(connection, "run-1")
        assert {name: (of["orders"], of["spent_j"]) for name, of in found.items()} == {"a": (2, 7.5), "b": (1, 3.0)}
        assert stale == []
        sums.keep(connection, "run-1", sums.Mark(3, 2000.0), {"b": two}, anew=True)
        assert list(sums.of_run(connection, "run-1")[0]) == ["b"]


def test_a_sensor_that_fell_off_leaves_all_of_the_grant_uncertain(db: Database) -> None:
    started(db)
    with db.writing() as connection:
        grants.add(connection, "run-1", 1, [OrderLine("a", 5, 8.0, costs=CostHint(0.0, 0.1, 0.25, 3.0))], 1000.0)
    accept(db, report_of("a", None))
    told = [
        PhaseEnergy(phase, 0.5, 1.0, 0.0, "measured", "s", None) for phase in (Phase.EMBED, Phase.ENCODE, Phase.SEND)
    ]
    for known, left_j in ((0, 8.0), (1, 7.5), (2, 7.0), (3, 6.5)):
        with db.writing() as connection:
            reports.settle(connection, "run-1", 1, "a", told[:known])
            assert grants.accounts(connection, "run-1", 0.0)["a"].uncertain_j == left_j, "what training cost is unknown"


def test_plans_of_rounds_and_fits_of_devices_come_back_as_they_were(db: Database) -> None:
    started(db)
    kept = costs.KeptPlan(Whole(3.0, 30.0), {"a": 1.0, "b": 2.0}, WeightBias(0.25, None, 0.5, 2.0, ("c",)))
    model = CostModel(Prices(*(0.1 * (at + 1) for at in range(9))))
    with db.writing() as connection:
        costs.keep_plan(connection, "run-1", 1, costs.KeptPlan(None, {}, WeightBias(0.0, 1.0, 0.0, 1.0)))
        costs.keep_plan(connection, "run-1", 1, kept)
        for _ in range(2):
            costs.keep(connection, "a", "sha256:1", model)
    with db.reading() as connection:
        assert costs.plans(connection, "run-1") == {1: kept}
        assert costs.models(connection, "sha256:1")["a"].state() == model.state()
        assert costs.models(connection, "sha256:2") == {}
        assert reading.run_status(connection, "run-1").rounds[1].bias == kept.bias


def test_what_is_shown_of_today_begins_at_midnight(db: Database) -> None:
    started(db)
    midnight_s = 20_000 * 86_400.0
    with db.writing() as connection:
        line = OrderLine("a", 5, 8.0, expected_j=1.0)
        grants.add(connection, "run-1", 1, [line], midnight_s - 1.0)
        runs.abandon_round(connection, "run-1", 1, "why")
        runs.open_round(connection, "run-1", 2, 1, [line], "")
        grants.add(connection, "run-1", 2, [line], midnight_s)
        for now_s, today_j in ((midnight_s - 0.5, 16.0), (midnight_s, 8.0), (midnight_s + 86_399.0, 8.0)):
            (shown,) = round_budgets.ledger_of(connection, "run-1", now_s)
            assert (shown.uncertain_j, shown.today_j) == (16.0, today_j)
        (shown,) = round_budgets.ledger_of(connection, "run-1", midnight_s + 86_400.0)
        assert (shown.uncertain_j, shown.today_j) == (16.0, 0.0)
