"""What one seed means: the plan, the devices, and when which fault happens."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# All faults happen in this time; then everything works, and what is left must end well.
FAULTY_S = 60.0
QUIET_S = 3000.0
# From this seed on reports may be late, and rounds close without waiting for everyone.
STRAGGLERS_FROM = 10_000
# From this seed on there are several runs: beside each other, behind each other, stopped, and gone on with.
SEVERAL_FROM = 30_000
# From this seed on a planner draws whom it asks, and rounds wait for no report; one run again.
PLANNED_FROM = 50_000
# From this seed on reads fail as well; of three seeds one has one run, one several, and one a planner.
READS_FROM = 90_000


@dataclass(frozen=True)
class Board:
    """One device: how many examples it has, and how long a step takes it."""

    examples: int
    step_s: float


@dataclass(frozen=True)
class Scenario:
    """All that a seed decides before the run begins.

    Attributes:
        boards: the devices.
        budget: "none", "round", "battery", or "total", which holds over all runs.
        budget_j: of it.
        events: seconds, and what happens then.
        network_share, disk_share: of calls and commits that something happens to.
        devices_die: whether boards lose power or are stopped.
        late, buffer, enough, staleness: keys of the plan; of seeds from :data:`STRAGGLERS_FROM` on.
        beside, priority, share, start_from: likewise; of seeds from :data:`SEVERAL_FROM` on.
        others: further runs, with the second at which each is started.
        fleet_j: joules that a planner has for all boards; None: everyone is asked. Of seeds from :data:`PLANNED_FROM`.
        reads_share: of looks into the books that fail. Of seeds from :data:`READS_FROM`.
        number: of the run, from 1.
    """

    seed: int
    boards: tuple[Board, ...]
    rounds: int
    quorum: float
    deadline_s: float
    codec: str
    downlink: str
    normalise: str
    budget: str
    budget_j: float
    network_share: float
    disk_share: float
    devices_die: bool
    events: tuple[tuple[float, str, int], ...]
    late: int = 0
    buffer: int | None = None
    enough: float = 1.0
    staleness: float = 0.5
    beside: bool = False
    priority: int = 0
    share: float = 1.0
    start_from: str = ""
    others: tuple[tuple[float, Scenario], ...] = ()
    fleet_j: float | None = None
    reads_share: float = 0.0
    number: int = 1

    @property
    def name(self) -> str:
        """Of the run."""
        return f"seed {self.seed}" if self.number == 1 else f"seed {self.seed}, run {self.number}"

    def plan(self, bundle: Path) -> str:
        """The plan of the run."""
        budget = {"none": "", "round": f"[budget]\nper_round_j = {self.budget_j}\n",
                  "battery": f"[budget]\nbattery_j = {self.budget_j}\n",
                  "total": f"[budget]\ntotal_j = {self.budget_j}\n"}[self.budget]  # fmt: skip
        if self.fleet_j is not None:
            budget = f"{budget or '[budget]'}\nfleet_j = {self.fleet_j}\n[planner]\npolicy = 'joules'\np_min = 0.1\n"
        return (
            f'downlink = {{ codec = "{self.downlink}" }}\n'
            f'[run]\nbundle = "{bundle}"\nname = "{self.name}"\nrounds = {self.rounds}\nseed = {self.seed}\n'
            f"{self._of_sharing()}"
            f"[round]\ndevices = {len(self.boards)}\nquorum = {self.quorum}\ndeadline_s = {self.deadline_s}\n"
            f"{self._of_stragglers()}"
            f'[train]\nepochs = 2\n[update]\ncodec = "{self.codec}"\n'
            f'[aggregate]\nnormalise = "{self.normalise}"\n'
            f"{f'staleness = {self.staleness}' if self.late else ''}\n{budget}"
        )

    def _of_sharing(self) -> str:
        lines = f"beside = true\npriority = {self.priority}\nshare = {self.share}\n" if self.beside else ""
        return lines + (f'start_from = "{self.start_from}"\n' if self.start_from else "")

    def _of_stragglers(self) -> str:
        if not self.late:
            return ""
        closing = f"enough = {self.enough}" if self.buffer is None else f"buffer = {self.buffer}"
        return f"late = {self.late}\n{closing}\n"


def scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    dice = random.Random(f"scenario {seed}")
    boards = tuple(
        Board(8 * dice.randint(1, 6), dice.choice((0.02, 0.1, 0.5))) for _ in range(dice.choice((2, 3, 3, 4)))
    )
    rounds = dice.choice((2, 3))
    budget = dice.choice(("none", "round", "battery"))
    budget_j = dice.choice((2.0, 5.0, 20.0)) * (rounds if budget == "battery" else 1)
    devices_die = dice.random() < 0.5
    happenings = ["kill", "kill at report", "kill at commit", "kill at commit", "disk full", "slow disk", "clock"]
    happenings += ["cut"] * 2
    if devices_die:
        happenings += ["power", "power at work", "power at work", "stop"]
    events = []
    for _ in range(dice.choice((0, 3, 6, 10))):
        at_s = dice.choice((0.3, 1.0)) * dice.uniform(0.0, FAULTY_S)
        events.append((at_s, dice.choice(happenings), dice.randrange(1 << 30)))
    # Dice of their own: the worlds of smaller seeds stay what they were.
    more = random.Random(f"stragglers {seed}")
    slow: dict[str, Any] = {}
    if seed >= STRAGGLERS_FROM:
        rounds = more.choice((3, 4, 5))
        slow = {
            "late": more.choice((1, 2, 5)),
            "buffer": more.choice((None, 1, 2, 2, 3)),
            "staleness": more.choice((0.0, 0.5, 1.0, -1.0)),
        }
        if more.random() < 0.4:
            pauses = more.choice((1, 1, 2))
            events += [(more.uniform(0.0, FAULTY_S), "pause", more.randrange(1 << 30)) for _ in range(pauses)]
        boards = tuple(Board(board.examples, board.step_s * more.choice((1.0, 1.0, 4.0, 10.0))) for board in boards)
    quorum = dice.choice((0.5, 0.6, 1.0))
    if slow:
        slow["enough"] = more.choice((quorum, 0.75, 1.0)) if quorum <= 0.75 else 1.0
    made = Scenario(
        seed=seed,
        boards=boards,
        rounds=rounds,
        quorum=quorum,
        deadline_s=dice.choice((4.0, 8.0, 20.0)),
        codec=dice.choice(("float32", "float32", "entropy_coded", "keep_largest")),
        downlink=dice.choice(("float32", "float32", "entropy_coded_mmse")),
        normalise=dice.choice(("fednova", "none")),
        budget=budget,
        budget_j=budget_j,
        network_share=dice.choice((0.0, 0.1, 0.3)),
        disk_share=dice.choice((0.0, 0.05, 0.2)),
        devices_die=devices_die,
        events=tuple(sorted(events)),
        **slow,
    )
    if seed >= READS_FROM:
        made = replace(made, reads_share=random.Random(f"reads {seed}").choice((0.02, 0.1, 0.3)))
        kinds = (lambda one: one, _several, _planned)
        return kinds[seed % 3](made)
    if seed >= PLANNED_FROM:
        return _planned(made)
    return _several(made) if seed >= SEVERAL_FROM else made


def _planned(first: Scenario) -> Scenario:
    """The same world with a planner, and rounds that close with a buffer."""
    dice = random.Random(f"planned {first.seed}")
    more = tuple(Board(8 * dice.randint(1, 6), dice.choice((0.02, 0.1, 0.5))) for _ in range(dice.choice((1, 2, 3))))
    return replace(
        first,
        boards=first.boards + more,
        rounds=dice.choice((4, 6, 8)),
        budget=dice.choice(("none", "none", "round")),
        budget_j=dice.choice((5.0, 20.0)),
        fleet_j=dice.choice((5.0, 20.0, 60.0)),
        codec="entropy_coded",
        late=dice.choice((2, 5, 10)),
        buffer=dice.choice((1, 2, 2, 3)),
        enough=1.0,
        staleness=dice.choice((0.0, 0.5, 1.0, -1.0)),
    )


def _several(first: Scenario) -> Scenario:
    """The same world with several runs, whose plans differ and whose budgets are of one kind."""
    dice = random.Random(f"several {first.seed}")
    budget = dice.choice(("none", "round", "battery", "total", "total"))
    budget_j = {"none": 0.0, "round": dice.choice((2.0, 5.0, 20.0))}.get(budget, dice.choice((10.0, 40.0, 150.0)))
    first = replace(first, budget=budget, budget_j=budget_j)

    def own(number: int) -> Scenario:
        late = dice.choice((0, 1, 2))
        quorum = dice.choice((0.5, 1.0))
        return replace(
            first,
            number=number,
            rounds=dice.choice((2, 3)),
            quorum=quorum,
            deadline_s=dice.choice((4.0, 8.0, 20.0)),
            codec=dice.choice(("float32", "entropy_coded")),
            normalise=dice.choice(("fednova", "none")),
            late=late,
            buffer=dice.choice((None, 1, 2)) if late else None,
            enough=quorum if dice.random() < 0.5 else 1.0,
            staleness=dice.choice((0.0, 0.5, 1.0)),
            beside=dice.random() < 0.7,
            priority=dice.choice((0, 0, 1)),
            share=dice.choice((1.0, 1.0, 3.0)),
        )

    others = tuple((dice.uniform(0.0, 0.5 * FAULTY_S), own(number)) for number in range(2, dice.choice((3, 3, 4))))
    happenings = [
        (dice.uniform(1.0, FAULTY_S), "pause", dice.randrange(1 << 30)) for _ in range(dice.choice((0, 1, 2)))
    ]
    if dice.random() < 0.4:
        happenings.append((dice.uniform(1.0, FAULTY_S), "end a run", dice.randrange(1 << 30)))
    events = tuple(sorted([*first.events, *happenings]))
    first = own(1) if dice.random() < 0.5 else replace(first, beside=dice.random() < 0.7)
    return replace(first, others=others, events=events)
