"""Accuracy by working memory: head, biases, a few 1 x 1 kernels, and the last k layers whole; and what a step takes.

A small net of depthwise-separable layers learns Fashion-MNIST in TensorFlow. Then its classes are forgotten, and so
many examples of MNIST are learned behind its frozen int8 trunk, by the compiled step that devices run. Each method gets
the same steps; its rate is chosen by the validation part of a seed of its own, and other seeds judge it.

Memory of the compiled steps is that of their files, by life times of tensors. Of the last k layers whole, what is told
is the least that any implementation needs that takes its batch at once (the input of each layer whose kernel trains, in
float32, the fullest layer beside it, and nothing else), which favours them: our own step for them, built of builtin
operators, takes more. Steps that go over their batch in blocks have the same gradients up to rounding. Of the last k
layers in blocks, what is told is our own compiled step, with the accuracy of the same layers at once.

A step of biases is held against TensorFlow's own of the same layers (tf.function, one thread), in turns.

    .venv/bin/python benchmarks/beyond_head.py --data ../shared/data --json beyond_head.json
    .venv/bin/python benchmarks/beyond_head.py --data ../shared/data --quick --json beyond_head.json

The program writes its rows as it goes, and goes on with --resume where it was cut. A loaded machine changes what a step
takes, and nothing else.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from firmware_tools.convert.head_model import HeadDesign, compile_head
from firmware_tools.convert.trainable.design import TailDesign, scales_of, trained_of
from firmware_tools.convert.trainable.graph import Layer, Tail, part, tails
from firmware_tools.convert.trainable.layers import forward
from firmware_tools.convert.trainable.memory import working_memory
from protos.model.head_algebra import Array, standardisation_of

BATCH, CLASSES = 32, 10
RATES = (0.01, 0.03, 0.1)
TUNING_SEED = 100


@dataclass(frozen=True)
class Method:
    """What trains: all biases behind the cut that has ``layers`` layers with weights, and so many kernels.

    ``blocks``: in how many parts a step goes over its batch.
    """

    name: str
    layers: int
    pointwise: int = 0
    whole: bool = False
    blocks: int = 1


METHODS = (
    Method("head", 0),
    Method("bias, 3 layers", 3),
    Method("bias, 5 layers", 5),
    Method("last-block, 3 layers and 1 kernel", 3, 1),
    Method("last-block, 5 layers and 2 kernels", 5, 2),
    Method("last-block, 5 layers and 2 kernels, in 16 blocks", 5, 2, blocks=16),
    Method("last 3 layers whole", 3, whole=True),
    Method("last 5 layers whole", 5, whole=True),
    Method("last 3 layers whole, in 16 blocks", 3, whole=True, blocks=16),
    Method("last 5 layers whole, in 16 blocks", 5, whole=True, blocks=16),
    Method("last-block, 7 layers and 3 kernels, in 16 blocks", 7, 3, blocks=16),
)


@dataclass(frozen=True)
class Row:
    """One method."""

    method: str
    rate: float
    parameters: int
    memory_bytes: int
    memory_is: str
    compiled_bytes: int
    accuracy: list[float]
    mean: float


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=500, help="of MNIST that a seed learns from")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--resume", action="store_true", help="keep the rows that are there, and judge what is missing")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps: says that it runs, and no more")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.steps = 1, 60
    tf.config.threading.set_intra_op_parallelism_threads(1)
    told: dict[str, Any] = {"schema": "edgejoule.beyond-head/1", "examples": options.examples, "batch": BATCH,
                            "steps": options.steps, "seeds": options.seeds, "rows": []}  # fmt: skip
    kept = options.json.with_suffix(".tflite")
    known: dict[str, Any] = {}
    if options.resume and options.json.exists() and kept.exists():
        earlier = json.loads(options.json.read_text())
        known = {row["method"]: row for row in earlier["rows"]} if _same(earlier, told) else {}
    if not known:
        kept.write_bytes(_pretrained(options.data, quick=options.quick))
    bench = _Bench(kept.read_bytes(), options)
    for method in METHODS:
        if method.name in known:
            told["rows"].append(known[method.name])
            continue
        alike = [one for one in told["rows"] if method.whole and one["method"] == method.name.partition(", in")[0]]
        row = bench.judge(method, alike[0] if alike else None)
        told["rows"].append(asdict(row))
        print(f"{row.method:50} {row.memory_bytes / 1e3:8.0f} kB ({row.memory_is})  {100 * row.mean:.2f} %", flush=True)
        options.json.write_text(json.dumps(told, indent=2) + "\n")
    told["step"] = bench.step_times(options.quick)
    told["blocks"] = bench.block_times(options.quick)
    print(told["step"], told["blocks"], flush=True)
    options.json.write_text(json.dumps(told, indent=2) + "\n")
    return 0


def _same(earlier: dict[str, Any], told: dict[str, Any]) -> bool:
    return all(earlier.get(key) == told[key] for key in ("schema", "examples", "batch", "steps", "seeds"))


def _idx(path: Path) -> Any:
    with gzip.open(path) as file:
        content = file.read()
    sizes = [int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(content[3])]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def _images(folder: Path, which: str) -> tuple[Array, Any]:
    x = _idx(folder / f"{which}-images-idx3-ubyte.gz")
    return (x[..., None] / 255.0).astype(np.float32), _idx(folder / f"{which}-labels-idx1-ubyte.gz").astype(np.int32)


def _pretrained(data: Path, *, quick: bool) -> bytes:
    """The float .tflite of a net that learned Fashion-MNIST, up to its features."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    image = keras.Input((28, 28, 1))
    value = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(image)
    for channels, stride in ((32, 1), (64, 2), (64, 1), (64, 1)):
        value = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(value)
        value = layers.ReLU()(layers.BatchNormalization()(value))
        value = layers.Conv2D(channels, 1, use_bias=False)(value)
        value = layers.ReLU()(layers.BatchNormalization()(value))
    features = layers.GlobalAveragePooling2D()(value)
    model = keras.Model(image, layers.Dense(CLASSES)(features))
    model.compile(keras.optimizers.Adam(0.003), keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                  metrics=["accuracy"])  # fmt: skip
    x, y = _images(data / "fashion_mnist", "train")
    count = 4000 if quick else 30000
    model.fit(x[:count], y[:count], batch_size=128, epochs=1 if quick else 3, verbose=0)
    cut = keras.Model(image, features)
    spec = tf.TensorSpec([1, 28, 28, 1])
    traced = tf.function(lambda x: cut(x, training=False)).get_concrete_function(spec)
    return bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced], traced).convert())


