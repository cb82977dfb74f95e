"""What the Edge TPU asks of every tensor that it touches.

Source: "TensorFlow models on the Edge TPU", Model requirements, https://coral.ai/docs/edgetpu/models-intro/:
tensors are 8-bit and quantised; sizes are constant at compile time; so are parameters such as biases; a tensor has
one, two or three dimensions, or only its three innermost ones are larger than one.
"""

from __future__ import annotations

from firmware_tools.compile.graph import Node, Tensor

_EIGHT_BITS = ("int8", "uint8")
# Biases, axes and shapes are 32 bits wide; an integer LSTM keeps its cell in 16.
_CONSTANTS = (*_EIGHT_BITS, "int32")
_RECURRENT = ("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM")
# Kernels have four axes of any size: [out, height, width, in].
_KERNELS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
INNERMOST = 3


def unmet(node: Node) -> str | None:
    """Why a tensor of this operator keeps it off the Edge TPU; None when all of them are fit."""
    for what, tensors in (("input", node.inputs), ("output", node.outputs)):
        for position, tensor in enumerate(tensors):
            if tensor is not None and (reason := _unmet_by(tensor, node)) is not None:
                return f"{what} {position} {reason}"
    return None


def larger_than_one(shape: tuple[int, ...], innermost: int) -> bool:
    """True when an axis outside the innermost ones is larger than one."""
    return any(size > 1 for size in shape[: max(len(shape) - innermost, 0)])


def _unmet_by(tensor: Tensor, node: Node) -> str | None:
    constant = tensor.data is not None
    allowed = _CONSTANTS if constant else _EIGHT_BITS
    if node.name in _RECURRENT:
        allowed = (*allowed, "int16")
    if tensor.dtype not in allowed:
        return f"is {tensor.dtype}, not 8-bit"
    if tensor.dtype in _EIGHT_BITS and not tensor.scales:
        return "has no quantisation"
    # A converter leaves the batch open and yet writes its size as 1; that one compiles.
    if any(axis > 0 for axis in tensor.open_axes) or any(size < 1 for size in tensor.shape):
        return "has a size that is not known at compile time"
    if not (constant and node.name in _KERNELS) and larger_than_one(tensor.shape, INNERMOST):
        return f"has shape {list(tensor.shape)}: only the {INNERMOST} innermost sizes may be larger than 1"
    return None
