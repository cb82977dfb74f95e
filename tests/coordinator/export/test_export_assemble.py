"""The assembled file, run by the real engine."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from coordinator.export.assemble import assemble, embedding_end, quantise_head
from coordinator.export.parity import parity, run_model
from coordinator.export.quantise import DenseLayer
from protos.errors import ModelError, ShapeError
from protos.model.engine import open_interpreter
from protos.model.flatbuffer import float_operators, operators, pack, parse

Array = np.ndarray[Any, Any]
Pooling = Callable[..., bytes]
WIDTH = 16


def layers_for(hidden: int | None, classes: int = 5, seed: int = 4) -> list[DenseLayer]:
    rng = np.random.default_rng(seed)
    if hidden is None:
        return [DenseLayer(rng.normal(0, 1, (WIDTH, classes)), rng.normal(0, 1, classes))]
    return [
        DenseLayer(rng.normal(0, 0.4, (WIDTH, hidden)), rng.normal(0, 1, hidden), relu=True),
        DenseLayer(rng.normal(0, 0.4, (hidden, classes)), rng.normal(0, 1, classes)),
    ]


def float_logits(layers: list[DenseLayer], x: Array) -> Array:
    for layer in layers:
        x = x @ layer.kernel + layer.bias
        x = np.maximum(x, 0) if layer.relu else x
    return x


def inputs(dtype: str, count: int, seed: int) -> Array:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, (count, 4, 4, 4)).astype(dtype)


CASES = [(dtype, hidden) for dtype in ("int8", "uint8") for hidden in (None, 12)]


@pytest.mark.parametrize(("dtype", "hidden"), CASES)
def test_the_file_computes_the_integer_layers_bit_for_bit_and_the_float_head_nearly(
    pooling: Pooling, dtype: str, hidden: int | None
) -> None:
    backbone, layers = pooling(dtype), layers_for(hidden)
    calibration, _ = run_model(backbone, inputs(dtype, 300, 1))
    assert calibration.shape == (300, WIDTH)
    model = assemble(backbone, layers, calibration)
    source, width = embedding_end(backbone)
    assert width == WIDTH
    q = inputs(dtype, 200, 2)
    embeddings, _ = run_model(backbone, q)
    expected = embeddings
    for layer in quantise_head(layers, calibration, source):
        expected = layer.run(expected)
    got, affine = run_model(model, q)
    np.testing.assert_array_equal(got, expected)
    logits = float_logits(layers, source.real(embeddings))
    found = parity(model, q, logits)
    assert found.count == 200
    assert found.agreement >= 0.97
    assert found.error_steps < 1.0
    assert np.abs(affine.real(got) - logits).max() < 4 * affine.scale


@pytest.mark.parametrize(("dtype", "hidden"), CASES)
def test_every_operator_is_integer_static_and_doubly_numbered(pooling: Pooling, dtype: str, hidden: int | None) -> None:
    backbone = pooling(dtype)
    calibration, _ = run_model(backbone, inputs(dtype, 50, 1))
    model = assemble(backbone, layers_for(hidden), calibration, softmax=True)
    assert float_operators(model) == ()
    counts = {entry.name: entry.count for entry in operators(model)}
    assert counts == {
        "AVERAGE_POOL_2D": 1, "RESHAPE": 1, "FULLY_CONNECTED": 1 if hidden is None else 2, "SOFTMAX": 1,
    }  # fmt: skip
    assert {kind for entry in operators(model) for kind in entry.dtypes} == {dtype, "int32"}
    parsed = parse(model)
    versions = {code.builtinCode: code.version for code in parsed.operatorCodes}
    fully_connected = schema.BuiltinOperator.FULLY_CONNECTED
    assert versions[fully_connected] == (4 if dtype == "int8" else 1)
    for code in parsed.operatorCodes:
        assert code.deprecatedBuiltinCode == code.builtinCode
    for tensor in parsed.subgraphs[0].tensors:
        assert tensor.shapeSignature is None
        assert (np.asarray(tensor.shape) > 0).all()
    start = np.frombuffer(model, np.uint8).ctypes.data
    offsets = [buffer.data.ctypes.data - start for buffer in parsed.buffers if buffer.data is not None]
    assert len(offsets) >= 4
    assert all(offset % 16 == 0 for offset in offsets)


def test_what_describes_the_file_is_true_of_it(pooling: Pooling) -> None:
    backbone = pooling("int8")
    calibration, _ = run_model(backbone, inputs("int8", 50, 1))
    parsed = parse(assemble(backbone, layers_for(None), calibration, notes={"classes": ["a", "b"]}))
    assert parsed.description == b"edgejoule"
    texts = {entry.name: parsed.buffers[entry.buffer].data.tobytes() for entry in parsed.metadata}
    assert set(texts) == {b"min_runtime_version", b"edgejoule"}
    assert texts[b"min_runtime_version"].rstrip(b"\0") == b"1.14.0"
    assert json.loads(texts[b"edgejoule"]) == {"classes": ["a", "b"]}


@pytest.mark.parametrize(("signed", "name"), [(True, "image"), (False, "picture")])
def test_the_signature_runs(pooling: Pooling, signed: bool, name: str) -> None:
    backbone = pooling("int8", signature=signed)
    q = inputs("int8", 50, 1)
    calibration, _ = run_model(backbone, q)
    model = assemble(backbone, layers_for(None), calibration)
    runner = open_interpreter(model).get_signature_runner("serving_default")
    logits, _ = run_model(model, q[:1])
    np.testing.assert_array_equal(runner(**{name: q[:1]})["logits"], logits)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_probabilities_are_the_softmax_of_the_logits(pooling: Pooling, dtype: str) -> None:
    backbone, q = pooling(dtype), inputs(dtype, 40, 1)
    calibration, _ = run_model(backbone, q)
    logits, affine = run_model(assemble(backbone, layers_for(None), calibration), q)
    shares, fixed = run_model(assemble(backbone, layers_for(None), calibration, softmax=True), q)
    assert (fixed.scale, fixed.zero_point) == (1 / 256, np.iinfo(dtype).min)
    power = np.exp(affine.real(logits))
    np.testing.assert_allclose(fixed.real(shares), power / power.sum(axis=1, keepdims=True), atol=1.5 / 256)


def test_an_exported_file_can_be_written_and_parsed_again(pooling: Pooling) -> None:
    backbone, q = pooling("int8"), inputs("int8", 20, 1)
    calibration, _ = run_model(backbone, q)
    model = assemble(backbone, layers_for(12), calibration)
    again = pack(parse(model))
    assert operators(again) == operators(model)
    np.testing.assert_array_equal(run_model(again, q)[0], run_model(model, q)[0])


def test_a_float_or_mixed_backbone_is_refused(pooling: Pooling) -> None:
    calibration = np.zeros((4, WIDTH), np.int8)
    model = parse(pooling("int8"))
    for tensor in model.subgraphs[0].tensors:
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
    with pytest.raises(ModelError, match="not quantised to 8 bits"):
        assemble(pack(model), layers_for(None), calibration)
    model = parse(pooling("int8"))
    model.subgraphs[0].tensors[1].type = schema.TensorType.UINT8
    with pytest.raises(ModelError, match="takes int8 and gives uint8"):
        assemble(pack(model), layers_for(None), calibration)


def test_embeddings_of_another_backbone_are_refused(pooling: Pooling) -> None:
    for calibration in (np.zeros((4, 9), np.int8), np.zeros((4, WIDTH), np.uint8), np.zeros(WIDTH, np.int8)):
        with pytest.raises(ShapeError, match="backbone gives"):
            assemble(pooling("int8"), layers_for(None), calibration)
    with pytest.raises(ShapeError, match="fit together"):
        assemble(pooling("int8"), layers_for(None), np.zeros((0, WIDTH), np.int8))


def test_a_damaged_backbone_is_refused_and_never_a_traceback(pooling: Pooling) -> None:
    good = pooling("int8")
    calibration = np.zeros((4, WIDTH), np.int8)
    with pytest.raises(ModelError, match=r"no \.tflite file"):
        assemble(b"PK\x03\x04 a zip file", layers_for(None), calibration)
    for length in range(8, len(good) - 60, 13):
        with pytest.raises(ModelError):
            assemble(good[:length], layers_for(None), calibration)


OLD_RUNTIME = """
import sys
import numpy as np
from tflite_runtime.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1])
interpreter.allocate_tensors()
given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
out = []
for example in np.load(sys.argv[2]):
    interpreter.set_tensor(given["index"], example[None])
    interpreter.invoke()
    out.append(interpreter.get_tensor(got["index"])[0].copy())
