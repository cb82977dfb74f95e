"""Keras applications at their own sizes: what `convert` makes of them, beside plain TFLite conversion.

Weights are random (nothing is downloaded), with statistics of BatchNormalization from a few passes, so that only the
cosine of float and int8 embeddings and the operators say something. Plain is `TFLiteConverter.from_keras_model` with a
representative data set and int8 asked for, its float operators allowed: what most tutorials do.

    .venv/bin/python benchmarks/foreign_models/applications.py ResNet50 DenseNet121 --json applications.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from firmware_tools.inspect.model import read_bytes
from protos.model.head_algebra import Array

NAMES = ("ResNet50", "DenseNet121", "NASNetMobile", "ConvNeXtTiny")
SIZE = 224


def made(name: str, size: int, x: Array) -> Any:
    """The application with random weights up to its pooling, and its own preprocessing in front."""
    import keras

    keras.utils.set_random_seed(0)
    module = {
        "ResNet50": keras.applications.resnet, "DenseNet121": keras.applications.densenet,
        "NASNetMobile": keras.applications.nasnet, "ConvNeXtTiny": keras.applications.convnext,
    }[name]  # fmt: skip
    base = getattr(keras.applications, name)(input_shape=(size, size, 3), include_top=False, weights=None)
    for layer in base._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(4):
        base(module.preprocess_input(x[:8].copy()), training=True)
    start = keras.Input((size, size, 3))
    value = keras.layers.GlobalAveragePooling2D(name="pool")(base(module.preprocess_input(start), training=False))
    return keras.Model(start, keras.layers.Dense(4)(value))


def plain(model: Any, x: Array, judged: Array) -> tuple[Array, str]:
    """Embeddings by plain conversion, [N, D], and its operators; or none, and what the converter said."""
    import keras
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(model.inputs[0], model.get_layer("pool").output))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([one[None]] for one in x)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    content = bytes(converter.convert())
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    found = []
    for one in judged:
        codes = np.clip(np.rint(one / taken["quantization"][0]) + taken["quantization"][1], -128, 127)
        interpreter.set_tensor(taken["index"], codes[None].astype(np.int8))
        interpreter.invoke()
        scale, zero = given["quantization"]
        found.append((interpreter.get_tensor(given["index"]).reshape(-1).astype(np.float32) - zero) * scale)
    return np.array(found, np.float32), _operators(content)


def ours(model: Any, x: Array, judged: Array, wide: bool) -> tuple[Array, Array, str]:
    """Float embeddings, those of the backbone that `convert` makes, and its operators."""
    from firmware_tools.convert.quality.improve import QualityChoices
    from firmware_tools.convert.ranges import best_backbone, real_values
    from firmware_tools.convert.sources.keras_source import open_keras
    from protos.model.manifest import Preprocessing

    with tempfile.TemporaryDirectory(prefix="edgejoule-application-") as folder:
        model.save(f"{folder}/model.keras")
        source = open_keras(Path(folder) / "model.keras", cut="pool", input_shape=None)
        rule = Preprocessing(1.0, 0.0)
        backbone, _, _, _ = best_backbone(
            source, x, rule, Path(folder) / "b.tflite", where="model.keras", progress=lambda line: None,
            choices=QualityChoices(wide=wide),
        )  # fmt: skip
        original = source.embed_all(judged, lambda raw: real_values(raw, rule), batch=4)
        return (
            original,
            backbone.dequantise(backbone.embed(judged)),
            _operators((Path(folder) / "b.tflite").read_bytes()),
        )


def _operators(content: bytes) -> str:
    facts = read_bytes(content, where="model")
    floats = Counter(operator.name for operator in facts.operators if operator.is_float)
    shown = ", ".join(f"{count} {name}" for name, count in facts.operator_counts().items())
    return shown + (f"; FLOAT: {', '.join(f'{count} {name}' for name, count in floats.items())}" if floats else "")


def _cosine(one: Array, other: Array) -> float:
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).mean())


def row(name: str, size: int, count: int, wide: bool) -> dict[str, Any]:
    """One application: cosines and operators, ours and plain."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (count + 8, size // 16 + 1, size // 16 + 1, 3)).astype(np.float32)
    x = np.repeat(np.repeat(rough, 16, axis=1), 16, axis=2)[:, :size, :size]  # pictures of patches, 0 to 255
    model = made(name, size, x)
    original, own, operators = ours(model, x[:count], x[count:], wide)
    try:
        other, theirs = plain(model, x[:count], x[count:])
        cosine: float | None = _cosine(original, other)
    except Exception as error:  # what the converter raises is the row
        cosine, theirs = None, f"refused: {' '.join(str(error).split())[:160]}"
    return {"name": name, "size": size, "cosine": _cosine(original, own), "operators": operators,
            "plain_cosine": cosine, "plain_operators": theirs, "int16": wide}  # fmt: skip


def main() -> int:
    """Convert what is named and print a table; each row is written as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], default=list(NAMES), metavar="NAME")
    parser.add_argument("--size", type=int, default=SIZE, help="of the pictures (default: 224, their own)")
    parser.add_argument("--examples", type=int, default=24, metavar="N", help="for the ranges (default: 24)")
    parser.add_argument("--int16", action="store_true", help="activations of 16 bits")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    rows = []
    print("| application | cosine | int8 operators | plain: cosine | plain: operators |\n|---|---|---|---|---|")
    for name in options.names or NAMES:
        one = row(name, options.size, options.examples, options.int16)
        rows.append(one)
        other = "" if one["plain_cosine"] is None else f"{one['plain_cosine']:.4f}"
        print(f"| {name} | {one['cosine']:.4f} | {one['operators']} | {other} | {one['plain_operators']} |", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
