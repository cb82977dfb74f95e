"""The coordinator's side of SCAFFOLD: its control c, the weighted mean of the devices' own, which it never sees.

With w_i the weight of device i, and the sum over all that have made a step in this epoch,

    S = sum w_i c_i,    W = sum w_i,    c = S / W

``c_i+ - c_i`` follows from c and the update (:mod:`protos.update.controls`): a report moves S by w_i times that, and W
by w_i if it is the device's first. At the fixed point c is the gradient of the very objective that the weights say.

The paper divides by all N clients, with c_i = 0 for those never asked; here these do not count until they are. So c has
the size of a gradient from the second round on, also where a plan samples few of many. With all devices asked each
round the two are the same.

S is no longer that sum when a device has lost its control, or weighs another amount than before. Then a new epoch
begins with zero controls everywhere, and the round after is one of plain steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.orders import ControlOrder
from protos.update import controls
from protos.update.trees import Shapes, Tree

# Names in the state that is kept of a run's server; the optimiser's own have others.
PREFIX = "control/"
_TOTAL, _WEIGHT, _EPOCH = f"{PREFIX}total/", f"{PREFIX}weight", f"{PREFIX}epoch"


@dataclass(frozen=True)
class Controls:
    """The state between rounds.

    Attributes:
        epoch: the round that it began before, from 1.
        total, weight: S and W of the formulas, float32.
        common: c, float32.
    """

    epoch: int
    total: Tree
    weight: float
    common: Tree

    @staticmethod
    def start(shapes: Shapes, epoch: int = 1) -> Controls:
        """Before the first round of an epoch."""
        return Controls(epoch, controls.zero(shapes), 0.0, controls.zero(shapes))

    @staticmethod
    def kept(state: Tree | None, shapes: Shapes) -> Controls:
        """As it was written down; the start when nothing was."""
        if state is None or _EPOCH not in state:
            return Controls.start(shapes)
        total = {name: state[_TOTAL + name] for name in sorted(shapes)}
        weight = float(state[_WEIGHT][0])
        return Controls(int(state[_EPOCH][0]), total, weight, _mean(total, weight))

    def tree(self) -> Tree:
        """As it is written down."""
        total = {_TOTAL + name: value for name, value in self.total.items()}
        return {**total, _WEIGHT: np.array([self.weight], np.float32), _EPOCH: np.array([self.epoch], np.float32)}

    def order(self) -> ControlOrder:
        """As devices are told."""
        return controls.order_of(self.epoch, self.common)


def without(state: Tree) -> Tree:
    """What of a server's state belongs to its optimiser."""
    return {name: value for name, value in state.items() if not name.startswith(PREFIX)}


def _mean(total: Tree, weight: float) -> Tree:
    if not weight > 0:
        return {name: np.zeros_like(value) for name, value in total.items()}
    # + 0.0: a zero has one sign, so that it has one name.
    return {
        name: (value.astype(np.float64) / weight).astype(np.float32) + np.float32(0) for name, value in total.items()
    }


class ControlFold:
    """Folds the reports of one round into the controls.

    Args:
        before: the state that its orders carried.
        known: weight of each device whose control the sum holds.
    """

    def __init__(self, before: Controls, known: Mapping[str, float]) -> None:
        self._before, self._known = before, known
        self._moved: dict[str, npt.NDArray[np.float64]] = {
            name: value.astype(np.float64) for name, value in before.total.items()
        }
        self._weight = before.weight
        self.anew = ""

    def add(
        self, device_id: str, update: Tree, weight: float, steps: int, inputs: Mapping[str, float], *, held: bool
    ) -> None:
        """Fold in a report with steps.

        Args:
            update: as it travelled, in the coordinates that the steps were made in.
            held: the device had a control of its own, of this epoch.
        """
        known = self._known.get(device_id)
        if held != (known is not None):
            self.anew = f"{device_id} has lost its control variate" if known is not None else f"{device_id} is unknown"
        elif known is not None and known != weight:
            self.anew = f"{device_id} weighs {weight:g}, and {known:g} before"
        change = controls.change_of_own(self._before.common, update, steps, inputs)
        for name, value in change.items():
            self._moved[name] += weight * value.astype(np.float64)
        if known is None:
            self._weight += weight

    def after(self, number: int) -> Controls:
        """The state after round ``number``; the start of an epoch when the sum cannot go on."""
        if self.anew:
            return Controls.start({name: value.shape for name, value in self._before.total.items()}, number + 1)
        total = {name: value.astype(np.float32) for name, value in self._moved.items()}
        weight = float(np.float32(self._weight))
        return Controls(self._before.epoch, total, weight, _mean(total, weight))
