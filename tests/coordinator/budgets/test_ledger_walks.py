"""Whatever is ordered, tried again, told late, told twice or never: the ledger is the sum of what a model remembers.

The model keeps orders and joules in dictionaries and adds them up in plain words; the ledger is made of rows in a real
SQLite file, with one query for all of it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from walks import lengths, walk

from coordinator.budgets.cold_start import prices_of
from coordinator.budgets.cost_model import CostModel
from coordinator.budgets.order_line import OrderLine
from coordinator.store import batches, reports, runs
from coordinator.store.database import AlreadyThereError, Database, sqlite_url
from coordinator.store.ledger import accounts as grants
from coordinator.store.models import heads
from coordinator.store.runs import NewRun
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import CostHint, DeviceReport, Engine, StopReason
from protos.update.tensors import as_float32

WORK = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)
MODEL = CostModel(prices_of("pi4", macs=1000, coordinates=650, batch_size=8))
NAMES = st.sampled_from("abc")
SOME = st.sets(NAMES, min_size=1)
JOULES = st.sampled_from([None, 0.0, 0.25, 0.5, 4.0])
PHASES = st.sampled_from([*WORK, Phase.IDLE])
ENERGY = st.dictionaries(PHASES, JOULES, max_size=5)
HEAD = {"w": np.zeros(2, np.float32)}


@dataclass
class Order:
    """What the model knows of one device in one round."""

    attempt: int
    granted_j: float | None
    lost_j: float = field(default=0.0, kw_only=True)
    expected_j: float
    sending_j: float | None
    opened_s: float
    outcome: str = "ordered"
    reported: bool = False
    of_attempt: int | None = None
    joules: dict[Phase, float | None] = field(default_factory=dict)
    earlier: dict[int, dict[Phase, float | None]] = field(default_factory=lambda: defaultdict(dict))
    learnt: bool = False


def known(joules: dict[Phase, float | None]) -> list[float]:
    return [j for phase, j in joules.items() if phase in WORK and j is not None]


def record(phase: Phase, joules: float | None) -> PhaseEnergy:
    return PhaseEnergy(phase, joules, 1.0, 0.0, "unknown" if joules is None else "measured", "s", None)


class LedgerWalk(RuleBasedStateMachine):
    """Rounds of one run, and what devices tell of their joules."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.db = Database(sqlite_url(self.folder / "store.db"))
        with self.db.writing() as connection:
            initial = heads.put(connection, HEAD)
            runs.add(connection, NewRun("run", "run", "plan", "", "/", "bundle", 9, initial))
            runs.add_round_zero(connection, "run", head_version=initial, accuracy=None, loss=None)
        self.round, self.attempt, self.state = 0, 1, "closed"
        self.orders: dict[tuple[int, str], Order] = {}
        self.summed_since_s = 0.0

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()
            shutil.rmtree(self.folder)

    @precondition(lambda self: self.state != "open")
    @rule(names=SOME, granted_j=st.sampled_from([None, 1.0, 8.0]), expected_j=st.sampled_from([0.5, 3.0]),
          sending_j=st.sampled_from([None, 0.25]))  # fmt: skip
    def open_a_round(
        self, names: set[str], granted_j: float | None, expected_j: float, sending_j: float | None
    ) -> None:
        """The next one, or a further attempt at one that was abandoned."""
        if self.state == "closed":
            self.round, self.attempt = self.round + 1, 1
        else:
            self.attempt += 1
        now_s = 100.0 * self.round
        hint = None if sending_j is None else CostHint(0.0, 0.1, sending_j, 3.0)
        lines = [OrderLine(name, 5, granted_j, expected_j=expected_j, costs=hint) for name in sorted(names)]
        with self.db.writing() as connection:
            runs.open_round(connection, "run", self.round, self.attempt, lines, "")
            grants.add(connection, "run", self.round, lines, now_s)
        self.state = "open"
        for name in names:
            there = self.orders.get((self.round, name))
            if there is None:
                self.orders[self.round, name] = Order(self.attempt, granted_j, expected_j, sending_j, now_s)
            elif not there.reported:
                if there.joules:
                    there.earlier[there.attempt] = there.joules
                there.joules, there.attempt, there.outcome = {}, self.attempt, "ordered"

    @precondition(lambda self: self.state == "open")
    @rule(well=st.booleans())
    def end_the_round(self, well: bool) -> None:
        with self.db.writing() as connection:
            if well:
                version = heads.put(connection, HEAD)
                runs.close_round(connection, "run", self.round, head_version=version, accuracy=None, loss=None)
            else:
                runs.abandon_round(connection, "run", self.round, "why")
        self.state = "closed" if well else "abandoned"

    @precondition(lambda self: self.state == "open" and self.attempt > 1)
    @rule(name=NAMES, budget_j=st.sampled_from([0.5, 4.0]), ended=st.booleans(), first=st.booleans())
    def ask_again(self, name: str, budget_j: float, ended: bool, first: bool) -> None:
        """An order of a further attempt is granted when its device asks; what it granted before is spent, lost to a
        start that ended, left open by a report that did not tell all, or given back."""
        order = self.orders.get((self.round, name))
        if order is None or order.reported:
            return
        with self.db.writing() as connection:
            if first:
                grants.close_promise(connection, "run", self.round, name, ended=ended)
            grants.promise(connection, "run", self.round, name, budget_j)
        if order.granted_j is None:
            return
        known_j = sum(known(order.joules)) + sum(sum(known(joules)) for joules in order.earlier.values())
        sending_j, unknown = 0.0, False
        for joules in order.earlier.values():
            told = {phase for phase, j in joules.items() if j is not None}
            missing = {*WORK} - told
            only_sending = missing == {Phase.SEND} and order.sending_j is not None
            sending_j += 2 * (order.sending_j or 0.0) if only_sending else 0.0
            unknown = unknown or bool(told and missing and not only_sending)
        open_j = max(0.0, order.granted_j - known_j)
        if first and (ended or unknown or sending_j >= open_j):
            order.lost_j += open_j
        order.granted_j = known_j + (0.0 if unknown else sending_j) + budget_j

    @precondition(lambda self: self.state != "closed")
    @rule(name=NAMES, energy=ENERGY, says=st.booleans())
    def report(self, name: str, energy: dict[Phase, float | None], says: bool) -> None:
        order = self.orders.get((self.round, name))
        if order is None:
            return
        attempt = order.attempt if says else None
        made = DeviceReport(
            "run", self.round, name, "plan", "bundle", "head", 5, 5, 40, 5.0, StopReason.COMPLETED, 2.0, 1.0,
            Engine("e", "1", "d"), tuple(record(*pair) for pair in energy.items()), as_float32(HEAD), 40, 0.1,
            attempt=attempt,
        )  # fmt: skip
        if order.reported:
            with pytest.raises(AlreadyThereError), self.db.writing() as connection:
                batches.accept(connection, [batches.Taken(made, b"data", 1.0, None, 0)])
            return
        with self.db.writing() as connection:
            batches.accept(connection, [batches.Taken(made, b"data", 1.0, None, 0)])
        order.reported, order.of_attempt, order.outcome = True, attempt, "accepted"
        self.keep(order, energy, attempt)

    @precondition(lambda self: bool(self.orders))
    @rule(
        at=st.integers(0, 20),
        energy=ENERGY,
        back=st.sampled_from([None, 0, 1]),
        times=st.integers(1, 2),
        late=st.booleans(),
    )
    def tell(self, at: int, energy: dict[Phase, float | None], back: int | None, times: int, late: bool) -> None:
        """Energy of an order, perhaps of an earlier attempt; told once or twice, with a late report or alone."""
        (number, name), order = sorted(self.orders.items())[at % len(self.orders)]
        attempt = None if back is None else max(1, order.attempt - back)
        settled: list[tuple[str, int, str]] | None = None
        for _ in range(times):
            with self.db.writing() as connection:
                told = [record(*pair) for pair in energy.items()]
                if late:
                    reports.settle(connection, "run", number, name, told, attempt)
                else:
                    settled = batches.settle(connection, [batches.Told("run", number, name, tuple(told), attempt)])
        self.keep(order, energy, attempt)
        if settled is not None:
            # Orders teach as soon as all of their joules are known, and not before.
            whole = len(known(order.joules)) == len(WORK)
            assert settled in ([], [("run", number, name)])
            assert not settled or whole
            assert settled or not whole or attempt != order.attempt

    @staticmethod
    def keep(order: Order, energy: dict[Phase, float | None], attempt: int | None) -> None:
        renewed = attempt is not None and attempt < order.attempt
        if renewed and not (order.reported and order.of_attempt == attempt):
            assert attempt is not None
            there = order.earlier[attempt]
        else:
            there = order.joules
        for phase, joules in energy.items():
            if joules is not None or there.get(phase) is None:
                there[phase] = joules

    @rule(since_s=st.sampled_from([0.0, 150.0, 350.0]))
    def sum_up(self, since_s: float) -> None:
        """What lies behind is summed and written down: no figure changes by that, nor by what is told afterwards."""
        with self.db.writing() as connection:
            grants.accounts(connection, "run", since_s, keep=True)
        self.summed_since_s = since_s

    @rule()
    def restart(self) -> None:
        self.db.close()
        self.db = Database(sqlite_url(self.folder / "store.db"))

    @precondition(lambda self: bool(self.orders))
    @rule(at=st.integers(0, 20))
    def learn(self, at: int) -> None:
        """Each order whose joules are all known, and that was reported, teaches once."""
        (number, name), order = sorted(self.orders.items())[at % len(self.orders)]
        if len(known(order.joules)) < len(WORK):
            # Nobody asks before: see batches.settle.
            return
        teaches = order.reported and not order.learnt
        with self.db.writing() as connection:
            found = batches.lessons(connection, "run", number, [name])
            lessons = [(lesson.round, lesson.steps, lesson.embedded) for lesson, _ in found.values()]
            assert lessons == ([(number, 5, 40)] if teaches else [])
            if found:
                batches.learnt(connection, "run", number, "sha256:b", {name: MODEL})
                order.learnt = True

    def account(self, device: str, since_s: float) -> grants.Account:
        """By hand, order by order."""
        made = grants.Account()
        for (_, name), order in sorted(self.orders.items()):
            if name != device:
                continue
            now_j = sum(known(order.joules))
            spent_j = now_j + sum(sum(known(joules)) for joules in order.earlier.values())
            told = {phase for phase, joules in order.joules.items() if joules is not None and phase in WORK}
            open_ = len(told) < len(WORK)
            uncertain_j = max(0.0, order.granted_j - spent_j) if open_ and order.granted_j is not None else 0.0
            if order.reported and order.sending_j is not None and {*WORK} - told == {Phase.SEND}:
                uncertain_j = min(uncertain_j, 2 * order.sending_j)
            uncertain_j += order.lost_j
            made = grants.Account(
                made.orders + 1,
                made.granted_j + (order.granted_j or 0.0) + order.lost_j,
                made.spent_j + spent_j,
                made.uncertain_j + uncertain_j,
                made.today_j + (spent_j + uncertain_j if order.opened_s >= since_s else 0.0),
                made.unlimited + (open_ and order.granted_j is None),
                made.pending_j + (max(0.0, order.expected_j - now_j) if open_ else 0.0),
            )
        return made

    @invariant()
    def the_ledger_is_what_the_model_says(self) -> None:
        for since_s in (100.0 * max(1, self.round), self.summed_since_s):
            with self.db.reading() as connection:
                found = grants.accounts(connection, "run", since_s)
            assert found == {name: self.account(name, since_s) for name in sorted({name for _, name in self.orders})}

    @invariant()
    def a_promise_is_not_held_against_its_own_renewal(self) -> None:
        """Of orders that would be renewed, only what is known counts."""
        renewing = [name for number, name in self.orders if number == self.round]
        with self.db.reading() as connection:
            found = grants.accounts(connection, "run", 0.0, (self.round, renewing))
            whole = grants.accounts(connection, "run", 0.0)
        for name, account in found.items():
            others = [order for key, order in self.orders.items() if key[1] == name and key[0] != self.round]
            assert account.spent_j == whole[name].spent_j
            kept = LedgerWalk.__new__(LedgerWalk)
            kept.orders = {(at, name): other for at, other in enumerate(others)}
            alone = LedgerWalk.account(kept, name, 0.0)
            own = self.orders.get((self.round, name))
            lost_j = own.lost_j if own is not None else 0.0
            assert account.uncertain_j == pytest.approx(alone.uncertain_j + lost_j)
            assert account.pending_j == alone.pending_j


@lengths
def test_a_ledger_is_the_sum_of_what_was_granted_and_told(length: str) -> None:
    walk(LedgerWalk, length, short=8)
