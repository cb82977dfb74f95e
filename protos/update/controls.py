"""SCAFFOLD's control variates (Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: ICML 2020, arXiv 1910.06378).

Each device i has a control c_i, what its own gradients were like in its last round, and all share c, the mean of these.
Each local step goes along ``g_i(y) - c_i + c`` instead of ``g_i(y)``. So what pulls one device elsewhere than the
others is taken out, and local steps end where the common objective does, however unlike the shards are. After K steps
from x to y at rate eta (option II of the paper),

    c_i+ = c_i - c + (x - y) / (eta K),         c_i+ - c_i = -c - (y - x) / (eta K)

The second form holds nothing that only the device knows: the coordinator has c and the update ``y - x``. So nothing
more travels up than without controls, and each c_i is only on its device. Both ends compute with the update **as
decoded**: then c is the mean of the very c_i that devices use, whatever the codec, and its errors cancel in the mean.

Controls are in the coordinates that steps are made in: those of the head, or whitened ones.

With heavy-ball momentum the steps weigh the gradients they sum unequally; the sum of those weights, ||a||_1 of
:mod:`protos.normaliser`, takes the place of K, and c_i+ is a weighted mean of gradients.

An *epoch* is a stretch of rounds over which the coordinator's sum holds the controls that devices have. When one loses
its control, or comes to weigh another amount, the sum is wrong from then on: a new epoch begins, in which all are zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from protos.errors import NonFiniteError, UpdateError
from protos.normaliser import local_normaliser
from protos.orders import ControlOrder
from protos.update import trees
from protos.update.tensors import as_float32, decode
from protos.update.trees import Shapes, Tree

# Bundles of other optimisers sum their gradients in ways that no count of steps undoes.
OPTIMISERS = ("sgd",)


def version_of(epoch: int, control: Tree) -> str:
    """The name of a control: of its epoch and content."""
    return f"control-{epoch}-{trees.version(control).removeprefix('head-')}"


def zero(shapes: Shapes) -> Tree:
    """The control before any round."""
    return {name: np.zeros(tuple(shape), np.float32) for name, shape in sorted(shapes.items())}


def order_of(epoch: int, control: Tree) -> ControlOrder:
    """A control as an order carries it."""
    is_zero = not any(value.any() for value in control.values())
    return ControlOrder(version_of(epoch, control), epoch, () if is_zero else as_float32(control))


def received(order: ControlOrder, shapes: Shapes) -> Tree:
    """The control that came with an order.

    Raises:
        UpdateError: not of these shapes, or not the one that it is called.
    """
    control = decode(order.tensors, shapes) if order.tensors else zero(shapes)
    if version_of(order.epoch, control) != order.version:
        raise UpdateError("a control variate that is not the one it is called", where=f"control {order.version}")
    return control


def change_of_own(control: Tree, update: Tree, steps: int, inputs: Mapping[str, float]) -> Tree:
    """``c_i+ - c_i`` of a device, in float32: the same bits on the device and on the coordinator.

    Args:
        control: c.
        update: ``y - x`` as decoded.
        steps: K, at least 1.
        inputs: of the train signature; ``rate`` and ``momentum`` count.

    Raises:
        NonFiniteError: the update is too large for such a rate.
    """
    rate = inputs["rate"]
    carried = np.float32(rate * local_normaliser(steps, rate=rate, momentum=inputs.get("momentum", 0.0)))
    with np.errstate(all="ignore"):
        change = {name: -control[name] - update[name].astype(np.float32) / carried for name in sorted(update)}
    if not all(np.isfinite(value).all() for value in change.values()):
        raise NonFiniteError(f"a control variate is not finite: the update is too large for a rate of {rate:g}")
    return change
