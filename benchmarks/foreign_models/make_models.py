"""Makes further models of the kinds of the handed cases, small ones, and their data, in a folder. Seeded.

    .venv/bin/python benchmarks/foreign_models/make_models.py FOLDER

Part of `benchmarks/any_model.py`. Beside models that converters trip over: what people give in a model's place.
"""

from __future__ import annotations

import argparse
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L  # noqa: N812

N, TRAINED = 320, 220
keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
y = rng.integers(0, 4, N).astype(np.int32)
held_out = np.arange(N) >= TRAINED
image = rng.integers(0, 120, (N, 12, 12, 3)).astype(np.uint8)
for at, k in enumerate(y):  # the class is a bright corner
    image[at, 6 * (k // 2) : 6 * (k // 2) + 6, 6 * (k % 2) : 6 * (k % 2) + 6] += 110
raw, unit = image.astype(np.float32), image.astype(np.float32) / 255
t = np.linspace(0, 2 * np.pi, 8)
phase = rng.uniform(0, 6.28, N)
wave = np.stack([np.sin(np.outer(y + 1, t) + phase[:, None]), np.cos(np.outer(y + 1, t) + phase[:, None])], -1)
wave = (wave + rng.normal(0, 0.1, wave.shape)).astype(np.float32)
table = rng.normal(0, 1, (N, 5)).astype(np.float32)
table[np.arange(N), y] += 4
table[:, 4] = 7.0  # a sensor that is not connected


def put(name: str, x: Any, labels: Any = y, rows: Any = slice(None)) -> None:
    np.savez(f"{name}.npz", x=x[rows], y=labels[rows], is_test=held_out[rows])


def save(name: str, start: Any, end: Any, x: Any, labels: Any = y, **how: Any) -> Any:
    """Train a model a little and save it."""
    model = keras.Model(start, end)
    model.compile(keras.optimizers.Adam(0.01), how.pop("loss", "sparse_categorical_crossentropy"))
    model.fit(x[:TRAINED], labels[:TRAINED], epochs=how.pop("epochs", 8), batch_size=20, verbose=0)
    model.save(f"{name}.keras")
    return model


def head(value: Any, units: int = 4) -> Any:
    return L.Dense(units, activation="softmax", name="scores")(value)


def conv(value: Any, activation: Any = "relu") -> Any:
    return L.Conv2D(8, 3, strides=2, activation=activation)(value)


def vector(value: Any) -> Any:
    return L.Flatten()(L.Conv2D(8, 3, activation="relu")(value))


def pictures() -> Iterator[tuple[str, Any]]:
    """Names and functions from an image of 0..1 to an embedding."""
    yield "groupnorm", lambda v: L.Flatten()(L.ReLU()(L.GroupNormalization(4)(conv(v, None))))
    yield "separable", lambda v: vector(L.SeparableConv2D(8, 3, depth_multiplier=2, strides=2)(v))
    yield "grouped", lambda v: L.Flatten()(L.Conv2D(8, 3, groups=2, activation="relu")(conv(v)))
    yield "prelu", lambda v: vector(L.LeakyReLU(0.3)(L.PReLU(shared_axes=[1, 2])(conv(v, None))))
    yield "upsample", lambda v: vector(L.Conv2DTranspose(4, 3, strides=2)(L.UpSampling2D(2)(L.AveragePooling2D(4)(v))))
    yield "ln_embedding", lambda v: L.LayerNormalization()(vector(conv(v)))
    yield "unit_norm", lambda v: L.UnitNormalization()(vector(conv(v)))
    yield "two_linear", lambda v: L.Dense(6)(vector(conv(v)))
    yield "resize_crop", lambda v: vector(conv(L.CenterCrop(10, 10)(L.Resizing(14, 14)(v))))
    yield "permute", lambda v: vector(conv(L.Permute((2, 3, 1))(L.Permute((3, 1, 2))(v))))
    yield "clip_root", lambda v: keras.ops.sqrt(vector(conv(keras.ops.clip(v * 2.0 - 1.0, -1.0, 1.0))) + 1e-3)
    yield "global_max", lambda v: L.GlobalMaxPooling2D()(L.Conv2D(16, 3, activation="relu6")(conv(v)))
    yield "conv3d", lambda v: L.Flatten()(L.Conv3D(4, 3, activation="relu")(L.Reshape((12, 12, 3, 1))(v)))


def front(value: Any) -> Any:
    """Layers that do something in training alone, then the scaling."""
    value = L.RandomRotation(0.01)(L.RandomFlip("horizontal")(value))
    return L.Rescaling(1 / 255)(L.GaussianNoise(0.1)(L.Dropout(0.1)(value)))


def encoder_decoder(value: Any) -> Any:
    """The state of one recurrent layer as the start of another."""
    _, *state = L.LSTM(6, return_state=True)(value)
    return L.LSTM(6)(L.RepeatVector(3)(state[0]), initial_state=state)


def gated(value: Any) -> Any:
    """A mixture of two heads."""
    gate = L.Dense(2, activation="softmax")(value)
    return L.Add()([head_of(value, "one") * gate[:, :1], head_of(value, "other") * gate[:, 1:]])


def head_of(value: Any, name: str) -> Any:
    return L.Dense(4, activation="softmax", name=name)(value)


def colours(value: Any) -> Any:
    """Changes of colours in training, which draw numbers also when the model is used."""
    value = L.RandomGrayscale(0.1)(L.RandomHue(0.1, value_range=(0, 255))(value))
    return L.Rescaling(1 / 255)(L.RandomContrast(0.1, value_range=(0, 255))(value))


def models() -> None:
    """Keras models."""
    for name, embedding in pictures():
        start = keras.Input((12, 12, 3))
        save(name, start, head(embedding(start)), unit, epochs=15 if name in ("unit_norm", "global_max") else 8)
    for name, before in (
        ("nested_pm1", L.Rescaling(1 / 127.5, offset=-1)),
        ("random_front", front),
        ("random_colours", colours),
        ("two_scales", lambda v: L.Add()([v / 255.0, L.Rescaling(1 / 127.5, -1)(v)])),
        ("caffe_front", keras.applications.resnet50.preprocess_input),
        ("bn_front", L.BatchNormalization()),
    ):
        start, inside = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
        inner = keras.Model(inside, vector(conv(inside)), name="inner")
        save(name, start, head(inner(before(start))), raw, epochs=12)
    for name, last in (
        ("recurrent_both", lambda v: L.LSTM(6, go_backwards=True)(L.Bidirectional(L.GRU(6, return_sequences=True))(v))),
        ("recurrent_sum", L.Bidirectional(L.LSTM(6), merge_mode="sum")),
        ("cells", L.RNN([L.LSTMCell(6), L.GRUCell(6)])),
        ("convlstm", lambda v: L.Flatten()(L.ConvLSTM1D(4, 2)(L.Reshape((8, 2, 1))(v)))),
        ("masked", lambda v: L.LSTM(6)(L.Masking(0.0)(v))),
        ("rnn_dropout", L.LSTM(6, dropout=0.2, recurrent_dropout=0.2)),
        ("encoder_decoder", encoder_decoder),
    ):
        start = keras.Input((8, 2))
        save(name, start, head(last(start)), wave, epochs=15)
    start = keras.Input(batch_shape=(20, 8, 2))
    save("stateful", start, head(L.LSTM(6, stateful=True)(start)), wave, epochs=12)
    start = keras.Input((None, 2))
    value = L.GlobalAveragePooling1D()(L.Conv1D(8, 3, activation="relu")(start))
    save("open_length", start, head(value), wave, epochs=20)
    scale = L.Normalization()
    scale.adapt(table[:TRAINED])
    start = keras.Input((5,))
    save("constant_column", start, head(L.Dense(16, activation="relu")(scale(start))), table, epochs=15)
    start = keras.Input((12, 12, 3))
    half = (y // 2).astype(np.float32)
    save("sigmoid_one", start, L.Dense(1, activation="sigmoid")(vector(conv(start))), unit, half,
         loss="binary_crossentropy")  # fmt: skip
    start = keras.Input((12, 12, 3))
    save("logit_one", start, L.Dense(1)(vector(conv(start))), unit, half,
         loss=keras.losses.BinaryCrossentropy(from_logits=True))  # fmt: skip
    start = keras.Input((12, 12, 3))
    save("five_outputs", start, head(vector(conv(start)), 5), unit)
    start = keras.Input((12, 12, 3), dtype="float64")
    value = L.Flatten(dtype="float64")(L.Conv2D(8, 3, strides=2, activation="relu", dtype="float64")(start))
    save("float64", start, L.Dense(4, activation="softmax", dtype="float64")(value), unit.astype(np.float64))
    start = keras.Input((12, 12, 3))
    odd = keras.Model(start, head(L.Flatten()(L.BatchNormalization(name="odd_one")(conv(start, None)))))
    odd.get_layer("odd_one").moving_variance.assign(np.full(8, -1.0))
    odd.save("odd_variance.keras")
    start = keras.Input((12, 12, 3))
    keras.Model(start, head(L.Flatten()(keras.ops.sqrt(conv(start, None) - 50.0)))).save("root.keras")
    keras.Model(start, head(L.Flatten()(L.ReLU()(conv(start, None) - 1000.0)))).save("died.keras")
    save("goes_on", start, head(L.Dropout(0.2)(vector(conv(start)), training=True)), unit)
    save("gated", start, gated(vector(conv(start))), unit)


def files(good: Any) -> None:
    """What people give in a model's place."""
    good.save_weights("good.weights.h5")
    good.export("good_saved", verbose=False)
    shutil.make_archive("zipped", "zip", "good_saved")
    shutil.copy("zipped.zip", "zipped.keras")
    shutil.copytree("good_saved", "above/model", dirs_exist_ok=True)
    Path("page.keras").write_text("<!doctype html><html>404</html>")
    Path("pointer.keras").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 12\n")
    Path("good.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    Path("short.keras").write_bytes(Path("good.keras").read_bytes()[:-700])
    with zipfile.ZipFile("good.keras") as archive:
        archive.extractall("unpacked.keras")
    Path("own_link.keras").unlink(missing_ok=True)
    os.symlink("own_link.keras", "own_link.keras")


def lite(good: Any) -> None:
    """The same model as .tflite files of many kinds."""

    def made(
        name: str, ops: str | None = None, ends: Any = tf.float32, types: tuple[Any, ...] = (), **how: Any
    ) -> None:
        converter = tf.lite.TFLiteConverter.from_keras_model(good)
        converter.optimizations = [] if name == "float32" else [tf.lite.Optimize.DEFAULT]
        if ops is not None:
            converter.representative_dataset = lambda: ([unit[k : k + 1]] for k in range(60))
            converter.target_spec.supported_ops = [getattr(tf.lite.OpsSet, ops)]
        converter.target_spec.supported_types = list(types)
        converter.inference_input_type = converter.inference_output_type = ends
        for option, value in how.items():
            setattr(converter, option, value)
        Path(f"{name}.tflite").write_bytes(converter.convert())

    made("float32")
    made("float16", types=(tf.float16,))
    made("dynamic_range")
    made("int8", "TFLITE_BUILTINS_INT8", tf.int8)
    made("uint8", "TFLITE_BUILTINS_INT8", tf.uint8)
    made("per_tensor", "TFLITE_BUILTINS_INT8", tf.int8, _experimental_disable_per_channel=True)
    made("int16x8", "EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8", tf.int16)
    Path("cut_short.tflite").write_bytes(Path("int8.tflite").read_bytes()[:3000])


class Signatures(tf.Module):  # type: ignore[misc]
    """Signatures as servers have them."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32), tf.TensorSpec([], tf.bool)])  # type: ignore[untyped-decorator]
    def flagged(self, x: Any, flag: Any) -> Any:
        return self.model(x)

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float64)])  # type: ignore[untyped-decorator]
    def wide(self, x: Any) -> Any:
        return self.model(tf.cast(x, tf.float32))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])  # type: ignore[untyped-decorator]
    def encoded(self, x: Any) -> Any:
        def decoded(one: Any) -> Any:
            return tf.image.resize(tf.io.decode_png(one, 3), [12, 12]) / 255

        return self.model(tf.map_fn(decoded, x, fn_output_signature=tf.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], tf.float32)])  # type: ignore[untyped-decorator]
    def two(self, x: Any) -> Any:
        scores = self.model(x)
        return {"scores": scores, "winner": tf.argmax(scores, 1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3, 12, 12], tf.float32)])  # type: ignore[untyped-decorator]
    def channels_first(self, x: Any) -> Any:
        return self.model(tf.transpose(x, [0, 2, 3, 1]))


def main() -> None:
    """Make all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="made where it is not there")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    put("image", image)
    put("binary", image, (y // 2).astype(np.int32))
    put("three", image, rows=y < 3)
    put("wave", wave)
    put("table", table)
    put("first", np.transpose(image, (0, 3, 1, 2)))
    start = keras.Input((12, 12, 3))
    good = save("good", start, head(vector(conv(start))), unit)
    files(good)
    lite(good)
    served = Signatures(good)
    for name in ("flagged", "wide", "encoded", "two", "channels_first"):
        tf.saved_model.save(served, f"served_{name}", signatures={"serving_default": getattr(served, name)})
    models()


if __name__ == "__main__":
    main()
