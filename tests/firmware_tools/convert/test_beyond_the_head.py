"""Biases and kernels in front of the head train in builtin operators: gradients, rounds, export, budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_outcome import Outcome
from interpreters_arena import arena_bytes
from warm_tensorflow import WarmTensorFlow

from benchmarks.one_pass.fleet import Task
from benchmarks.one_pass.metered import MeteredFleet
from benchmarks.one_pass.methods import averaged, plan_of
from coordinator.export.exporter import export_model
from coordinator.run.evaluation import Evaluator
from coordinator.run.planning import _check_closed_form
from edge_runtime.model.current import About, take
from edge_runtime.model.predictor import Predictor
from edge_runtime.round.evaluation import evaluate
from firmware_tools.convert.trainable import memory, ordering
from firmware_tools.convert.trainable.memory import working_memory
from firmware_tools.inspect.model import read_model
from protos.datafiles import dataset
from protos.errors import ModelError, PlanError
from protos.model import flatbuffer
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle, open_bundle
from protos.model.engine import open_interpreter
from protos.model.exported import Exported
from protos.model.head import Head
from protos.model.manifest import TAIL_SCHEMA, Manifest
from protos.update import trees

pytestmark = pytest.mark.workshop

# Every form that a tail knows: strides, both paddings, additions, ReLU and ReLU6, ones by one and depthwise.
_GRADIENTS = """
import json, pathlib, sys
import keras, numpy as np, tensorflow as tf
from keras import layers as L
from firmware_tools.convert.head_model import HeadDesign, compile_head
from firmware_tools.convert.trainable import design, graph
from firmware_tools.convert.trainable.memory import working_memory
from protos.model.engine import open_interpreter
keras.utils.set_random_seed(1)
image = keras.Input((11, 12, 2))
value = L.Conv2D(4, 3, padding="same", activation="relu")(image)
value = L.Conv2D(4, 1, bias_initializer="normal")(value)
value = L.MaxPooling2D(2)(L.ZeroPadding2D(((5, 6), (6, 6)))(value))
value = L.AveragePooling2D(2)(L.Conv2D(4, 1, padding="same", bias_initializer="normal")(value))
value = L.DepthwiseConv2D(3, strides=2, padding="same", bias_initializer="normal")(value)
value = L.ReLU(6.0)(value)
value = L.Conv2D(8, 1, bias_initializer="normal")(value)
first = L.ReLU()(value)
value = L.Conv2D(8, 3, padding="same", activation="relu")(first)
value = L.Add()([first, value])
value = L.ZeroPadding2D(1)(value)
value = L.Conv2D(8, 3, strides=2, activation="relu")(value)
value = L.DepthwiseConv2D(2, padding="valid", activation="relu")(value)
value = L.Conv2D(8, 1, strides=2, activation="relu", bias_initializer="normal")(value)
model = keras.Model(image, L.GlobalAveragePooling2D()(value))
spec = tf.TensorSpec([1, 11, 12, 2])
traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
flat = bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced], traced).convert())
found, why = graph.tails(flat, where="model")
tail = found[-1]
rng = np.random.default_rng(0)
codes = rng.integers(-128, 128, (5, *tail.shape)).astype(np.int8)
scale, zero = 0.02, -20
kernels = tuple(one for one in tail.layers if one.kernel is not None)
trained = design.trained_of(tail, kernels, {})
blocks = int(sys.argv[2])
made = HeadDesign(np.full(8, 0.1, np.float32), np.full(8, 2.0, np.float32), 3, None, 8, "cross_entropy", "sgd",
                  tail=design.TailDesign(tail, trained, "int8", scale, zero, blocks))
