"""A run as a report tells it: rounds and devices summed up while its pages come in.

A run of 1000 rounds by 100 devices has 100,000 rows of devices. None of them is kept: what is kept grows with the
number of rounds and with the number of devices, and with their product by one byte, which tells who took part.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from coordinator.operator.status import (
    DeviceBudget,
    DeviceRound,
    DeviceStatus,
    RoundStatus,
    RunDetails,
    RunStatus,
    WeightBias,
)
from coordinator.report.joules import JouleSum, work_of
from protos.energy.trace import Phase

__all__ = ["OUTCOMES", "STRIP_CELLS", "DeviceRow", "RoundRow", "RunRecord", "gather"]

OUTCOMES = ("accepted", "late", "rejected", "missing", "ordered")
STRIP_CELLS = 50


@dataclass
class RoundRow:
    """One round. ``spent`` is of all devices, whatever became of their reports: joules are gone all the same.

    Attributes:
        so_far: joules of this round and all before it.
        outcomes: devices by what became of their orders.
        hottest_c: over all devices that told a temperature; None where none did.
        examples: of the accepted reports.
    """

    round: int
    state: str
    measure: str
    score: float | None
    loss: float | None
    opened_unix_s: float
    closed_unix_s: float | None
    head_version: str
    bias: WeightBias | None
    spent: JouleSum = field(default_factory=JouleSum)
    known_so_far_j: float = 0.0
    uncertainty_so_far_j: float | None = None
    all_known_so_far: bool = True
    outcomes: Counter[str] = field(default_factory=Counter)
    budget_j: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    hottest_c: float | None = None
    examples: int = 0

    @property
    def devices(self) -> int:
        return self.outcomes.total()


@dataclass
class DeviceRow:
    """One device over all rounds of a run.

    Attributes:
        phases: joules by phase.
        spent: of all phases but idling.
        weight, closed: sum of its shares of the rounds that closed and asked it, and how many those are.
        examples: that its newest accepted report said.
        cut: rounds that ended early, by reason.
        refused: reports that were refused, by reason; ``last_refusal`` in the words of the last one.
        course: by round the initial of what became of it; 0 where it was not asked.
    """

    device_id: str
    phases: dict[Phase, JouleSum] = field(default_factory=dict)
    spent: JouleSum = field(default_factory=JouleSum)
    outcomes: Counter[str] = field(default_factory=Counter)
    weight: float = 0.0
    closed: int = 0
    examples: int = 0
    steps_done: int = 0
    steps_planned: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    cut: Counter[str] = field(default_factory=Counter)
    heat_s: float = 0.0
    busy_s: float = 0.0
    hottest_c: float | None = None
    throttled: int = 0
    under_voltage: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    last_refusal: str = ""
    course: bytearray = field(default_factory=bytearray)

    def say_of_weight(self) -> float | None:
        """Its mean share of the rounds that closed and asked it; None where there was none."""
        return self.weight / self.closed if self.closed else None


@dataclass(frozen=True)
class RunRecord:
    """All that a report tells of one run.

    Attributes:
        run: as it was when its last page was read, without rounds.
        details: the plan and what happened; None where they could not be asked.
        rounds: in order; a round that is still open is the last.
        devices: that were asked, by name.
        budgets: the ledger, by device.
        cards: what devices said of themselves, by name, of those that are still on the list.
    """

    run: RunStatus
    details: RunDetails | None
    rounds: tuple[RoundRow, ...]
    devices: tuple[DeviceRow, ...]
    budgets: Mapping[str, DeviceBudget]
    cards: Mapping[str, DeviceStatus]

    @property
    def measure(self) -> str:
        """What its heads are ranked by: "accuracy", "R2" or "AUC"."""
        return next((row.measure for row in self.rounds if row.measure != "accuracy"), "accuracy")

    @property
    def spent(self) -> JouleSum:
        """Joules of all rounds and devices."""
        total = JouleSum()
        for device in self.devices:
            total = merged(total, device.spent)
        return total

    def example_shares(self) -> dict[str, float]:
        """The share of examples of each device that had a report accepted: the say of a mean without bias."""
        total = sum(device.examples for device in self.devices)
        return (
            {device.device_id: device.examples / total for device in self.devices if device.examples} if total else {}
        )

    def strip(self, device: DeviceRow) -> list[tuple[float | None, int]]:
        """Participation of a device in at most :data:`STRIP_CELLS` stretches of rounds: the share of its orders there
        that were accepted, None without any; and the last round of the stretch."""
        last = max((row.round for row in self.rounds), default=0)
        each = max(1, -(-last // STRIP_CELLS))
        cells: list[tuple[float | None, int]] = []
        for first in range(1, last + 1, each):
            here = device.course[first : first + each].replace(b"\0", b"")
            share = here.count(b"a") / len(here) if here else None
            cells.append((share, min(last, first + each - 1)))
        return cells


def merged(first: JouleSum, second: JouleSum) -> JouleSum:
    """Two sums as one."""
    widths: dict[str, float] = defaultdict(float)
    for joules in (first, second):
        for sensor, width in joules._half_widths.items():
            widths[sensor] += width
    return JouleSum(
        first.known_j + second.known_j,
        first.known + second.known,
        first.unknown + second.unknown,
        first.covered_s + second.covered_s,
        first.uncovered_s + second.uncovered_s,
        first.methods + second.methods,
        first.flags + second.flags,
        first.unbounded + second.unbounded,
        dict(widths),
    )


def gather(
    pages: Iterable[RunStatus],
    *,
    details: RunDetails | None = None,
    budgets: Iterable[DeviceBudget] = (),
    cards: Iterable[DeviceStatus] = (),
    on_round: Callable[[RunStatus, RoundStatus], None] | None = None,
) -> RunRecord:
    """Sum a run up.

    Args:
        pages: of one run, as :meth:`coordinator.operator.client.Operator.pages` gives them; at least one. A round that
            comes twice counts once, as it first came.
        on_round: told of each round while its devices are at hand.
    """
    rounds: dict[int, RoundRow] = {}
    devices: dict[str, DeviceRow] = {}
    newest: RunStatus | None = None
    for newest in pages:
        for status in newest.rounds:
            if status.round in rounds:
                continue
            rounds[status.round] = _round_row(status)
            if on_round is not None:
                on_round(newest, status)
            for work in status.devices:
                row = devices.setdefault(work.device_id, DeviceRow(work.device_id))
                _add(row, rounds[status.round], status, work)
    assert newest is not None, "a run has one page at least"
    ordered = tuple(rounds[number] for number in sorted(rounds))
    _sum_up(ordered)
    return RunRecord(
        run=replace(newest, rounds=()),
        details=details,
        rounds=ordered,
        devices=tuple(devices[name] for name in sorted(devices)),
        budgets={budget.device_id: budget for budget in budgets},
        cards={card.device_id: card for card in cards},
    )


def _round_row(this_round: RoundStatus) -> RoundRow:
    score, loss, found = this_round.score, this_round.loss, this_round.federated
    # As in `coordinator status`: where the coordinator has no held-out data, those of the devices speak.
    if score is None and found is not None and found.accuracy is not None:
        score = found.accuracy
        loss = found.loss if loss is None else loss
    return RoundRow(
        this_round.round,
        this_round.state,
        this_round.measure,
        score,
        loss,
        this_round.opened_unix_s,
        this_round.closed_unix_s,
        this_round.head_version,
        this_round.bias,
        bytes_up=this_round.bytes_up,
        bytes_down=this_round.bytes_down,
    )


def _add(row: DeviceRow, round_row: RoundRow, this_round: RoundStatus, work: DeviceRound) -> None:
    for record in work.energy:
        row.phases.setdefault(record.phase, JouleSum()).add(record, work.device_id)
    for record in work_of(work.energy):
        row.spent.add(record, work.device_id)
        round_row.spent.add(record, work.device_id)
    round_row.outcomes[work.outcome] += 1
    row.outcomes[work.outcome] += 1
    if work.budget_j is not None:
        round_row.budget_j = (round_row.budget_j or 0.0) + work.budget_j
    if work.outcome == "accepted":
        round_row.examples += work.examples
        row.examples = work.examples
        if work.stop_reason is not None and work.stop_reason != "completed":
            row.cut[str(work.stop_reason)] += 1
    if this_round.state == "closed":
        row.weight += work.weight
        row.closed += 1
    row.steps_done += work.steps_done
    row.steps_planned += work.steps_planned
    row.bytes_up += work.bytes_up
    row.bytes_down += work.bytes_down
    if work.strain is not None:
        row.heat_s += work.strain.heat_s
        row.busy_s += work.strain.busy_s
        row.throttled += work.strain.throttled
        row.under_voltage += work.strain.under_voltage
        row.hottest_c = _hotter(row.hottest_c, work.strain.hottest_c)
        round_row.hottest_c = _hotter(round_row.hottest_c, work.strain.hottest_c)
    for refusal in work.refusals:
        row.refused[refusal.code] += refusal.count
        row.last_refusal = refusal.detail
    row.course.extend(bytes(max(0, this_round.round + 1 - len(row.course))))
    row.course[this_round.round] = ord(work.outcome[0])


def _hotter(first: float | None, second: float | None) -> float | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None


def _sum_up(rounds: Iterable[RoundRow]) -> None:
    total = JouleSum()
    for row in rounds:
        total = merged(total, row.spent)
        row.known_so_far_j, row.uncertainty_so_far_j = total.known_j, total.uncertainty_j
        row.all_known_so_far = not total.unknown