np.save(sys.argv[3], np.array(out))
"""


def old_runtime() -> str:
    """A Python that can import tflite_runtime (it needs numpy < 2, so mostly an environment of its own)."""
    if importlib.util.find_spec("tflite_runtime"):
        return sys.executable
    python = os.environ.get("EDGEJOULE_TFLITE_RUNTIME_PYTHON")
    if not python:
        pytest.skip("tflite-runtime is not installed here, and EDGEJOULE_TFLITE_RUNTIME_PYTHON names no other Python")
    return python


@pytest.mark.parametrize(("dtype", "hidden"), CASES)
def test_the_last_tflite_runtime_computes_the_same_head(
    pooling: Pooling, tmp_path: Path, dtype: str, hidden: int | None
) -> None:
    python = old_runtime()
    backbone, q = pooling(dtype), inputs(dtype, 100, 2)
    calibration, _ = run_model(backbone, inputs(dtype, 100, 1))
    model = assemble(backbone, layers_for(hidden), calibration)
    (tmp_path / "model.tflite").write_bytes(model)
    np.save(tmp_path / "q.npy", q)
    subprocess.run(
        [python, "-c", OLD_RUNTIME, *(str(tmp_path / name) for name in ("model.tflite", "q.npy", "out.npy"))],
        check=True,
        capture_output=True,
    )
    expected, _ = run_model(model, q)
    difference = np.abs(np.load(tmp_path / "out.npy").astype(int) - expected)
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.1