content = compile_head(made)
runner = open_interpreter(content)
run = {name: runner.get_signature_runner(name) for name in runner.get_signature_list()}
tree = {name: np.zeros(shape, np.float32) for name, shape in made.shapes.items()}
tree["out_kernel"] = rng.standard_normal(tree["out_kernel"].shape).astype(np.float32)
run["write"](**tree)
x = np.zeros((8, codes[0].size), np.int8); x[:5] = codes.reshape(5, -1)
y = np.array([0, 1, 2, 0, 1, 0, 0, 0], np.int32)
weight = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
hyper = {one.name: np.zeros(1, np.float32) for one in made.inputs} | {"rate": np.ones(1, np.float32)}
told = float(run["train"](x=x, y=y, weight=weight, **hyper)["loss"][0])
moved = {name: tree[name] - value for name, value in run["read"]().items()}
variables = {name: tf.Variable(value) for name, value in tree.items()}
part = {(one.layer, one.name[7:]): (one.gain, variables[one.name]) for one in trained}
with tf.GradientTape() as tape:
    known = {tail.source: (tf.cast(codes, tf.float32) - zero) * scale}
    for layer in tail.layers:
        given = [known[one] for one in layer.inputs]
        if layer.kernel is not None:
            gain, change = part[layer.output, "kernel"]
            own, change_b = part[layer.output, "bias"]
            strides = [1, *layer.stride, 1]
            with_kernel = tf.nn.depthwise_conv2d if layer.kind == graph.DEPTHWISE else tf.nn.conv2d
            value = with_kernel(given[0], layer.kernel + gain * change, strides, layer.padding)
            value += layer.bias + own * change_b
        elif layer.kind == graph.PAD:
            value = tf.pad(given[0], layer.padding)
        elif layer.kind == graph.LARGEST:
            value = tf.nn.max_pool2d(given[0], layer.stride, layer.stride, "VALID")
        elif layer.kind == graph.AVERAGE:
            value = tf.nn.avg_pool2d(given[0], layer.stride, layer.stride, "VALID")
        elif layer.kind == graph.MEAN:
            value = tf.reduce_mean(given[0], [1, 2])
        else:
            value = given[0] + given[1]
        known[layer.output] = {"NONE": tf.identity, "RELU": tf.nn.relu, "RELU6": tf.nn.relu6}[layer.activation](value)
    features = (known[tail.layers[-1].output] - 0.1) * 2.0
    logits = features @ variables["out_kernel"] + variables["out_bias"]
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y[:5], logits))
wanted = tape.gradient(loss, variables)
off = {name: float(np.abs(moved[name] - value.numpy()).max() / max(1e-4, float(np.abs(value.numpy()).max())))
       for name, value in wanted.items()}
kinds = sorted({one.kind for one in tail.layers})
pathlib.Path(sys.argv[1], "off.json").write_text(json.dumps({"off": off, "kinds": kinds, "places": len(found),
    "loss": told - float(loss), "memory": working_memory(content, "train")}))
