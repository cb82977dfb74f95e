"""The reports of one round, folded into one change of the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from coordinator.aggregate import privacy as private
from coordinator.aggregate.controls import ControlFold, Controls, without
from coordinator.aggregate.mean import Wide
from coordinator.aggregate.robust import Gathered, Remark, RobustSettings
from coordinator.aggregate.rules import RULES
from coordinator.aggregate.server_optimisers import SERVER_OPTIMISERS, ServerSettings
from coordinator.budgets.codec_error import error_on
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.unbiased import Totals, Whole, of_another_round, rescaled
from coordinator.budgets.weights import Standing, weight
from protos.catalog import pick
from protos.errors import NonFiniteError, PlanError
from protos.orders import DeviceReport
from protos.plan.sections import AggregateSection, PrivacySection, UpdateSection
from protos.update import trees
from protos.update.tensors import decode
from protos.update.trees import Shapes, Tree


@dataclass(frozen=True)
class Population:
    """All devices that a round speaks for, when only some of them were asked.

    Attributes:
        whole: their weights.
        guess: sum over all of w h, by tensor: what they would send, as it looked before anyone was asked.
        of_device: h of one device, per unit of its normaliser; None for nothing. It must not depend on who was asked.
    """

    whole: Whole
    guess: Wide | None = None
    of_device: Callable[[str], Tree | None] = lambda device_id: None


def settings_of(plan: AggregateSection) -> RobustSettings | None:
    """The robust rule of a plan; None for the plain mean, which is folded as reports come."""
    if not plan.gathers:
        return None
    return RobustSettings(plan.rule, plan.clip, bool(plan.mix), plan.malicious, plan.weight_cap)


@dataclass(frozen=True)
class Late:
    """Of a report that counts in a later round than its own.

    Attributes:
        line: its order.
        rounds: how late it is, 1 or more: so many times the head has moved since it was ordered.
        whole: whom its round spoke for, where devices were drawn; None: everyone was asked.
    """

    line: OrderLine
    rounds: int
    whole: Whole | None = None


def name_in_fold(device_id: str, of_round: int | None = None) -> str:
    """How a fold calls a report; ``of_round`` of a late one: a device may have an own one beside it."""
    return device_id if of_round is None else f"{device_id} of round {of_round}"


@dataclass(frozen=True)
class Corrections:
    """What a round of SCAFFOLD needs to know.

    Attributes:
        number: of the round.
        before: the controls that its orders carried.
        known: weight of each device whose own control these hold.
        inputs: of the train signature in this round, defaults included.
    """

    number: int
    before: Controls
    known: Mapping[str, float]
    inputs: Mapping[str, float]


class Fold:
    """Folds reports as they come, in memory for one, whatever their number; a robust rule holds all of a round.

    Args:
        plan: how to weigh, normalise and step.
        shapes: of the head.
        lines: the orders of the round, by device; who has the largest budget depends on all of them.
        population: whom the round speaks for; None: those whose reports came, as their weighted mean.
        server: the state of the plan's server optimiser before the round; None: before any.
        update: how changes were ordered to travel; None: without loss.
        privacy: bound of each change, and noise; None: neither.
        corrections: with control variates; None: without.

    Attributes:
        folded: which reports are in, in their order; see :func:`name_in_fold`.
        server_after: the state of the server optimiser, and of controls, after :meth:`head_after`.
        said: what else is to be written down of the round after that, or "".
    """

    def __init__(
        self,
        plan: AggregateSection,
        shapes: Shapes,
        lines: Mapping[str, OrderLine],
        population: Population | None = None,
        server: Tree | None = None,
        corrections: Corrections | None = None,
        update: UpdateSection | None = None,
        privacy: PrivacySection | None = None,
    ) -> None:
        self._server = pick(SERVER_OPTIMISERS, plan.server, what="server optimiser", where="aggregate", error=PlanError)
        self._settings = ServerSettings(plan.server_momentum, plan.server_second, plan.server_tau)
        state = {} if server is None else without(server)
        self._before = self._server.from_state(state, shapes, self._settings)
        self._corrections = corrections
        self._controls = None if corrections is None else ControlFold(corrections.before, corrections.known)
        self.said = ""
        self._kept: Tree = self._before if server is None else server
        self.server_after: Tree = self._kept
        self._plan = plan
        self._rule = pick(RULES, plan.normalise, what="normalisation", where="aggregate.normalise", error=PlanError)
        self._state = self._rule.start(shapes)
        self._update, self._shapes = update, shapes
        self._privacy = PrivacySection() if privacy is None else privacy
        settings = settings_of(plan)
        self._gathered = None if settings is None else Gathered(shapes, settings, plan.normalise == "fednova")
        self._lines = lines
        self._largest_budget_j = max((j for line in lines.values() if (j := line.standing_j) is not None), default=None)
        self._population, self._totals = population, Totals()
        self._guessed: Wide = {}
        self.folded: list[str] = []

    def weight_of(self, report: DeviceReport, late: Late | None = None) -> float:
        """The say of a report, not normalised; of one that is s rounds late, ``(1 + s)^-staleness`` times that, and in
        the measure of this round where devices are drawn: see :func:`coordinator.budgets.unbiased.of_another_round`."""
        line = self._lines[report.device_id] if late is None else late.line
        # Of another round that drew, the order says it itself, as far as anybody there had a budget.
        largest_j = self._largest_budget_j if late is None or late.whole is None else None
        say = line.factor * weight(self._plan.weight, Standing(report.examples, line.standing_j, largest_j))
        if late is None:
            return say
        say *= float((1.0 + late.rounds) ** -self._plan.staleness)
        if late.whole is not None and self._population is not None:
            say *= of_another_round(self._plan.normalise, late.whole, self._population.whole)
        return say

    def add(self, report: DeviceReport, update: Tree, late: Late | None = None) -> None:
        """Fold in a checked report. One without a step has no effect."""
        if report.steps_done:
            self._add(report, update, late)
        # Last: what failed half-way does not count as folded.
        self.folded.append(name_in_fold(report.device_id, None if late is None else report.round))

    def _add(self, report: DeviceReport, update: Tree, late: Late | None) -> None:
        say = self.weight_of(report, late)
        if self._privacy.clip is not None:
            update = private.clipped(update, self._privacy.clip)
        if self._gathered is not None:
            error = self._error_of(self._lines[report.device_id] if late is None else late.line)
            self._gathered.add(report.device_id, update, say, report.local_normaliser, error)
            return
        if self._controls is not None and self._corrections is not None:
            # As it travelled: in the coordinates that controls are in.
            sent = decode(report.update, trees.shapes(update))
            self._controls.add(
                report.device_id, sent, say, report.steps_done, self._corrections.inputs, held=report.control_held
            )
        self._state = self._rule.add(self._state, update, say, report.local_normaliser)
        self._totals.weight += say
        self._totals.work += say * report.local_normaliser
        guess = self._guess_of(report.device_id)
        if guess is not None:
            for name, value in guess.items():
                self._guessed[name] = self._guessed.get(name, 0.0) + say * value.astype(np.float64)

    def _error_of(self, line: OrderLine) -> float:
        """Of the codec that the order named; what a device says of its own coding is not asked."""
        if self._update is None:
            return 0.0
        parameters = dict(self._update.parameters) | ({} if line.bits is None else {"bits": line.bits})
        expected = tuple((name, tuple(shape)) for name, shape in sorted(self._shapes.items()))
        return error_on(self._update.codec, tuple(sorted(parameters.items())), expected)

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """What a robust rule did to the changes of single devices, after :meth:`head_after`."""
        return () if self._gathered is None else self._gathered.remarks

    def _guess_of(self, device_id: str) -> Tree | None:
        return None if self._population is None else self._population.of_device(device_id)

    def sizes_of(self, report: DeviceReport, update: Tree) -> tuple[float, float] | None:
        """How large the change of a report is, and its difference from what was guessed of it, both per unit of the
        normaliser; None without a step."""
        if not report.steps_done or not report.local_normaliser > 0:
            return None
        unit = report.local_normaliser if self._plan.normalise == "fednova" else 1.0
        guess = self._guess_of(report.device_id)
        size = deviation = 0.0
        for name, value in update.items():
            change = value.astype(np.float64) / unit
            size += trees.sum_of_squares(change)
            rest = change if guess is None else change - guess[name].astype(np.float64)
            deviation += trees.sum_of_squares(rest)
        return size**0.5, deviation**0.5

    def head_after(self, head: Tree) -> Tree:
        """The head moved by the change of the round; ``head`` itself when nobody made a step. Changes nothing, so
        that it can be asked again; noise is another each time, and only one head is published.

        Raises:
            NonFiniteError: the head has left the numbers.
        """
        change = self._finished()
        self.server_after = self._kept
        if change is None:
            return head
        if self._privacy.clip is not None and self._privacy.noise is not None:
            change = private.noisy(change, self._privacy.clip, self._privacy.noise, self._totals.weight)
        if self._population is not None:
            change = self._unbiased(change, self._population)
        with np.errstate(over="ignore"):
            change, self.server_after = self._server.step(change, self._before, self._settings)
            moved = trees.add_scaled(head, change, self._plan.server_rate)
        if self._controls is not None and self._corrections is not None:
            self.server_after = {**self.server_after, **self._controls.after(self._corrections.number).tree()}
            self.said = f"controls begin anew: {self._controls.anew}" if self._controls.anew else ""
        try:
            trees.check(moved, trees.shapes(head), where="head")
        except NonFiniteError as error:
            fix = "lower train.rate or aggregate.server_rate"
            raise NonFiniteError("training diverged: the new head is not finite", fix=fix) from error
        return moved

    def _finished(self) -> Wide | None:
        return self._rule.finish(self._state) if self._gathered is None else self._gathered.finish()

    def _unbiased(self, change: Wide, population: Population) -> Wide:
        """``(sum of w h + sum of w / p (D - h)) / W``, times the work of all where steps were taken out."""
        own, unit = rescaled(self._plan.normalise, self._totals, population.whole)
        made: Wide = {}
        for name, value in change.items():
            rest = 0.0 if population.guess is None else population.guess[name]
            made[name] = own * value + unit * (rest - self._guessed.get(name, 0.0))
        return made
