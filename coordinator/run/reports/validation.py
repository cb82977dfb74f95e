"""What a report must be before it may touch the head. Each refusal has a code, counted, and a line that says why.

The numbers that weigh a report (examples, steps, FedNova's normaliser) are claims of the device; they are held
against what it declared at join and against what its order allows, so that no claim alone buys more say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.aggregate.controls import Controls
from protos.errors import NonFiniteError, UpdateError
from protos.normaliser import of_optimiser
from protos.orders import DeviceReport
from protos.statistics.whitening import Basis
from protos.update import controls
from protos.update.tensors import decode
from protos.update.trees import Shapes, Tree

# Difference that two machines may have in the normaliser; relative, and absolute under 1 (one step counts 1).
_TOLERANCE = 1e-6


class RejectedError(Exception):
    """A report that is not taken. Becomes a verdict; never leaves the coordinator as an exception.

    Args:
        code: a stable word, a row of :data:`coordinator.run.reports.reasons.REASONS`.
        reason: one line for the device's log.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, " ".join(reason.split())[:400]


@dataclass(frozen=True)
class Expected:
    """What the order of a report said, and what its device declared.

    Attributes:
        examples: training examples declared at join.
        attempt: the newest at the round; reports of earlier ones are still welcome, since the head is the same.
        optimiser: the bundle's; "sgd" takes rate, momentum and proximal_mu.
        basis: coordinates that the update is in; None: those of the head.
        control: of SCAFFOLD, in the order; None: there was none.
    """

    plan_id: str
    bundle_id: str
    head_version: str
    steps: int
    examples: int
    shapes: Shapes
    inputs: Mapping[str, float]
    optimiser: str
    attempt: int = 1
    basis: Basis | None = None
    control: Controls | None = None


def check(report: DeviceReport, expected: Expected) -> Tree:
    """The decoded update of a report that may be folded: finite, of the expected shapes, in the head's coordinates.

    Raises:
        RejectedError: for the first thing that is not as it must be.
    """
    check_claims(report, expected)
    basis = expected.basis.version if expected.basis is not None else ""
    if report.basis_version != basis:
        raise RejectedError(
            "wrong_basis",
            f"the update is in the coordinates {report.basis_version or 'of the head'}, the order says "
            f"{basis or 'those of the head'}; install the same release on the device and the coordinator",
        )
    control = expected.control.order().version if expected.control is not None else ""
    if report.control_version != control:
        raise RejectedError(
            "wrong_control",
            f"steps corrected by {report.control_version or 'no control variate'}, the order says {control or 'none'}; "
            "install the same release on the device and the coordinator",
        )
    try:
        update = decode(report.update, expected.shapes)
        if expected.control is not None and report.steps_done:
            controls.change_of_own(expected.control.common, update, report.steps_done, expected.inputs)
    except (UpdateError, NonFiniteError) as error:
        raise RejectedError("bad_update", f"update refused: {error}") from error
    return update if expected.basis is None else expected.basis.back(update)


def check_claims(report: DeviceReport, expected: Expected) -> None:
    """What a report says of itself, against its order and its device.

    Raises:
        RejectedError: for the first thing that is not as it must be.
    """
    for code, said, ordered, what in (
        ("wrong_plan", report.plan_id, expected.plan_id, "plan"),
        ("wrong_bundle", report.bundle_id, expected.bundle_id, "bundle"),
        ("wrong_head", report.head_version, expected.head_version, "head"),
    ):
        if said != ordered:
            raise RejectedError(code, f"trained with {what} {said}, the order says {ordered}")
    if report.attempt is not None and report.attempt > expected.attempt:
        raise RejectedError("not_ordered", f"attempt {report.attempt} was never ordered, only {expected.attempt}")
    if report.steps_planned != expected.steps or not 0 <= report.steps_done <= expected.steps:
        raise RejectedError(
            "wrong_steps", f"{report.steps_done} of {report.steps_planned} steps, the order says {expected.steps}"
        )
    if report.examples > expected.examples or (report.steps_done and not report.examples):
        raise RejectedError(
            "too_many_examples", f"{report.examples} training examples, {expected.examples} declared at join"
        )
    _check_normaliser(report, expected)
    phases = [record.phase for record in report.energy]
    if len(set(phases)) != len(phases):
        raise RejectedError("bad_energy", "a phase has two energies")


def _check_normaliser(report: DeviceReport, expected: Expected) -> None:
    said = report.local_normaliser
    computed = of_optimiser(expected.optimiser, report.steps_done, expected.inputs)
    if not math.isclose(said, computed, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        raise RejectedError(
            "wrong_normaliser",
            f"local normaliser {said:.9g} after {report.steps_done} steps; by the order it is {computed:.9g}",
        )
