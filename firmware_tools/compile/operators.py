"""The operators that the Edge TPU runs, and the limits of each.

Source: "TensorFlow models on the Edge TPU", Supported operations, https://coral.ai/docs/edgetpu/models-intro/, as of
compiler 16.0 and runtime 14; the same table is at
https://developer.axis.com/computer-vision/on-device/system-on-chip/artpec-7/supported-ops/ for another Edge TPU.
The first axis is the batch, as in every model that TensorFlow's converter writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from firmware_tools.compile.graph import Node, Tensor
from firmware_tools.compile.requirements import larger_than_one

Limit = Callable[[Node], str | None]
MAX_SOFTMAX = 16_000
# schema.fbs: enum ActivationFunctionType
_ACTIVATIONS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH", 5: "SIGN_BIT"}


@dataclass(frozen=True, slots=True)
class Row:
    """One operator of the table.

    Attributes:
        constants: positions of the inputs that must be constants.
        limits: each gives the reason why a node does not map, or None.
        doubt: what Coral leaves open, in its own hedge: the operator may stay on the CPU.
    """

    constants: tuple[int, ...] = ()
    limits: tuple[Limit, ...] = ()
    doubt: str | None = None


def _no_activation(node: Node) -> str | None:
    fused = node.option("fusedActivationFunction")
    return f"has a fused {_ACTIVATIONS.get(fused, 'activation')}" if fused else None


def _same_dilation(node: Node) -> str | None:
    x, y = node.option("dilationWFactor", 1), node.option("dilationHFactor", 1)
    return None if x == y else f"dilates by {x} in x and by {y} in y"


def _zero_padding_only(node: Node) -> str | None:
    fixed = [tensor for tensor in node.inputs if tensor is not None and tensor.data is not None]
    if not fixed:
        return None
    if len(node.inputs) != 2:
        return f"joins a constant with {len(node.inputs) - 1} others: with a constant, two inputs at most"
    zero = fixed[0].zero_points[0] if fixed[0].zero_points else 0
    return None if set(fixed[0].integers() or ()) <= {zero} else "joins a constant that is not all zero"


def _plain_weights(node: Node) -> str | None:
    return "stores its weights shuffled" if node.option("weightsFormat") else None


def _flat_output(node: Node) -> str | None:
    return _flat(node.outputs[0], "output") if node.outputs else None


def _flat(tensor: Tensor, what: str) -> str | None:
    if larger_than_one(tensor.shape, 1):
        return f"has an {what} of shape {list(tensor.shape)}: only the innermost size may be larger than 1"
    return None


def _short_vector(node: Node) -> str | None:
    source = node.input(0)
    if source is None:
        return None
    if (reason := _flat(source, "input")) is not None:
        return reason
    length = source.shape[-1] if source.shape else 1
    return None if length <= MAX_SOFTMAX else f"has {length} values, {MAX_SOFTMAX} are the most"


def _axes(node: Node, position: int, rank: int) -> tuple[int, ...]:
    given = node.input(position)
    return tuple(axis + rank if axis < 0 else axis for axis in (given.integers() if given else None) or ())


def _keeps_batch(node: Node) -> str | None:
    source = node.input(0)
    rank = len(source.shape) if source else 0
    return "reduces the batch" if rank > 1 and 0 in _axes(node, 1, rank) else None


def _depth_by_four(node: Node) -> str | None:
    source = node.input(0)
    if source is None or not source.shape or len(source.shape) - 1 not in _axes(node, 1, len(source.shape)):
        return None
    return f"averages over {source.shape[-1]} channels, not a multiple of 4" if source.shape[-1] % 4 else None


def _packs_inside(node: Node) -> str | None:
    rank = len(node.outputs[0].shape) if node.outputs else 0
    axis = node.option("axis")
    return "packs along the batch" if rank > 1 and axis in (0, -rank) else None


def _pads_inside(node: Node) -> str | None:
    amounts = node.input(1)
    # One row for each axis, before and after: shape [rank, 2].
    values = (amounts.integers() if amounts else None) or ()
    return "pads the batch" if len(values) > 2 and any(values[:2]) else None


def _splits_inside(node: Node) -> str | None:
    source = node.input(1)
    rank = len(source.shape) if source else 0
    return "splits the batch" if rank > 1 and 0 in _axes(node, 0, rank) else None


def _flat_slope(node: Node) -> str | None:
    slope = node.input(1)
    if slope is None or not larger_than_one(slope.shape, 1):
        return None
    return f"has a slope of shape {list(slope.shape)}: in Keras, give PReLU shared_axes=[1, 2]"


def _plain_slice(node: Node) -> str | None:
    strides = node.input(3)
    if strides and any(integer != 1 for integer in strides.integers() or ()):
        return "has a stride other than 1"
    return "has an ellipsis or a new axis" if node.option("ellipsisMask") or node.option("newAxisMask") else None


_REDUCTION = Row((1,), (_keeps_batch,))
_RESIZE = Row((1,), doubt="some sizes stay on the CPU, to lose no precision")
_POOL = Row(limits=(_no_activation,))

TABLE: Mapping[str, Row] = {
    "ADD": Row(),
    "AVERAGE_POOL_2D": _POOL,
    "CONCATENATION": Row(limits=(_no_activation, _zero_padding_only)),
    "CONV_2D": Row((1, 2), (_same_dilation,)),
    "DEPTHWISE_CONV_2D": Row((1, 2), (_same_dilation,)),
    "EXPAND_DIMS": Row((1,)),
    "FULLY_CONNECTED": Row((1, 2), (_plain_weights, _flat_output)),
    "L2_NORMALIZATION": Row(),
    "LOGISTIC": Row(),
    "LSTM": Row(),
    "MAXIMUM": Row(),
    "MAX_POOL_2D": _POOL,
    "MEAN": Row((1,), (_keeps_batch, _depth_by_four)),
    "MINIMUM": Row(),
    "MUL": Row(),
    "PACK": Row(limits=(_packs_inside,)),
    "PAD": Row((1,), (_pads_inside,)),
    "PRELU": Row((1,), (_flat_slope,)),
    "QUANTIZE": Row(),
    "REDUCE_MAX": _REDUCTION,
    "REDUCE_MIN": _REDUCTION,
    "RELU": Row(),
    "RELU6": Row(),
    "RELU_N1_TO_1": Row(),
    "RESHAPE": Row((1,), doubt="large tensors may stay on the CPU"),
    "RESIZE_BILINEAR": _RESIZE,
    "RESIZE_NEAREST_NEIGHBOR": _RESIZE,
    "RSQRT": Row(),
    "SLICE": Row((1, 2)),
    "SOFTMAX": Row(limits=(_short_vector,)),
    "SPACE_TO_DEPTH": Row(),
    "SPLIT": Row((0,), (_splits_inside,)),
    "SQUARED_DIFFERENCE": Row(),
    "SQUEEZE": Row(),
    "STRIDED_SLICE": Row((1, 2, 3), (_plain_slice,)),
    "SUB": Row(),
    "SUM": _REDUCTION,
    "TANH": Row(),
    "TRANSPOSE": Row((1,)),
    "TRANSPOSE_CONV": Row((0, 1, 3)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Row(),
}

# First version that compiler 16.0 cannot read; it then refuses the whole file ("Didn't find op for builtin opcode").
# Reported with its messages in the trackers of google-coral/edgetpu (631, 845, 879) and google-coral/libedgetpu (71);
# version 12 of FULLY_CONNECTED came with TensorFlow 2.17, years after that compiler (tensorflow/tensorflow 80736).
UNREADABLE_FROM: Mapping[str, int] = {
    "CONV_2D": 6,
    "EXP": 2,
    "FULLY_CONNECTED": 12,
    "QUANTIZE": 3,
    "TRANSPOSE_CONV": 4,
}