"""


@pytest.fixture(scope="module")
def memory_by_blocks() -> dict[int, int]:
    return {}


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_compiled_gradients_are_those_of_tensorflow(
    tensorflow: WarmTensorFlow, tmp_path: Path, blocks: int, memory_by_blocks: dict[int, int]
) -> None:
    tensorflow.script(_GRADIENTS, tmp_path, tmp_path, blocks)
    found = json.loads((tmp_path / "off.json").read_text())
    assert {"ADD", "AVERAGE_POOL_2D", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "MEAN"} <= set(found["kinds"])
    assert len(found["off"]) >= 14
    assert max(found["off"].values()) < 1e-3, found["off"]
    assert abs(found["loss"]) < 1e-4
    memory_by_blocks[blocks] = found["memory"]
    assert len(memory_by_blocks) == 1 or memory_by_blocks[4] < 0.5 * memory_by_blocks[1], memory_by_blocks


@pytest.fixture(scope="module")
def bundles(models: Path, tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("deeper")
    made = {}
    for mode in ("bias", "last-block"):
        tensorflow.converted(
            models / "plain.keras", "--eval", models / "images.npz", "--trainable", mode, "--batch-size", "16",
            "--min-agreement", "0.9", "-o", folder / mode,
        )  # fmt: skip
        made[mode] = open_bundle(folder / mode)
    return made


def _examples(models: Path, bundle: Bundle) -> tuple[Evaluator, np.ndarray, np.ndarray, dataset.Dataset]:
    data = dataset.load(models / "images.npz")
    codes = Backbone(bundle).embed(data.x)
    held = data.is_test
    return Evaluator(bundle, codes[held], data.y[held]), codes[~held], data.y[~held], data


@pytest.mark.parametrize("mode", ["bias", "last-block"])
def test_a_bundle_trains_what_stands_before_its_head_and_exports_it(
    bundles: dict[str, Bundle], models: Path, tmp_path: Path, mode: str
) -> None:
    bundle = bundles[mode]
    assert bundle.manifest.schema == TAIL_SCHEMA
    assert bundle.manifest == Manifest.from_json(bundle.manifest.to_json())
    assert any(name.endswith("_kernel") and name.startswith("tail") for name in bundle.initial_head()) == (
        mode == "last-block"
    )
    evaluator, codes, labels, data = _examples(models, bundle)
    head = Head(bundle)
    assert head.takes_integers
    start = head.read()
    # A new task: the classes turned by one.
    turned = (labels + 1) % 4
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        rows = rng.permutation(len(codes))[:16]
        losses.append(head.train_step(codes[rows], turned[rows].astype(np.int32), rate=0.05))
    trained = head.read()
    tail = [name for name in trained if name.startswith("tail")]
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) / 2
    assert not any(np.array_equal(trained[name], start[name]) for name in tail)
    # Real numbers are made the same integers again.
    spec = bundle.manifest.backbone
    real = (codes[:5].astype(np.float32) - spec.output_zero_point) * np.float32(spec.output_scale)
    assert np.array_equal(head.infer(codes[:5]), head.infer(real))
    # A device's own judgement is that of the compiled head.
    own = evaluate(trained, bundle, codes, turned.astype(np.int32))
    assert own.correct == int((head.infer(codes).argmax(axis=1) == turned).sum())
    # Further than a few steps go, so that it shows which of them the file holds.
    trained = {name: 4 * value if name in tail else value for name, value in trained.items()}
    head.write(trained)
    report = export_model(
        bundle, trained, evaluator.embeddings, tmp_path / "model.tflite", test_x=data.x[data.is_test],
        test_y=((data.y[data.is_test] + 1) % 4).astype(np.int32),
    )  # fmt: skip
    assert report.agreement is not None
    assert report.agreement >= 0.95
    # Of what trained, the file holds the trained values alone.
    (graph,) = flatbuffer.parse((tmp_path / "model.tflite").read_bytes()).subgraphs
    used = {int(i) for operator in graph.operators for end in (operator.inputs, operator.outputs) for i in end}
    assert set(range(len(graph.tensors))) <= used
    scores = Exported(tmp_path / "model.tflite").predict(data.x[data.is_test]).values
    wanted = head.infer(evaluator.embeddings)
    assert np.abs(scores - wanted).max() < 0.03 * np.abs(wanted).max()
    untrained = {name: start[name] if name in tail else value for name, value in trained.items()}
    head.write(untrained)
    assert np.abs(head.infer(evaluator.embeddings) - wanted).max() > 0.09 * np.abs(wanted).max()


def test_a_fleet_trains_what_stands_before_the_head_and_its_boards_predict_by_it(
    bundles: dict[str, Bundle], models: Path, tmp_path: Path
) -> None:
    bundle = bundles["last-block"]
    evaluator, codes, labels, data = _examples(models, bundle)
    turned, held = ((array + 1) % 4 for array in (labels, data.y[data.is_test]))
    task = Task("corners", bundle, codes, turned.astype(np.int32), evaluator.embeddings, held.astype(np.int32), None, 2,
                "iid", float("nan"))  # fmt: skip
    text = '[train]\nepochs = 3\nrate = 0.05\n[update]\ncodec = "entropy_coded"\n[update.parameters]\nbits = 4\n'
    fleet = MeteredFleet(task, plan_of(text, 1, 4), 1, tmp_path / "fleet", ("wifi",))
    referee = Evaluator(bundle, task.test, task.test_labels)
    before = referee.evaluate(bundle.initial_head())
    for _ in averaged(fleet, 1, 4):
        pass
    after = referee.evaluate(fleet.head)
    assert after.accuracy > before.accuracy + 0.3, (before, after)
    assert all(fleet.head[name].any() for name in fleet.head)
    about = About(trees.version(fleet.head), trees.version(fleet.head), bundle.bundle_id, "run", "run", 4)
    (tmp_path / "state").mkdir()
    model = take(tmp_path / "state", bundle, fleet.head, about)
    found = Predictor(model).predict(data.x[data.is_test])
    assert float((found.scores.argmax(axis=1) == held).mean()) == pytest.approx(after.accuracy)
    with pytest.raises(PlanError, match="in front of its head"):
        _check_closed_form(plan_of('[train]\nmethod = "closed_form"\n', 1, 1), bundle.manifest, "plan")


def test_a_step_of_biases_takes_less_memory_and_holds_the_budget(bundles: dict[str, Bundle]) -> None:
    found = {mode: working_memory(bundle.head_path.read_bytes(), "train") for mode, bundle in bundles.items()}
    for mode, bundle in bundles.items():
        chosen = bundle.manifest.provenance["trainable"]["chosen"]
        assert chosen["memory_bytes"] == found[mode]
        assert chosen["joules"] > 0
        custom = [name for name in read_model(bundle.head_path).operator_counts() if name.startswith(("CUST", "Flex"))]
        assert not custom
    assert found["bias"] <= found["last-block"]


@pytest.mark.parametrize("mode", ["bias", "last-block"])
def test_the_interpreters_own_arena_holds_what_a_step_is_said_to_take(bundles: dict[str, Bundle], mode: str) -> None:
    content = bundles[mode].head_path.read_bytes()
    for signature in ("train", "infer"):
        said, arena = working_memory(content, signature), arena_bytes(content, signature)
        # Less where an operator writes on what it read, more where tensors do not fit without a gap.
        assert 0.6 * said <= arena <= 1.2 * said, (signature, said, arena)


def test_a_board_judges_heads_by_the_interpreter_that_it_has_open(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles["bias"]
    spec, classes = bundle.manifest.backbone, len(bundle.manifest.classes)
    random = np.random.default_rng(3)
    codes = random.integers(-100, 100, (40, spec.embedding_width)).astype(spec.output_dtype)
    labels = random.integers(0, classes, 40).astype(np.int32)
    judged = {name: value + random.normal(0, 0.1, value.shape).astype(np.float32)
              for name, value in bundle.initial_head().items()}  # fmt: skip
    expected, open_already = evaluate(judged, bundle, codes, labels), Head(bundle)

    def never(*_: object) -> None:
        raise AssertionError("a second interpreter was opened")

    monkeypatch.setattr("edge_runtime.round.evaluation.Head", never)
    assert evaluate(judged, bundle, codes, labels, open_already) == expected
    held = open_already.read()
    assert all(np.array_equal(held[name], value) for name, value in bundle.initial_head().items())


@pytest.mark.parametrize(("option", "field"), [("--train-memory", "memory_bytes"), ("--train-joules", "joules")])
def test_a_budget_under_what_was_chosen_chooses_less(
    bundles: dict[str, Bundle], models: Path, tmp_path: Path, tensorflow: WarmTensorFlow, option: str, field: str
) -> None:
    before = bundles["last-block"].manifest.provenance["trainable"]["chosen"]
    most = before[field] * 0.999
    tensorflow.converted(
        models / "plain.keras", "--eval", models / "images.npz", "--trainable", "last-block", "--batch-size", "16",
        "--min-agreement", "0.9", option, int(most) if field == "memory_bytes" else most, "-o", tmp_path / "less",
    )  # fmt: skip
    less = open_bundle(tmp_path / "less")
    chosen = less.manifest.provenance["trainable"]["chosen"]
    if field == "joules":
        assert chosen["biases"] < before["biases"]
    else:
        # The same layers, block by block, before fewer layers.
        assert (chosen["biases"], chosen["kernels"]) == (before["biases"], before["kernels"])
        assert chosen["blocks"] > before["blocks"] == 1
    assert chosen[field] <= most
    assert working_memory(less.head_path.read_bytes(), "train") == chosen["memory_bytes"]


def _three_steps(content: bytes, bundle: Bundle) -> dict[str, Any]:
    """The head after three steps on random examples."""
    runner = open_interpreter(content)
    run = {name: runner.get_signature_runner(name) for name in runner.get_signature_list()}
    run["write"](**bundle.initial_head())
    random, inputs = np.random.default_rng(4), run["train"].get_input_details()
    given = {one.name: np.array([one.default], np.float32) for one in bundle.manifest.head.inputs}
    for _ in range(3):
        x, y = inputs["x"], inputs["y"]
        given["x"] = random.integers(-100, 100, x["shape"]).astype(x["dtype"])
        given["y"] = random.integers(0, len(bundle.manifest.classes), y["shape"]).astype(np.int32)
        given["weight"] = np.ones(y["shape"], np.float32)
        run["train"](**given)
    return dict(run["read"]())


def test_operators_in_another_order_give_the_same_bits_in_less_memory(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["last-block"]
    content = bundle.head_path.read_bytes()
    model = flatbuffer.parse(content)
    graph = memory.graph_of(model, "train")
    # The worst that a converter could write: what makes most comes first, and what frees something last.
    work, order = ordering._Work(model, graph), list[int]()
    while len(order) < len(work.operators):
        ready = [place for place, needed in enumerate(work.needs) if place not in order and needed <= set(order)]
        order.append(max(ready, key=lambda place: sum(work.made[int(one)] for one in work.operators[place].outputs)))
    graph.operators = [graph.operators[place] for place in order]
    worst = flatbuffer.pack(model)
    mended = ordering.ordered(worst, "train")
    assert working_memory(mended, "train") < 0.9 * working_memory(worst, "train")
    heads = [_three_steps(each_file, bundle) for each_file in (content, worst, mended)]
    assert any(value.any() for name, value in heads[0].items() if name.startswith("tail"))
    for head in heads[1:]:
        assert all(np.array_equal(head[name], value) for name, value in heads[0].items())


def test_nothing_that_fits_is_said_with_what_would(models: Path, tmp_path: Path, quick: Callable[..., Outcome]) -> None:
    asked = ("convert", models / "plain.keras", "--eval", models / "images.npz", "-o", tmp_path / "bundle")
    outcome = quick(*asked, "--trainable", "bias", "--train-memory", "2k")
    assert outcome.code == 2, outcome
    assert "the least that trains takes" in outcome.complaint
    assert "--batch-size" in outcome.complaint
    outcome = quick(*asked, "--trainable", "bias", "--train-joules", "1e-9")
    assert outcome.code == 2, outcome
    assert "more than the budget" in outcome.complaint
    outcome = quick(*asked, "--trainable", "last-block", "--pointwise", "9")
    assert outcome.code == 6, outcome
    assert "--pointwise" in outcome.complaint


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (("--pointwise", "2"), "--trainable last-block"),
        (("--pointwise", "2", "--trainable", "bias"), "--trainable last-block"),
        (("--train-memory", "64k"), "--trainable"),
        (("--train-joules", "0.1"), "--trainable"),
        (("--board", "pi5"), "--trainable"),
        (("--qat-steps", "100"), "--qat"),
        (("--qat-rate", "0.001"), "--qat"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    models: Path, tmp_path: Path, quick: Callable[..., Outcome], words: tuple[str, ...], needs: str
) -> None:
    outcome = quick("convert", models / "plain.keras", "-o", tmp_path / "bundle", *words)
    assert outcome.code == 2, outcome
    assert f"{words[0]} {words[1]} does nothing without {needs};" in outcome.complaint
    assert not (tmp_path / "bundle").exists()


def test_a_manifest_whose_tail_contradicts_it_is_refused(bundles: dict[str, Bundle]) -> None:
    text = json.loads(bundles["bias"].manifest.to_json())
    text["head"]["tail"]["shape"][0] += 1
    with pytest.raises(ModelError, match=r"head\.tail\.shape"):
        Manifest.from_json(json.dumps(text))
    text = json.loads(bundles["bias"].manifest.to_json())
    text["schema"] = "edgejoule.bundle/1"
    with pytest.raises(ModelError, match="schema"):
        Manifest.from_json(json.dumps(text))
