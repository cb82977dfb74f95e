"""What must hold after each commit, and when all is over.

The books are read with SQLite itself, beside the code that wrote them.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from typing import Any

import numpy as np

from coordinator.run.reports.aggregation import Fold, Late, Population
from coordinator.run.reports.validation import Expected, check
from coordinator.store import runs
from coordinator.store.database import Database
from coordinator.store.ledger import accounts, costs
from coordinator.store.models import heads
from protos.convert.reports import parse_report
from protos.model.bundle import Bundle
from protos.plan.plan import RunPlan
from protos.update import trees


class Broken(AssertionError):
    """An invariant does not hold."""


class Books:
    """The books of one run, looked at after each commit.

    Args:
        run_id: of the run.
        quorum: of the plan.
        late, buffer: likewise.
        counts: how often each invariant was checked, of all runs.

    Attributes:
        stopped: an operator paused or stopped the run.
        opened_s: virtual time at which an attempt was seen open first, by (round, attempt).
    """

    def __init__(
        self, connection: sqlite3.Connection, run_id: str, quorum: float, now_s: Any, late: int, buffer: int | None,
        counts: Counter[str],
    ) -> None:  # fmt: skip
        self._connection, self.run_id = connection, run_id
        self._quorum, self._now_s = quorum, now_s
        self._late, self._buffer = late, buffer
        self.counts = counts
        # The bytes of reports, which the coordinator forgets.
        self.data: dict[tuple[int, str], bytes] = {}
        self.acknowledged: dict[tuple[int, str], None] = {}
        self.stopped = False
        self._closed: dict[int, tuple[Any, ...]] = {}
        self._in_closed: dict[int, list[Any]] = {}
        self._reports: dict[tuple[int, str], tuple[bytes, int | None]] = {}
        self._abandoned: dict[tuple[int, int], None] = {}
        self._asked: dict[tuple[int, int], list[Any]] = {}
        self.opened_s: dict[tuple[int, int], float] = {}

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database says; of this run where the statement names it so."""
        return self._connection.execute(statement.replace(":run", f"'{self.run_id}'"), values).fetchall()

    def _must(self, holds: bool, invariant: str, detail: str = "") -> None:
        self.counts[invariant] += 1
        if not holds:
            raise Broken(f"{invariant}: {detail}")

    def after_commit(self) -> None:
        """Every invariant of the rows."""
        reported: dict[int, list[Any]] = {}
        for number, device_id, sha, folded_in in self.rows(
            "SELECT round, device_id, sha256, folded_in FROM reports WHERE run_id = :run ORDER BY sequence"
        ):
            reported.setdefault(folded_in or number, []).append((number, device_id, sha))
            if folded_in is not None:
                self._must(
                    0 < folded_in - number <= self._late, "a late report counts in time", f"{number} in {folded_in}"
                )
            if (number, device_id) not in self.data:
                query = "SELECT data FROM reports WHERE run_id = :run AND round = ? AND device_id = ?"
                self.data[number, device_id] = bytes(self.rows(query, number, device_id)[0][0])
            before = self._reports.setdefault((number, device_id), (sha, folded_in))
            self._must(before == (sha, folded_in), "an accepted report does not change", f"round {number}, {device_id}")
        for number, state, attempt, head, closed_s in self.rows(
            "SELECT round, state, attempt, head_version, closed_unix_s FROM rounds WHERE run_id = :run"
        ):
            if state == "open":
                self.opened_s.setdefault((number, attempt), self._now_s())
                asked = self.rows(
                    "SELECT device_id, probability, factor FROM orders JOIN grants USING (run_id, round, device_id) "
                    "WHERE run_id = :run AND round = ? AND attempt = ? ORDER BY device_id", number, attempt,
                )  # fmt: skip
                first = self._asked.setdefault((number, attempt), asked)
                self._must(first == asked, "nobody is drawn a second time", f"round {number}, attempt {attempt}")
            if number and state == "closed":
                first = self._closed.setdefault(number, (attempt, head, closed_s))
                self._must(first == (attempt, head, closed_s), "no round closes twice", f"round {number}")
                counted = self._in_closed.setdefault(number, reported.get(number, []))
                self._must(
                    counted == reported.get(number, []), "a closed round takes no more reports", f"round {number}"
                )
                self._must(self._has_quorum(number, attempt), "a round closes with a quorum", f"round {number}")
            if state == "abandoned" and (number, attempt) not in self._abandoned and not self.stopped:
                self._abandoned[number, attempt] = None
                self._must(
                    not self._has_quorum(number, attempt),
                    "a round is abandoned only without a quorum",
                    f"round {number}, attempt {attempt}: {self._standing(number, attempt)}",
                )
        for number, device_id in self.acknowledged:
            self._must(
                (number, device_id) in self._reports, "an acknowledged report is on disk", f"{number} {device_id}"
            )

    def _standing(self, number: int, attempt: int) -> tuple[int, int]:
        """Reports, and devices that were asked or had reported before, of an attempt."""
        own = "run_id = :run AND round = ?1 AND folded_in IS NULL"
        reporters = f"SELECT device_id FROM reports WHERE {own}"
        (found,) = self.rows(
            f"SELECT (SELECT count(*) FROM reports WHERE {own}), (SELECT count(*) FROM orders WHERE "
            f"run_id = :run AND round = ?1 AND (attempt = ?2 OR device_id IN ({reporters}))), "
            "(SELECT count(*) FROM reports WHERE run_id = :run AND folded_in = ?1)", number, attempt,
        )  # fmt: skip
        return int(found[0]) + (int(found[2]) if self._buffer is not None else 0), int(found[1])

    def _has_quorum(self, number: int, attempt: int) -> bool:
        reports, asked = self._standing(number, attempt)
        if self._buffer is not None:
            return reports >= 1
        return reports >= max(1, math.ceil(self._quorum * asked - 1e-9))

    def state(self) -> tuple[str, str]:
        """State and reason of the run."""
        ((state, reason),) = self.rows("SELECT state, reason FROM runs WHERE run_id = :run")
        return state, reason

    # ------------------------------------------------------------ at the end

    def heads_are_those_of_the_rows(self, db: Database, bundle: Bundle, plan: RunPlan) -> None:
        """Every head is that of a coordinator to which nothing ever happened, and which took the same reports in the
        same order: bit for bit. And it is the mean by its formula, worked out here in another way."""
        run_id = self.run_id
        ((initial,),) = self.rows("SELECT initial_head FROM runs WHERE run_id = :run")
        with db.reading() as connection:
            head = heads.get(connection, initial)
            for number in sorted(self._closed):
                lines = accounts.complete(connection, run_id, number, runs.lines_of(connection, run_id, number))
                whole = costs.whole_of(connection, run_id, number)
                people = None if whole is None else Population(whole)
                fold = Fold(plan.aggregate, bundle.manifest.head.shapes(), lines, people)
                total, moved, ours = 0.0, 0.0, []
                order = self.rows(
                    "SELECT round, device_id FROM reports WHERE run_id = :run AND coalesce(folded_in, round) = ? "
                    "ORDER BY sequence",
                    number,
                )
                for of_round, device_id in order:
                    report = parse_report(self.data[of_round, device_id])
                    if of_round == number:
                        line, late, discount = lines[report.device_id], None, 1.0
                    else:
                        there = runs.lines_of(connection, run_id, of_round)
                        line = accounts.complete(connection, run_id, of_round, there)[report.device_id]
                        late = Late(line, number - of_round, costs.whole_of(connection, run_id, of_round))
                        discount = 1.0 / (1 + number - of_round) ** plan.aggregate.staleness
                        self.counts["late reports in a head"] += 1
                    update = check(report, _anything(report, line.steps, bundle))
                    fold.add(report, update, late)
                    own = fold.weight_of(report, None if late is None else Late(line, 0))
                    ours.append((own * discount, report, update))
                    if whole is not None:
                        self.counts["reports in a head by the chance of their order"] += 1
                made = fold.head_after(head)
                version = self._closed[number][1]
                self._must(trees.version(made) == version, "each head is that of an undisturbed run", f"round {number}")
                worked = [entry for entry in ours if entry[1].steps_done]
                if worked:
                    total = sum(weight for weight, _, _ in worked)
                    nova = plan.aggregate.normalise == "fednova"
                    mean_work = sum(w * r.local_normaliser for w, r, _ in worked) / total if nova else 1.0
                    moved = sum(
                        w * float(u["out_bias"][0]) / (r.local_normaliser if nova else 1.0) for w, r, u in worked
                    )
                    expected = float(head["out_bias"][0]) + mean_work * moved / total
                    if whole is not None:
                        # Of all whom the round of each order spoke for, whether they were drawn or not.
                        expected = float(head["out_bias"][0])
                        for w, r, u in worked:
                            ((weight, work),) = self.rows(
                                "SELECT weight, work FROM round_plans WHERE run_id = :run AND round = ?", r.round
                            )
                            unit = work / weight / r.local_normaliser if nova else 1.0
                            expected += w / weight * unit * float(u["out_bias"][0])
                    self._must(
                        bool(np.isclose(float(made["out_bias"][0]), expected, rtol=1e-5, atol=1e-6)),
                        "each accepted report is in the head exactly once",
                        f"round {number}: {made['out_bias'][0]} and not {expected}",
                    )
                head = made