class _Bench:
    def __init__(self, flat: bytes, options: argparse.Namespace) -> None:
        self.flat, self.options = flat, options
        self.tails, _ = tails(flat, where="net")
        self.x, self.y = _images(options.data / "mnist", "train")
        self.test_x, self.test_y = (image[:2000] for image in _images(options.data / "mnist", "t10k"))
        self._codes: dict[int, tuple[Any, Any, float]] = {}

    def tail_of(self, count: int) -> Tail:
        """The latest cut behind which so many layers with weights stand; for the head alone, those of one."""
        return next(
            tail for tail in self.tails if sum(layer.kernel is not None for layer in tail.layers) >= max(1, count)
        )

    def rows(self, seed: int) -> tuple[Any, Any]:
        """Places of training and validation examples."""
        order = np.random.default_rng([seed, 5]).permutation(len(self.x))
        return order[: self.options.examples], order[self.options.examples : self.options.examples + 1000]

    def codes(self, tail: Tail) -> tuple[Any, Any, float]:
        """int8 of the trunk over what any seed uses, by place, and over the test examples; and their scale."""
        if tail.source not in self._codes:
            seeds = [*range(self.options.seeds), TUNING_SEED]
            used = np.unique(np.concatenate([np.concatenate(self.rows(seed)) for seed in seeds]))
            trunk, _ = part(self.flat, tail, where="net")
            run = _runner(trunk)
            some = np.stack([run(one[None])[0] for one in self.x[used[:200]]])
            scale = float(np.abs(some).max()) / 127.0

            def coded(values: Any) -> Any:
                return np.clip(np.rint(values / scale), -128, 127).astype(np.int8)

            held = np.zeros((len(self.x), int(np.prod(tail.shape))), np.int8)
            for place in used:
                held[place] = coded(run(self.x[place][None])).reshape(-1)
            test = np.stack([coded(run(one[None])).reshape(-1) for one in self.test_x])
            self._codes[tail.source] = held, test, scale
        return self._codes[tail.source]

    def design(self, method: Method) -> tuple[HeadDesign, tuple[Layer, ...]]:
        tail = self.tail_of(method.layers)
        held, _, scale = self.codes(tail)
        place = self.rows(TUNING_SEED)[0][:128]
        real = held[place].astype(np.float32).reshape(-1, *tail.shape) * scale
        weighty = tuple(layer for layer in tail.layers if layer.kernel is not None)
        kernels = weighty if method.whole else tail.pointwise[len(tail.pointwise) - method.pointwise :]
        trained = trained_of(tail, kernels, scales_of(tail, real))
        features = np.asarray(forward(tail, tf.constant(real), {}, {}))
        made = TailDesign(tail, trained, "int8", scale, 0, method.blocks)
        return HeadDesign(
            *standardisation_of(features), CLASSES, None, BATCH, "cross_entropy", "sgd", tail=made
        ), kernels

    def judge(self, method: Method, alike: dict[str, Any] | None = None) -> Row:
        """One method; ``alike``: the row of one that does the same arithmetic, whose accuracy it has."""
        design, kernels = self.design(method)
        assert design.tail is not None
        tail = design.tail.tail
        held, test, scale = self.codes(tail)
        memory, told = _least(tail, kernels), "least"
        if method.layers == 0:
            design = dataclasses.replace(design, tail=None)
            held, test = (_features(tail, codes, scale) for codes in (held, test))
        content = compile_head(design)
        compiled = working_memory(content, "train")
        if not method.whole or method.blocks > 1:
            memory, told = compiled, "measured"
        if alike is not None:
            parameters = int(sum(np.prod(shape) for shape in design.shapes.values()))
            return Row(method.name, alike["rate"], parameters, memory, told, compiled, alike["accuracy"], alike["mean"])
        best = max(RATES, key=lambda rate: self._accuracy(content, design, held, None, TUNING_SEED, rate))
        found = [self._accuracy(content, design, held, test, seed, best) for seed in range(self.options.seeds)]
        parameters = int(sum(np.prod(shape) for shape in design.shapes.values()))
        return Row(method.name, best, parameters, memory, told, compiled, found, statistics.fmean(found))

    def _accuracy(self, content: bytes, design: HeadDesign, held: Any, test: Any, seed: int, rate: float) -> float:
        interpreter = Interpreter(model_content=content, num_threads=1)
        run = {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}
        train, check = self.rows(seed)
        hyper = {tensor.name: np.array([tensor.default], np.float32) for tensor in design.inputs}
        hyper |= {"rate": np.array([rate], np.float32), "momentum": np.array([0.9], np.float32)}
        tree = {name: np.zeros(shape, np.float32) for name, shape in design.shapes.items()}
        run["write"](**tree)
        random, weight = np.random.default_rng([seed, 6]), np.ones(BATCH, np.float32)
        for rows in _batches(len(train), self.options.steps, random):
            run["train"](x=held[train[rows]], y=self.y[train[rows]], weight=weight, **hyper)
        x, y = (held[check], self.y[check]) if test is None else (test, self.test_y)
        right = 0
        for start in range(0, len(x) - BATCH + 1, BATCH):
            logits = run["infer"](x=x[start : start + BATCH])["logits"]
            right += int((logits.argmax(axis=1) == y[start : start + BATCH]).sum())
        return right / (len(x) // BATCH * BATCH)

    def block_times(self, quick: bool) -> dict[str, Any]:
        """Microseconds of a step at once and of the same one in blocks, in turns; medians."""
        at_once = METHODS[4]
        runs = {}
        for method in (at_once, *(one for one in METHODS if one.blocks > 1 and one.layers == at_once.layers)):
            if method.whole:
                continue
            design, _ = self.design(method)
            assert design.tail is not None
            place = self.rows(0)[0][:BATCH]
            given = {"x": self.codes(design.tail.tail)[0][place], "y": self.y[place]}
            given |= {"weight": np.ones(BATCH, np.float32)}
            given |= {tensor.name: np.array([tensor.default], np.float32) for tensor in design.inputs}
            interpreter = Interpreter(model_content=compile_head(design), num_threads=1)
            runs[method.blocks] = interpreter.get_signature_runner("train"), given
        spent: dict[int, list[float]] = {blocks: [] for blocks in runs}
        for turn in range(10 if quick else 200):
            for blocks, (run, given) in runs.items():
                start = time.perf_counter()
                run(**given)
                if turn >= 3:
                    spent[blocks].append(1e6 * (time.perf_counter() - start))
        found = {f"in_{blocks}_us": statistics.median(one) for blocks, one in spent.items()}
        return {"method": at_once.name, "load": os.getloadavg()[0], **found}

    def step_times(self, quick: bool) -> dict[str, Any]:
        """Microseconds of a step of biases, ours and TensorFlow's, in turns; medians."""
        method = METHODS[2]
        design, _ = self.design(method)
        assert design.tail is not None
        tail, scale = design.tail.tail, design.tail.scale
        held, _, _ = self.codes(tail)
        place = self.rows(0)[0][:BATCH]
        x, y = held[place], self.y[place]
        interpreter = Interpreter(model_content=compile_head(design), num_threads=1)
        train = interpreter.get_signature_runner("train")
        hyper = {tensor.name: np.array([tensor.default], np.float32) for tensor in design.inputs}
        weight = np.ones(BATCH, np.float32)
        theirs = _theirs(design, tail)
        given = tf.constant(x.reshape(BATCH, *tail.shape).astype(np.float32) * scale), tf.constant(y)
        spent: dict[str, list[float]] = {"ours": [], "tensorflow": []}
        for turn in range(10 if quick else 200):
            for name in spent:
                start = time.perf_counter()
                if name == "ours":
                    train(x=x, y=y, weight=weight, **hyper)
                else:
                    theirs(*given).numpy()
                if turn >= 3:
                    spent[name].append(1e6 * (time.perf_counter() - start))
        found = {f"{name}_us": statistics.median(one) for name, one in spent.items()}
        return {"method": method.name, "load": os.getloadavg()[0], **found,
                "ratio": found["ours_us"] / found["tensorflow_us"]}  # fmt: skip


def _theirs(design: HeadDesign, tail: Tail) -> Any:
    """A step of biases and head by TensorFlow's own layers and gradients."""
    biases = {layer.output: tf.Variable(layer.bias) for layer in tail.layers if layer.bias is not None}
    kernel, bias = tf.Variable(tf.zeros([len(design.mean), CLASSES])), tf.Variable(tf.zeros([CLASSES]))
    variables = [*biases.values(), kernel, bias]
    squash = {"NONE": tf.identity, "RELU": tf.nn.relu, "RELU6": tf.nn.relu6}

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            value = x
            for layer in tail.layers:
                if layer.kernel is None:
                    value = tf.reduce_mean(value, [1, 2])
                    continue
                run = tf.nn.depthwise_conv2d if layer.kind == "DEPTHWISE_CONV_2D" else tf.nn.conv2d
                value = run(value, layer.kernel, [1, *layer.stride, 1], layer.padding) + biases[layer.output]
                value = squash[layer.activation](value)
            logits = (value - design.mean) * design.scale @ kernel + bias
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.assign_sub(0.01 * gradient)
        return loss

    return step


def _least(tail: Tail, kernels: tuple[Layer, ...]) -> int:
    """Bytes of the inputs that the gradients of these kernels need, and of the fullest layer beside them."""
    kept = sum(4 * int(np.prod(kernel.given[0])) for kernel in kernels)
    fullest = max(4 * int(np.prod(layer.shape)) for layer in tail.layers)
    return BATCH * (kept + fullest)


def _features(tail: Tail, codes: Any, scale: float) -> Array:
    """float32 [N, width] of the trunk's integers [N, D]; zeros where these are."""
    found = np.zeros((len(codes), tail.width), np.float32)
    used = np.flatnonzero(codes.any(axis=1))
    for start in range(0, len(used), 256):
        rows = used[start : start + 256]
        real = tf.constant(codes[rows].astype(np.float32).reshape(-1, *tail.shape) * scale)
        found[rows] = np.asarray(forward(tail, real, {}, {}))
    return found


def _batches(count: int, steps: int, random: np.random.Generator) -> Iterator[Any]:
    done = 0
    while done < steps:
        order = random.permutation(count)
        for start in range(0, count - BATCH + 1, BATCH):
            if done < steps:
                yield order[start : start + BATCH]
            done += 1


def _runner(content: bytes) -> Any:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(x: Array) -> Array:
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target))

    return run


if __name__ == "__main__":
    sys.exit(main())
