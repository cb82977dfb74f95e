"""A backbone of one fully connected layer, its Edge TPU twin, and the stand-in for libedgetpu that computes the twin.

Weights are even and biases odd, so the sum before the last shift is odd and never halfway between two answers: a kernel
that rounds once gives the same bits, whatever it does with halves. The kernels of tflite-runtime 2.14 round twice, and
are off by one in a few answers of a thousand.
"""

from __future__ import annotations

import dataclasses
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema

from protos.model.bundle import record_of
from protos.model.flatbuffer import pack
from protos.model.head_algebra import head_shapes
from protos.model.manifest import MANIFEST_FILE, BackboneSpec, HeadSpec, Manifest, Preprocessing, TensorSpec

SOURCE = Path(__file__).with_name("edge_tpu_standin.c")
_MAGIC = 0x55505445
_INPUT_SCALE, _WEIGHT_SCALE, _SHIFT = 1 / 128, 1 / 64, 9
_OUTPUT_SCALE = _INPUT_SCALE * _WEIGHT_SCALE * 2**_SHIFT
_ZERO_IN, _ZERO_OUT = -3, 5


def build_library(folder: Path, *defines: str) -> Path:
    """Compile the stand-in with what is to be wrong with it; skips without a C compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc to build the stand-in for libedgetpu (package gcc)")
    name = "-".join(["libstandin", *defines]).replace("=", "")
    library = folder / f"{name}.so"
    if not library.exists():
        flags = [f"-D{text}" for text in defines]
        command = ["gcc", "-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-O1", "-shared",
                   "-fPIC", *flags, "-o", str(library), str(SOURCE)]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return library


@dataclasses.dataclass(frozen=True)
class Layer:
    """One fully connected layer, int8 [width] to int8 [units]."""

    shape: tuple[int, ...]
    weights: npt.NDArray[np.int8]
    biases: npt.NDArray[np.int32]

    @staticmethod
    def drawn(shape: tuple[int, ...], units: int, seed: int = 0) -> Layer:
        """Random weights, all even, and biases, all odd."""
        random = np.random.default_rng(seed)
        weights = (random.integers(-60, 61, (units, int(np.prod(shape)))) * 2).astype(np.int8)
        return Layer(shape, weights, (random.integers(-500, 501, units) * 2 + 1).astype(np.int32))

    def answer(self, x: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """What both forms must give for int8 [N, width], by numpy."""
        sums = (x.reshape(len(x), -1).astype(np.int64) - _ZERO_IN) @ self.weights.T.astype(np.int64) + self.biases
        answer: npt.NDArray[np.int8] = np.clip(np.rint(sums / 2**_SHIFT) + _ZERO_OUT, -128, 127).astype(np.int8)
        return answer

    def cpu_model(self) -> bytes:
        """The .tflite file with the builtin operator."""
        file = _File(self)
        kernel = file.constant("kernel", self.weights, _WEIGHT_SCALE)
        bias = file.constant("bias", self.biases, _INPUT_SCALE * _WEIGHT_SCALE)
        return file.bytes(schema.BuiltinOperator.FULLY_CONNECTED, [0, kernel, bias], None)

    def twin(self, *, input_scale: float = _INPUT_SCALE) -> bytes:
        """The .tflite file with the same layer as one operator for the Edge TPU; another scale makes it no twin."""
        units, width = self.weights.shape
        header = struct.pack("<6i", _MAGIC, width, units, _SHIFT, _ZERO_IN, _ZERO_OUT)
        program = header + self.weights.tobytes() + self.biases.astype("<i4").tobytes()
        file = _File(self)
        file.graph.tensors[0].quantization.scale = [input_scale]
        return file.bytes(schema.BuiltinOperator.CUSTOM, [0], program)


class _File:
    """A model in the making; tensor 0 is its input, tensor 1 its output."""

    def __init__(self, layer: Layer) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers, self.model.subgraphs = 3, [schema.BufferT()], [self.graph]
        self.graph.tensors = []
        self._tensor("input", (1, *layer.shape), schema.TensorType.INT8, _INPUT_SCALE, _ZERO_IN)
        self._tensor("output", (1, len(layer.biases)), schema.TensorType.INT8, _OUTPUT_SCALE, _ZERO_OUT)

    def _tensor(self, name: str, shape: tuple[int, ...], kind: int, scale: float, zero_point: int) -> schema.TensorT:
        one = schema.TensorT()
        one.name, one.shape, one.type = name, list(shape), kind
        one.quantization = schema.QuantizationParametersT()
        one.quantization.scale, one.quantization.zeroPoint = [scale], [zero_point]
        self.graph.tensors.append(one)
        return one

    def constant(self, name: str, values: npt.NDArray[np.int8] | npt.NDArray[np.int32], scale: float) -> int:
        """Add a constant; its number."""
        kind = schema.TensorType.INT8 if values.dtype == np.int8 else schema.TensorType.INT32
        one, buffer = self._tensor(name, values.shape, kind, scale, 0), schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        one.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        return len(self.graph.tensors) - 1

    def bytes(self, kind: int, inputs: list[int], program: bytes | None) -> bytes:
        """The file, with one operator from the inputs to tensor 1."""
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
        operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [1]
        if program is None:
            operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            operator.builtinOptions = schema.FullyConnectedOptionsT()
        else:
            code.customCode = "edgetpu-custom-op"
            operator.customOptions = np.frombuffer(program, np.uint8)
        self.model.operatorCodes, self.graph.operators = [code], [operator]
        self.graph.inputs, self.graph.outputs = [0], [1]
        return pack(self.model)


def spec_of(layer: Layer, file: str = "backbone.tflite") -> BackboneSpec:
    """What a manifest says of the layer."""
    return BackboneSpec(
        file, layer.shape, "int8", _INPUT_SCALE, _ZERO_IN, len(layer.biases), "int8", _OUTPUT_SCALE, _ZERO_OUT
    )


def with_layer(source: Path, folder: Path, layer: Layer, *, twin: bytes | None = None) -> Path:
    """A copy of a bundle with this layer as its backbone, and with a twin of it when one is given."""
    shutil.copytree(source, folder)
    manifest = Manifest.from_json((folder / MANIFEST_FILE).read_bytes())
    return _write(folder, manifest, layer, twin)


def bare_bundle(folder: Path, layer: Layer, *, twin: bytes | None = None) -> Path:
    """A bundle made without the workshop: its head loads, and does not train."""
    folder.mkdir(parents=True)
    width, classes = len(layer.biases), ("a", "b", "c")
    shapes = head_shapes(width, len(classes), None)
    values = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    np.savez(folder / "initial.npz", **values, feature_mean=np.zeros(width, "f4"), feature_scale=np.ones(width, "f4"))
    (folder / "head.tflite").write_bytes(layer.cpu_model())
    (folder / "backbone.tflite").write_bytes(layer.cpu_model())
    tensors = tuple(TensorSpec(name, shape) for name, shape in sorted(shapes.items()))
    head = HeadSpec("head.tflite", "initial.npz", 8, None, "softmax", "sgd", tensors, ())
    files = {path.name: record_of(path) for path in folder.iterdir()}
    manifest = Manifest("bare", classes, Preprocessing(1 / 255, 0.0), spec_of(layer), head, files, {})
    return _write(folder, manifest, layer, twin)


def _write(folder: Path, manifest: Manifest, layer: Layer, twin: bytes | None) -> Path:
    spec = spec_of(layer, manifest.backbone.file)
    (folder / spec.file).write_bytes(layer.cpu_model())
    files = {**manifest.files, spec.file: record_of(folder / spec.file)}
    manifest = dataclasses.replace(manifest, backbone=spec, files=files)
    if twin is not None:
        (folder / "twin.tflite").write_bytes(twin)
        manifest = manifest.with_twin("twin.tflite", record_of(folder / "twin.tflite"), "16.0.384591198")
    (folder / MANIFEST_FILE).write_text(manifest.to_json())
    return folder
