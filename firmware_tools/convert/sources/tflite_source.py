"""Takes an embedding extractor that is quantised already: an integer .tflite, used as it is.

It is not cut: the tensors inside a quantised graph are fused with what follows them, and the file must stay the one
that an Edge TPU twin was compiled from. Its last operator tells a classifier, which is no extractor.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from firmware_tools.inspect.model import ModelFacts, Tensor, read_bytes
from protos.errors import ModelError, UsageError

_CLASSIFIERS = ("SOFTMAX", "LOGISTIC", "LOG_SOFTMAX")
_INTEGERS = ("int8", "uint8")


@dataclasses.dataclass(frozen=True, slots=True)
class Extractor:
    """A checked integer model: its bytes and facts; one input, one output that is a vector."""

    content: bytes
    facts: ModelFacts

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.facts.inputs[0].shape[1:]


def open_extractor(path: Path, *, cut: str | None) -> Extractor:
    """Read and check an integer embedding extractor.

    Raises:
        UsageError: a cut is asked for.
        ModelError: it is damaged, float, compiled for an Edge TPU, a classifier, or not one vector from one input.
    """
    where = path.name
    if cut is not None:
        raise UsageError(
            f"--cut {cut}: a quantised .tflite cannot be cut", where=where,
            fix="give the float model (.keras, .h5, SavedModel), or an embedding extractor",
        )  # fmt: skip
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=where) from error
    facts = read_bytes(content, where=where)
    if any("edgetpu" in name for name in facts.operator_counts()):
        raise ModelError("is compiled for an Edge TPU and cannot run on a CPU", where=where, fix="give its CPU twin")
    if custom := [name for name in facts.operator_counts() if name.startswith("CUSTOM")]:
        raise ModelError(f"needs operators that are no TFLite builtins: {', '.join(custom)}", where=where)
    for end, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        if len(tensors) != 1:
            raise ModelError(f"has {len(tensors)} {end}s; a backbone has one", where=where)
        _check_end(tensors[0], end, where)
    last = facts.operators[-1].name if facts.operators else None
    if last is None:
        raise ModelError("holds no operator", where=where)
    if last in _CLASSIFIERS:
        raise ModelError(
            f"ends in {last}: it is a classifier, and class probabilities are no features", where=where,
            fix="give its float model, which can be cut, or an embedding extractor",
        )  # fmt: skip
    if inside := facts.float_operator_counts():
        raise ModelError(f"holds float operators: {describe(inside)}", where=where, fix="give a fully integer model")
    return Extractor(content, facts)


def describe(counts: dict[str, int]) -> str:
    """``2 x ADD, 1 x CONV_2D`` of operator counts."""
    return ", ".join(f"{count} x {name}" for name, count in counts.items())


def _check_end(tensor: Tensor, end: str, where: str) -> None:
    if tensor.dtype not in _INTEGERS:
        fix = "give its .keras, .h5 or SavedModel, which convert quantises" if "float" in tensor.dtype else None
        raise ModelError(f"its {end} is {tensor.dtype}, not int8 or uint8", where=where, fix=fix)
    if len(tensor.scales) != 1 or len(tensor.zero_points) != 1 or not tensor.scales[0] > 0:
        raise ModelError(f"its {end} has no scale and zero point", where=where)
    if len(tensor.shape) < 2 or tensor.shape[0] != 1 or any(size < 1 for size in tensor.shape):
        raise ModelError(f"its {end} has shape {list(tensor.shape)}; a batch of 1 is needed", where=where)
    if end == "output" and sum(size != 1 for size in tensor.shape) != 1:
        raise ModelError(f"its output has shape {list(tensor.shape)}, not one vector", where=where,
                         fix="an extractor ends after pooling")  # fmt: skip