class Ledgers:
    """What all runs together cost the boards, when all is over.

    Args:
        counts: how often each invariant was checked.
    """

    def __init__(self, connection: sqlite3.Connection, counts: Counter[str]) -> None:
        self._connection, self.counts = connection, counts

    def _sums(self, statement: str) -> dict[str, float]:
        return dict(self._connection.execute(statement).fetchall())

    def _must(self, holds: bool, invariant: str, detail: str) -> None:
        self.counts[invariant] += 1
        if not holds:
            raise Broken(f"{invariant}: {detail}")

    def joules_are_covered(self, boards: list[Any], budget: str, budget_j: float, runs: int) -> None:
        """Nobody spent more than was granted, by the books and in truth; a step more, which nobody can foresee."""
        # With what went to starts of the board that ended: that may be spent, and is charged.
        granted = self._sums("SELECT device_id, sum(granted_j + lost_j) FROM grants GROUP BY device_id")
        known = self._sums(
            "SELECT device_id, sum(energy_j) FROM (SELECT device_id, phase, energy_j FROM energy UNION ALL "
            "SELECT device_id, phase, energy_j FROM earlier_energy) WHERE phase NOT IN ('idle', 'send') "
            "GROUP BY device_id"
        )
        for board in boards:
            name, spent_j, slack_j = board.device_id, board.spent[0], runs * board.slack_j
            told_j = known.get(name) or 0.0
            self._must(told_j <= spent_j + 1e-6, "what is reported was spent", f"{name}: {told_j} of {spent_j} J")
            if budget == "none":
                continue
            allowed_j = (granted.get(name, 0.0) or 0.0) + slack_j
            self._must(spent_j <= allowed_j, "granted >= spent", f"{name}: {spent_j} of {allowed_j} J")
            if budget == "battery":
                most_j = runs * budget_j + slack_j
                self._must(spent_j <= most_j, "no battery gives more than it holds", f"{name}: {spent_j} of {most_j} J")
            if budget == "total":
                most_j = budget_j + slack_j
                self._must(spent_j <= most_j, "a total holds over all runs", f"{name}: {spent_j} of {most_j} J")

    def are_spent(self, boards: list[Any], budget_j: float) -> bool:
        """Whether each board has truly spent most of its battery, or may have, since it lost power."""
        sent = self._sums("SELECT device_id, sum(energy_j) FROM energy WHERE phase = 'send' GROUP BY device_id")
        return all(
            board.lost_power or board.spent[0] + (sent.get(board.device_id) or 0.0) >= 0.5 * budget_j
            for board in boards
        )

    def runs_share(self) -> None:
        """A device does one order at a time, and of the runs that wait for their turn one is on."""
        open_rounds = "rounds.run_id = runs.run_id AND rounds.state = 'open'"
        twice = self._connection.execute(
            f"SELECT device_id, group_concat(runs.run_id) FROM runs JOIN rounds ON {open_rounds} JOIN orders ON "
            "orders.run_id = rounds.run_id AND orders.round = rounds.round AND orders.attempt = rounds.attempt "
            "WHERE orders.outcome = 'ordered' GROUP BY device_id HAVING count(*) > 1"
        ).fetchall()
        self._must(not twice, "a device does one order at a time", str(twice))
        queued = self._connection.execute(
            f"SELECT runs.name FROM runs JOIN rounds ON {open_rounds} WHERE runs.plan_toml NOT LIKE '%beside = true%'"
        ).fetchall()
        self._must(len(queued) <= 1, "runs that wait for their turn go one at a time", str(queued))


def _anything(report: Any, steps: int, bundle: Bundle) -> Expected:
    inputs = {tensor.name: tensor.default for tensor in bundle.manifest.head.inputs}
    return Expected(
        report.plan_id, report.bundle_id, report.head_version, steps, report.examples, bundle.manifest.head.shapes(),
        inputs, bundle.manifest.head.optimiser, report.attempt or 1,
    )  # fmt: skip
