"""What is inside a .tflite file, read from its flatbuffer: operators, types, quantisation, signatures.

Nothing is run. A damaged flatbuffer can still make the reader raise anything or ask for a lot of memory, so files
from elsewhere are read in a child process (`firmware_tools.child`).
"""

from __future__ import annotations

import collections
import dataclasses
import math
from pathlib import Path
from typing import Any

from protos.errors import ModelError

MAGIC = b"TFL3"
_FLOATS = {"float16", "float32", "float64", "bfloat16"}


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """Name, shape, type and quantisation of one tensor; ``scales`` has one entry per channel, or one, or none."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """One operator with the tensors it reads and writes; absent optional inputs are left out."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def is_float(self) -> bool:
        """True when any tensor that it reads or writes is of a floating type."""
        return any(tensor.dtype in _FLOATS for tensor in (*self.inputs, *self.outputs))


@dataclasses.dataclass(frozen=True, slots=True)
class Signature:
    """Named inputs and outputs of one entry point."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelFacts:
    """A .tflite file as read from its bytes. ``inputs`` and ``outputs`` are those of the first subgraph."""

    size_bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    signatures: dict[str, Signature]

    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs, over all subgraphs, by name."""
        return dict(sorted(collections.Counter(operator.name for operator in self.operators).items()))

    def float_operator_counts(self) -> dict[str, int]:
        """The same, of operators that read or write floating-point tensors."""
        return dict(
            sorted(collections.Counter(operator.name for operator in self.operators if operator.is_float).items())
        )

    def zero_dimensional_inputs(self) -> list[str]:
        """``signature.input`` of every 0-D input, which crashes ai-edge-litert on aarch64; must be empty."""
        named = [
            f"{name}.{key}"
            for name, signature in self.signatures.items()
            for key, tensor in signature.inputs.items()
            if not tensor.shape
        ]
        return named + [f"input {tensor.name}" for tensor in self.inputs if not tensor.shape]

    def convolutions_per_channel(self) -> tuple[int, int]:
        """How many convolutions have one weight scale per output channel, and how many there are."""
        channel = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3}
        kernels = [
            (operator.inputs[1].shape[channel[operator.name]], len(operator.inputs[1].scales))
            for operator in self.operators
            if operator.name in channel and len(operator.inputs) > 1 and len(operator.inputs[1].shape) == 4
        ]
        return sum(channels == scales for channels, scales in kernels), len(kernels)

    def macs(self) -> int:
        """Multiply-accumulates of one inference, in convolutions and fully connected layers only."""
        return sum(_macs(operator) for operator in self.operators)


def _macs(operator: Operator) -> int:
    if len(operator.inputs) < 2 or not operator.outputs:
        return 0
    kernel, output = operator.inputs[1].shape, math.prod(operator.outputs[0].shape)
    if operator.name == "CONV_2D" and len(kernel) == 4:
        return output * kernel[1] * kernel[2] * kernel[3]
    if operator.name == "DEPTHWISE_CONV_2D" and len(kernel) == 4:
        return output * kernel[1] * kernel[2]
    if operator.name == "FULLY_CONNECTED" and len(kernel) == 2:
        return output * kernel[1]
    return 0


def read_model(path: Path) -> ModelFacts:
    """Read a .tflite file.

    Raises:
        ModelError: it is not one, or it is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(path)) from error
    return read_bytes(data, where=path.name)


def read_bytes(data: bytes, *, where: str) -> ModelFacts:
    """The same of bytes in memory; ``where`` names them in errors."""
    if len(data) < 8 or data[4:8] != MAGIC:
        raise ModelError("is not a TFLite model: its identifier TFL3 is missing", where=where,
                         fix="give a .tflite file; one of 0 bytes was cut short on its way")  # fmt: skip
    try:
        return _facts(data)
    except ModelError:
        raise
    except Exception as error:  # the generated reader raises whatever a wrong offset leads to
        raise ModelError(
            f"is a damaged TFLite model ({type(error).__name__} while reading it)", where=where,
            fix="copy it again, and compare the sizes; or make it again",
        ) from error  # fmt: skip


def _facts(data: bytes) -> ModelFacts:
    # Generated code of 19,000 lines: loaded only where a model is read.
    from ai_edge_litert import schema_py_generated as schema

    dtypes = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if name[0].isupper()}
    model: Any = schema.ModelT.InitFromPackedBuf(data, 0)
    codes = [_operator_name(operator_code, names) for operator_code in model.operatorCodes or []]
    tensors = [[_tensor(tensor, dtypes) for tensor in graph.tensors or []] for graph in model.subgraphs]
    operators: list[Operator] = []
    for graph, known in zip(model.subgraphs, tensors, strict=True):
        for operator in graph.operators or []:
            operators.append(
                Operator(codes[operator.opcodeIndex], _pick(known, operator.inputs), _pick(known, operator.outputs))
            )
    signatures = {}
    for signature_def in model.signatureDefs or []:
        known = tensors[signature_def.subgraphIndex]
        signatures[_text(signature_def.signatureKey)] = Signature(
            {_text(end.name): known[end.tensorIndex] for end in signature_def.inputs or []},
            {_text(end.name): known[end.tensorIndex] for end in signature_def.outputs or []},
        )
    first = model.subgraphs[0]
    return ModelFacts(
        len(data), _pick(tensors[0], first.inputs), _pick(tensors[0], first.outputs),
        tuple(operators), dict(sorted(signatures.items())),
    )  # fmt: skip


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")


def _pick(known: list[Tensor], indices: Any) -> tuple[Tensor, ...]:
    return tuple(known[int(i)] for i in ([] if indices is None else indices) if int(i) >= 0)


def _operator_name(code: Any, names: dict[int, str]) -> str:
    number = max(int(code.builtinCode), int(code.deprecatedBuiltinCode))
    if names.get(number) == "CUSTOM":
        return f"CUSTOM:{_text(code.customCode)}"
    return names.get(number, f"BUILTIN_{number}")


def _tensor(tensor: Any, dtypes: dict[int, str]) -> Tensor:
    quantisation = tensor.quantization
    scales = getattr(quantisation, "scale", None)
    zeros = getattr(quantisation, "zeroPoint", None)
    return Tensor(
        _text(tensor.name),
        tuple(int(n) for n in ([] if tensor.shape is None else tensor.shape)),
        dtypes.get(int(tensor.type), f"type{tensor.type}"),
        tuple(float(scale) for scale in ([] if scales is None else scales)),
        tuple(int(zero) for zero in ([] if zeros is None else zeros)),
    )
