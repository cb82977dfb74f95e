"""Small .tflite files built operator by operator, a stand-in for the compiler, and the command as users call it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from command_outcome import Outcome, call
from reference_data import part_of

from firmware_tools.compile.graph import COMPILED_OPERATOR
from protos.model.flatbuffer import pack

# Prints the log in $STANDIN_LOG and copies $STANDIN_TWIN to where edgetpu_compiler would write its twin.
_STAND_IN = """\
#!{python}
import os, pathlib, shutil, sys
assert sys.argv[1:3] == ["-s", "-o"] and len(sys.argv) == 5, sys.argv
folder, model = map(pathlib.Path, sys.argv[3:])
if "STANDIN_TWIN" in os.environ:
    shutil.copy(os.environ["STANDIN_TWIN"], folder / (model.stem + "_edgetpu.tflite"))
print(pathlib.Path(os.environ["STANDIN_LOG"]).read_text())
sys.exit(int(os.environ.get("STANDIN_CODE", "0")))
"""
_TYPES = {"int8": np.int8, "uint8": np.uint8, "int16": np.int16, "int32": np.int32, "float32": np.float32}


class Sketch:
    """A .tflite file in the making; tensors are named by their numbers."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        shape: Sequence[int],
        dtype: str = "int8",
        *,
        data: Any = None,
        scale: float | None = 0.5,
        zero_point: int = 0,
        signature: Sequence[int] | None = None,
    ) -> int:
        """Add a tensor; with `data` it is a constant."""
        one = schema.TensorT()
        one.name = f"t{len(self.graph.tensors)}"
        one.shape = list(shape)
        one.shapeSignature = None if signature is None else list(signature)
        one.type = getattr(schema.TensorType, dtype.upper())
        if scale is not None and dtype in ("int8", "uint8"):
            one.quantization = schema.QuantizationParametersT()
            one.quantization.scale, one.quantization.zeroPoint = [scale], [zero_point]
        if data is not None:
            buffer = schema.BufferT()
            values = np.broadcast_to(np.asarray(data, _TYPES[dtype]), tuple(shape))
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            one.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(one)
        return len(self.graph.tensors) - 1

    def node(
        self, name: str, inputs: Sequence[int], outputs: Sequence[int], *, version: int = 1, options: Any = None
    ) -> None:
        """Add an operator, named as in the builtin table or "custom:NAME"."""
        code = schema.OperatorCodeT()
        if name.startswith("custom:"):
            code.builtinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = name.removeprefix("custom:")
        else:
            code.builtinCode = getattr(schema.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.graph.operators.append(operator)

    def file(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The bytes of the model with these ends."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        return pack(self.model)


@pytest.fixture
def sketch() -> Callable[[], Sketch]:
    """Makes an empty sketch."""
    return Sketch


def options(name: str, **values: Any) -> Any:
    """Options of an operator, such as ``options("Pool2D", fusedActivationFunction=1)``."""
    made = getattr(schema, f"{name}OptionsT")()
    for key, value in values.items():
        assert hasattr(made, key)
        setattr(made, key, value)
    return made


@pytest.fixture(name="options")
def options_fixture() -> Callable[..., Any]:
    """Makes options of an operator."""
    return options


@pytest.fixture
def small_model() -> bytes:
    """int8 [1, 4, 4, 8]: a 1x1 convolution, the mean over x and y, and an operator that the Edge TPU lacks."""
    one = Sketch()
    image, kernel = one.tensor((1, 4, 4, 8)), one.tensor((8, 1, 1, 8), data=3)
    bias, features = one.tensor((8,), "int32", data=0), one.tensor((1, 4, 4, 8))
    axes, mean, result = one.tensor((2,), "int32", data=[1, 2]), one.tensor((1, 8)), one.tensor((1, 8), scale=0.25)
    one.node("CONV_2D", [image, kernel, bias], [features], options=options("Conv2D", strideW=1, strideH=1))
    one.node("MEAN", [features, axes], [mean], options=options("Reducer"))
    one.node("HARD_SWISH", [mean], [result])
    return one.file([image], [result])


@pytest.fixture
def small_twin() -> Callable[..., bytes]:
    """A compiled form of `small_model`: one Edge TPU operator, then the one that is left; its ends can be changed."""

    def make(*, dtype: str = "int8", scale: float = 0.25, zero_point: int = 0, operator: str | None = None) -> bytes:
        one = Sketch()
        image, mean = one.tensor((1, 4, 4, 8)), one.tensor((1, 8))
        result = one.tensor((1, 8), dtype, scale=scale, zero_point=zero_point)
        one.node(operator or COMPILED_OPERATOR, [image], [mean])
        one.node("HARD_SWISH", [mean], [result])
        return one.file([image], [result])

    return make


@pytest.fixture
def compile_command(tmp_path: Path) -> Callable[..., Outcome]:
    """Runs `firmware-tools compile` in an empty folder, with nothing on PATH but what is asked for."""

    def compile_it(*arguments: str | Path, path: Path | None = None, **variables: str) -> Outcome:
        folder = tmp_path / "here"
        folder.mkdir(exist_ok=True)
        root = str(Path(__file__).parents[3])
        return call("compile", *arguments, cwd=folder, PATH=str(path or folder), PYTHONPATH=root, **variables)

    return compile_it


@pytest.fixture
def compiler_folder(tmp_path: Path) -> Path:
    """A folder with a program of the compiler's name, which says and writes what its environment tells it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "edgetpu_compiler"
    program.write_text(_STAND_IN.format(python=sys.executable))
    program.chmod(0o755)
    return folder


@pytest.fixture
def coral_models(reference: Path) -> Path:
    """Folder of published models with their Edge TPU twins."""
    return part_of(reference, "models_coral")
