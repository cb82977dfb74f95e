"""Tiny real backbones, built without TensorFlow: one AVERAGE_POOL_2D, 4x4x4 pixels to 2x2x4 features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from protos.model.bundle import Bundle, open_bundle, record_of
from protos.model.flatbuffer import pack
from protos.model.head_algebra import head_shapes, standardisation_of
from protos.model.manifest import BackboneSpec, HeadSpec, Manifest, Preprocessing, TensorSpec

Array = np.ndarray[Any, Any]
SCALE = 0.05
WIDTH, CLASSES = 16, 3
ZERO = {"int8": -100, "uint8": 28}


def tensor(name: str, shape: tuple[int, ...], dtype: str) -> Any:
    one = schema.TensorT()
    one.name, one.shape, one.type, one.buffer = (
        name,
        np.array(shape, np.int32),
        getattr(schema.TensorType, dtype.upper()),
        0,
    )
    one.shapeSignature = np.array((-1, *shape[1:]), np.int32)
    one.quantization = schema.QuantizationParametersT()
    one.quantization.scale = np.array([SCALE], np.float32)
    one.quantization.zeroPoint = np.array([ZERO.get(dtype, 0)], np.int64)
    return one


def pooling_model(dtype: str, *, signature: bool = True) -> bytes:
    model, graph, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    code, options, empty = schema.OperatorCodeT(), schema.Pool2DOptionsT(), schema.BufferT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.AVERAGE_POOL_2D
    code.version = 1 if dtype == "uint8" else 2
    options.strideW = options.strideH = options.filterWidth = options.filterHeight = 2
    options.padding = schema.Padding.VALID
    operator.opcodeIndex, operator.builtinOptions = 0, options
    operator.builtinOptionsType = schema.BuiltinOptions.Pool2DOptions
    operator.inputs, operator.outputs = np.array([0], np.int32), np.array([1], np.int32)
    graph.tensors = [tensor("picture", (1, 4, 4, 4), dtype), tensor("features", (1, 2, 2, 4), dtype)]
    graph.inputs, graph.outputs = np.array([0], np.int32), np.array([1], np.int32)
    graph.operators = [operator]
    version, names = schema.BufferT(), schema.BufferT()
    version.data = np.frombuffer(b"1.14.0".ljust(16, b"\0"), np.uint8)
    names.data = np.frombuffer(b"labels of the old output", np.uint8)
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [empty, version, names]
    model.description, model.metadata = "pooling", []
    for name, buffer in (("min_runtime_version", 1), ("TFLITE_METADATA", 2)):
        entry = schema.MetadataT()
        entry.name, entry.buffer = name, buffer
        model.metadata.append(entry)
    if signature:
        signed = schema.SignatureDefT()
        signed.signatureKey, signed.subgraphIndex = "serving_default", 0
        signed.inputs, signed.outputs = [schema.TensorMapT()], [schema.TensorMapT()]
        signed.inputs[0].name, signed.inputs[0].tensorIndex = "image", 0
        signed.outputs[0].name, signed.outputs[0].tensorIndex = "embedding", 1
        model.signatureDefs = [signed]
    return pack(model)


@pytest.fixture(scope="session")
def pooling() -> Callable[..., bytes]:
    """`pooling(dtype, signature=True)`: the bytes of a backbone."""
    return pooling_model


def pictures(count: int, seed: int) -> tuple[Array, Array]:
    """Raw uint8 [count, 4, 4, 4] of three classes that differ in brightness by channel and quarter."""
    looks = np.random.default_rng(99).uniform(60, 120, (CLASSES, 2, 2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count).astype(np.int32)
    return np.clip(looks[y] + rng.normal(0, 22, (count, 4, 4, 4)), 0, 255).astype(np.uint8), y


@pytest.fixture(scope="session")
def labelled() -> Callable[[int, int], tuple[Array, Array]]:
    """`labelled(count, seed)`: raw pictures and labels."""
    return pictures


@pytest.fixture(params=["int8", "uint8"])
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """A bundle around the pooling backbone; its trainable head is not opened here and is a placeholder."""
    return make_bundle(tmp_path / "bundle", request.param)


def make_bundle(folder: Path, dtype: str) -> Bundle:
    folder.mkdir()
    (folder / "backbone.tflite").write_bytes(pooling_model(dtype))
    (folder / "head.tflite").write_bytes(b"not opened by an export")
    x, _ = pictures(200, 1)
    features = x.reshape(-1, 2, 2, 2, 2, 4).mean(axis=(2, 4)).reshape(-1, WIDTH) * SCALE
    mean, scale = standardisation_of(features)
    shapes = head_shapes(WIDTH, CLASSES)
    zeros = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    np.savez(folder / "initial.npz", feature_mean=mean, feature_scale=scale, **zeros)
    manifest = Manifest(
        name="pooling",
        classes=("dim", "middling", "bright"),
        preprocessing=Preprocessing(SCALE, 0.0),
        backbone=BackboneSpec(
            file="backbone.tflite",
            input_shape=(4, 4, 4),
            input_dtype=dtype,
            input_scale=float(np.float32(SCALE)),
            input_zero_point=ZERO[dtype],
            embedding_width=WIDTH,
            output_dtype=dtype,
            output_scale=float(np.float32(SCALE)),
            output_zero_point=ZERO[dtype],
        ),
        head=HeadSpec(
            file="head.tflite",
            initial_file="initial.npz",
            batch_size=8,
            hidden_units=None,
            objective="cross_entropy",
            optimiser="sgd",
            tensors=tuple(TensorSpec(name, shape) for name, shape in shapes.items()),
            inputs=(),
        ),
        files={name: record_of(folder / name) for name in ("backbone.tflite", "head.tflite", "initial.npz")},
        provenance={},
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return open_bundle(folder)
