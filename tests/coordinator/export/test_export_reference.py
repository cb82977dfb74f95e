"""Exports of real networks: Coral's uint8 extractor on flowers, ResNet8 of MLPerf Tiny on CIFAR-10."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.export.assemble import assemble, embedding_end, quantise_head
from coordinator.export.parity import parity, run_model
from coordinator.export.quantise import DenseLayer
from protos.model.flatbuffer import float_operators
from protos.model.head_algebra import fold_standardisation, standardisation_of

Array = np.ndarray[Any, Any]
pytestmark = pytest.mark.reference_data


def ridge_head(x: Array, y: Array, classes: int, strength: float) -> DenseLayer:
    """A plain linear head by ridge regression on standardised features and one-hot labels."""
    mean, scale = standardisation_of(x)
    z = np.c_[(x - mean) * scale, np.ones(len(x))]
    solution = np.linalg.solve(z.T @ z + strength * np.eye(z.shape[1]), z.T @ (np.eye(classes)[y] * 10))
    plain = fold_standardisation({"out_kernel": solution[:-1], "out_bias": solution[-1]}, mean, scale)
    return DenseLayer(plain["out_kernel"], plain["out_bias"])


def accuracy(logits: Array, y: Array) -> float:
    return float((logits.argmax(axis=1) == y).mean())


def square(path: Path, side: int) -> Array:
    """The centre square of a photo, as the recorded embeddings were made from."""
    with Image.open(path) as image:
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        picture = image.convert("RGB").crop((left, top, left + short, top + short))
        return np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR))


def test_a_flower_head_on_the_coral_extractor_keeps_its_accuracy(reference: Path) -> None:
    backbone = (reference / "models_coral/mobilenet_v1_1.0_224_quant_embedding_extractor.tflite").read_bytes()
    with np.load(reference / "flowers_embeddings/flowers_mobilenet_v1_emb.npz") as data:
        embeddings, y, names = data["emb"], data["y"].astype(np.int64), data["names"]
    source, width = embedding_end(backbone)
    assert (source.dtype, source.zero_point, width) == ("uint8", 0, 1024)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:2670], order[2670:]
    head = ridge_head(source.real(embeddings[train]), y[train], 5, strength=300.0)
    calibration = embeddings[train[:300]]

    logits = source.real(embeddings[test]) @ head.kernel + head.bias
    (integer,) = quantise_head([head], calibration, source)
    float_accuracy, integer_accuracy = accuracy(logits, y[test]), accuracy(integer.run(embeddings[test]), y[test])
    assert float_accuracy > 0.87
    assert integer_accuracy >= float_accuracy - 0.01

    # The assembled file, from raw photos, computes those integers, and says what the recorded embeddings say.
    model = assemble(backbone, [head], calibration)
    assert float_operators(model) == ()
    row_of = {str(name): row for row, name in enumerate(names)}
    paths = sorted((reference / "flowers_embeddings/jpg").iterdir())[::5]
    photos = [square(path, 224) for path in paths]
    got, affine = run_model(model, photos)
    assert affine.dtype == "uint8"
    np.testing.assert_array_equal(got, integer.run(run_model(backbone, photos)[0]))
    recorded = embeddings[[row_of[path.name.split("_", 1)[1]] for path in paths]]
    winners = (source.real(recorded) @ head.kernel + head.bias).argmax(axis=1)
    assert (winners == got.argmax(axis=1)).mean() >= 0.9


@pytest.fixture(scope="session")
def resnet8(reference: Path) -> bytes:
    """ResNet8 up to its last Dense, int8, by the TensorFlow converter."""
    keras = pytest.importorskip("keras", reason="needs TensorFlow")
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow")
    with np.load(reference / "cifar10_subset/cifar10_jpeg.npz") as data:
        pictures = data["x_train"][::25].astype(np.float32)
    whole = keras.models.load_model(reference / "models_mlperf_tiny/pretrainedResnet.h5", compile=False)
    features = keras.Model(whole.input, whole.layers[-1].input)
    entry = keras.Input(batch_shape=(1, 32, 32, 3))
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, features(entry)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return bytes(converter.convert())


@pytest.mark.workshop
@pytest.mark.filterwarnings("ignore")  # TensorFlow and Keras warn of their own past
def test_a_refitted_resnet8_keeps_its_accuracy(reference: Path, resnet8: bytes) -> None:
    with np.load(reference / "cifar10_subset/cifar10_jpeg.npz") as data:
        x, y = data["x_train"][::2], data["y_train"][::2].astype(np.int64)
        test_x, test_y = data["x_test"], data["y_test"].astype(np.int32)

    def integers(raw: Array) -> Array:
        return (raw.astype(np.int16) - 128).astype(np.int8)

    source, width = embedding_end(resnet8)
    assert (source.dtype, width) == ("int8", 64)
    embeddings, _ = run_model(resnet8, integers(x))
    head = ridge_head(source.real(embeddings), y, 10, strength=10.0)
    model = assemble(resnet8, [head], embeddings[::5])
    assert float_operators(model) == ()
    logits = source.real(run_model(resnet8, integers(test_x))[0]) @ head.kernel + head.bias
    found = parity(model, integers(test_x), logits, test_y)
    assert found.float_correct is not None
    assert found.exported_correct is not None
    assert found.float_correct >= 0.76 * found.count
    assert found.exported_correct >= found.float_correct - 0.01 * found.count
    assert found.agreement > 0.97
