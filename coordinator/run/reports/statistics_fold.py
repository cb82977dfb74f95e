"""The statistics of a run's devices, summed into a head: exact, whatever the order in which they came.

Rules kept here:

* What is summed are whole numbers, so that no order and no tree of aggregators changes a bit of the sum.
* Weights are fixed-point numbers: a device's say an example, as a share of the largest, in units of 2**-20. Where all
  have the same say they count once, and the sums are those of all examples together.
* A device counts once: what it sent last replaces what it sent before.
* The head depends on which devices count and on the plan, and on nothing else. So a head without a device is, bit for
  bit, the head that there would be had it never come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from coordinator.aggregate.robust import Remark
from coordinator.budgets.order_line import OrderLine
from coordinator.budgets.weights import Standing, weight
from coordinator.learning.closed_form import LinearHead, solve
from coordinator.learning.normality import NAME, solve_distance
from coordinator.learning.quantities import NAME as QUANTITIES
from coordinator.learning.quantities import solve_quantities
from coordinator.run.evaluation import Evaluator
from coordinator.store.models.statistics import Held
from protos.errors import UpdateError
from protos.model.bundle import Bundle
from protos.model.head_algebra import apply_standardisation, standardised_deviation
from protos.model.task import ANOMALY
from protos.orders import DeviceReport
from protos.plan.plan import RunPlan
from protos.statistics.coding import CodedMoments, decode
from protos.statistics.features import FeatureMap, centre_of, shift_for
from protos.statistics.moments import Moments
from protos.statistics.quantities import QuantityMoments, quantity_moments
from protos.statistics.whitening import Basis, basis_of
from protos.update.trees import Tree

Reals = npt.NDArray[np.float64]

# Of the largest say an example.
UNITS = 1 << 20


def features_of(plan: RunPlan, bundle: Bundle) -> FeatureMap:
    """What devices of this run sum."""
    spec = bundle.manifest.backbone
    project = plan.closed_form.project
    if not project or project >= spec.embedding_width:
        return FeatureMap(spec.output_zero_point)
    shift = shift_for(standardised_deviation(bundle.feature_affine()[1]), spec.output_scale)
    return FeatureMap(spec.output_zero_point, project, shift, plan.run.seed)


def decoded(coded: CodedMoments, bundle: Bundle, features: FeatureMap) -> Moments:
    """The sums themselves.

    Raises:
        UpdateError: they are not what was ordered, or no sums of examples.
    """
    return decode(
        coded,
        classes=bundle.manifest.summed_classes,
        width=bundle.manifest.summed_width(features.width(bundle.manifest.backbone.embedding_width)),
        offset=features.summed_offset,
    )


def fixed_weights(held: Iterable[Held]) -> dict[str, int]:
    """By device, how often each of its examples counts.

    >>> one, two = (Held(name, 10, say, CodedMoments(0, (10,))) for name, say in (("a", 10.0), ("b", 5.0)))
    >>> fixed_weights([one, one]), fixed_weights([one, two])
    ({'a': 1}, {'a': 1048576, 'b': 524288})
    """
    each = {
        held_sums.device_id: held_sums.say / held_sums.examples
        for held_sums in held
        if held_sums.examples and held_sums.say > 0
    }
    largest = max(each.values(), default=0.0)
    if not each or min(each.values()) >= largest * (1.0 - 1e-12):
        return dict.fromkeys(each, 1)
    return {name: max(1, round(UNITS * value / largest)) for name, value in each.items()}


def weighted(held: Iterable[Held], bundle: Bundle, features: FeatureMap) -> list[Moments]:
    """The sums of each device times its weight, in the order of the devices' names.

    Raises:
        UpdateError: more examples, weights counted in, than the sums hold.
    """
    held = sorted(held, key=lambda held_sums: held_sums.device_id)
    weights = fixed_weights(held)
    return [
        decoded(held_sums.coded, bundle, features).times(weights[held_sums.device_id])
        for held_sums in held
        if held_sums.device_id in weights
    ]


@dataclass(frozen=True)
class Solved:
    """A head from statistics.

    Attributes:
        tree: as it travels and is published, in standardised space.
        found: how it was solved.
        basis: for steps that follow; None where the features were projected.
        examples, devices: behind it.
        temperature: what scores were multiplied with, so that their softmax is a probability.
        own: the head that the run started from was better on held-out data, and is where steps begin.
    """

    tree: Tree
    found: LinearHead
    basis: Basis | None
    examples: int
    devices: int
    temperature: float
    own: bool = False

    def in_words(self) -> str:
        """How the head was made, in one line."""
        chosen = self.found.chosen
        surely = "" if self.found.head in (NAME, QUANTITIES) else f", temperature {self.temperature:.3g}"
        return (
            f"{self.found.head} head of {self.examples} examples on {self.devices} devices, "
            f"shrinkage {self.found.shrinkage:.3g} ({chosen}){surely}"
            + ("; no surer on held-out data than the head before it, from which steps begin" if self.own else "")
        )


def head_from(
    held: Iterable[Held], plan: RunPlan, bundle: Bundle, judge: Evaluator | None = None, start: Tree | None = None
) -> Solved:
    """The head of these devices.

    Args:
        judge: held-out data. Scores are made probabilities by them, which changes no class; and where steps follow,
            they begin from the head that the run started from, unless the closed form is :func:`surely_better`. None:
            devices that are left out say how sure scores may be.
        start: the head that the run started from; None: the bundle's own.

    Raises:
        EmptyShardError: fewer than two classes have an example.
        NonFiniteError: the plan's shrinkage is too small for them.
    """
    held = list(held)
    features, section, spec = features_of(plan, bundle), plan.closed_form, bundle.manifest.backbone
    parts = weighted(held, bundle, features)
    mean, scale = bundle.feature_affine()
    centre = centre_of(mean, spec.output_scale, spec.output_zero_point)

    def published(kernel: Reals, bias: Reals) -> Tree:
        plain, moved = features.plain(kernel, bias, centre, spec.output_scale)
        return apply_standardisation({"out_kernel": plain, "out_bias": moved}, mean, scale)

    def accuracy(kernel: Reals, bias: Reals) -> float:
        assert judge is not None
        return judge.evaluate(published(kernel, bias)).accuracy

    by_data = judge is not None and section.choose == "held_out"
    if bundle.manifest.task == ANOMALY:

        def order(kernel: Reals, bias: Reals) -> float | None:
            value = accuracy(kernel, bias)
            return value if math.isfinite(value) else None

        normal = solve_distance(parts, shrinkage=section.shrinkage, order=order if by_data else None)
        examples = sum(held_sums.examples for held_sums in held)
        return Solved(published(normal.kernel, normal.bias), normal, None, examples, len(parts), 1.0)
    if bundle.manifest.quantities is not None:
        dtype = np.dtype(np.int8) if features.project else np.dtype(spec.output_dtype)

        def looked(moments: Moments) -> QuantityMoments:
            return quantity_moments(moments, bundle.manifest.outputs, dtype, features.summed_offset)

        fitted = solve_quantities(parts, looked, shrinkage=section.shrinkage, explained=accuracy if by_data else None)
        examples = sum(held_sums.examples for held_sums in held)
        return Solved(published(fitted.kernel, fitted.bias), fitted, None, examples, len(parts), 1.0)
    found = solve(
        parts,
        head=section.head,
        priors=section.priors,
        shrinkage=section.shrinkage,
        accuracy=accuracy if by_data else None,
    )
    tree = published(found.kernel, found.bias)
    temperature = found.temperature
    if judge is not None:
        factor = judge.calibration(tree)
        tree = {name: (value.astype(np.float64) * factor).astype(np.float32) for name, value in tree.items()}
        temperature *= factor
    basis, own = None, False
    if judge is not None and plan.train.method == "closed_form+sgd":
        start = bundle.initial_head() if start is None else start
        own = not surely_better(judge.right(tree), judge.right(start))
        tree = start if own else tree
    if plan.trains_whitened:
        # x = (z s - mean) c with z the summed numbers, s the embedding's scale, c the bundle's feature scale.
        middle, covariance = found.total_moments
        unit = spec.output_scale * scale.astype(np.float64)
        standardised = middle * unit - mean.astype(np.float64) * scale
        basis = basis_of(standardised, covariance * np.outer(unit, unit))
    return Solved(tree, found, basis, sum(held_sums.examples for held_sums in held), len(parts), temperature, own)


def surely_better(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> bool:
    """Whether a head is better than another by more than chance, from which of the same examples they get right.

    With ``a`` and ``b`` the examples that just one of them gets right, a - b varies by sqrt(a + b) where both are
    equally good (McNemar 1947). More than once that is enough, since either is a fair start.
    """
    a, b = int((one & ~other).sum()), int((other & ~one).sum())
    return a - b > math.sqrt(a + b)


class StatisticsFold:
    """The statistics of a round, as they come; the same face as :class:`coordinator.run.reports.aggregation.Fold`.

    Args:
        plan, bundle: of the run.
        lines: the orders of the round, by device.
        before: statistics of devices that were held before this round.
        judge: see :func:`head_from`.

    Attributes:
        folded: whose reports are in, in their order.
        remarks: none: sums are exact, and nothing of a device is cut.
        solved: what :meth:`head_after` made last.
    """

    def __init__(
        self,
        plan: RunPlan,
        bundle: Bundle,
        lines: Mapping[str, OrderLine],
        before: Callable[[], Iterable[Held]],
        judge: Evaluator | None = None,
    ) -> None:
        self._judge = judge
        self._plan, self._bundle, self._lines, self._before = plan, bundle, lines, before
        self._largest_budget_j = max((j for line in lines.values() if (j := line.standing_j) is not None), default=None)
        self._came: dict[str, Held] = {}
        self.folded: list[str] = []
        self.remarks: tuple[Remark, ...] = ()
        self.solved: Solved | None = None

    def weight_of(self, report: DeviceReport) -> float:
        """The say of a report, not normalised."""
        line = self._lines[report.device_id]
        standing = Standing(report.examples, line.standing_j, self._largest_budget_j)
        return line.factor * weight(self._plan.aggregate.weight, standing)

    def add(self, report: DeviceReport, update: object) -> None:
        """Take the statistics of a checked report."""
        if report.statistics is None:
            raise UpdateError("a report without statistics", where=report.device_id)
        self._came[report.device_id] = Held(
            report.device_id, report.examples, self.weight_of(report), report.statistics
        )
        self.folded.append(report.device_id)

    def sizes_of(self, report: DeviceReport, update: object) -> None:
        """Statistics are no change of a head."""
        return

    @property
    def held(self) -> list[Held]:
        """All devices that count now."""
        before = {held_sums.device_id: held_sums for held_sums in self._before()}
        return list({**before, **self._came}.values())

    def head_after(self, head: Tree) -> Tree:
        """The head of all statistics that are held; ``head`` itself when there are none."""
        held = [held_sums for held_sums in self.held if held_sums.examples]
        if not held:
            return head
        self.solved = head_from(held, self._plan, self._bundle, self._judge, head)
        return self.solved.tree
