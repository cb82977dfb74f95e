"""A device on virtual time whose steps warm its board: real files, a real allowance, exact energy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from board_tree import BoardTree, WarmingBoard
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.health.condition import Watch
from edge_runtime.health.limits import Judge, Limits
from edge_runtime.health.pauses import Pauses
from edge_runtime.round.allowance import Allowance
from edge_runtime.round.costs import Reserve
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import StopReason

WATTS = {Phase.EMBED: 2.0, Phase.TRAIN: 3.0, Phase.ENCODE: 1.0, Phase.IDLE: 0.5}


class Bench:
    """One device whose steps take ``step_s`` and warm the board; it stands still in a pause."""

    def __init__(self, root: Path, limits: Limits, *, step_s: float = 0.5, deadline_s: float = 3600.0) -> None:
        self.clock = VirtualClock()
        self.tree = BoardTree(root)
        self.board: WarmingBoard | None = None
        self.meter = ScriptedMeter(self.clock, WATTS)
        self.step_s, self.stop = step_s, False
        self.said: list[str] = []
        self.waits: list[tuple[float, float]] = []
        self._limits, self._deadline_s = limits, deadline_s
        self.budget_j: float | None = None

    def warms(self, ambient_c: float = 40.0, rise_c: float = 60.0, tau_s: float = 60.0) -> WarmingBoard:
        self.board = WarmingBoard(self.tree, ambient_c, rise_c, tau_s)
        return self.board

    def _wait(self, seconds: float) -> bool:
        self.waits.append((self.clock.now_s, seconds))
        self._pass(seconds, working=False)
        return self.stop

    def _pass(self, seconds: float, *, working: bool) -> None:
        self.clock.pass_(seconds)
        if self.board is not None:
            self.board.pass_(seconds, working=working)

    def open(self) -> None:
        self.watch = Watch(
            self.tree.root,
            now_s=self.clock.monotonic,
            own_cpu_s=lambda: 0.0,
            load=self._limits.pause_when_busy is not None,
        )
        self.pauses = Pauses(
            Judge(self._limits), self.watch.look, now_s=self.clock.monotonic, wait=self._wait, tell=self.said.append
        )
        self.pauses.begin(self.meter.mark, "round 1")
        self.pauses.working(Phase.TRAIN)
        self.allowance = Allowance(
            budget_j=self.budget_j, deadline_s=self._deadline_s, reserve=Reserve(), spent_j=self.meter.spent_j,
            now_s=self.clock.monotonic, stopping=lambda: self.stop, rests=self.pauses,
        )  # fmt: skip
        self.start_s = self.clock.now_s

    def train(self, steps: int, each: Callable[[int], None] = lambda number: None) -> tuple[int, StopReason | None]:
        """Like training does it: asks before each step."""
        for number in range(steps):
            each(number)
            refused = self.allowance.step()
            if refused is not None:
                return number, refused
            self._pass(self.step_s, working=True)
        return steps, None

    def energy(self) -> dict[Phase, PhaseEnergy]:
        self.meter.mark(Phase.IDLE)
        return {phase_energy.phase: phase_energy for phase_energy in self.meter.settle()}
