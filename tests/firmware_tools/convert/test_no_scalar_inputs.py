"""No model that we make takes a 0-D input, on which the runtime of aarch64 crashes: every bundle, every export.

Shapes are asked of the runtime itself, which here, on x86-64, shows no harm.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from warm_tensorflow import WarmTensorFlow

from coordinator.export.exporter import export_model
from firmware_tools.convert.command import OBJECTIVE_NAMES, OPTIMISER_NAMES
from firmware_tools.inspect.model import read_model
from protos.errors import ModelError
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.engine import open_interpreter, try_in_subprocess

pytestmark = pytest.mark.workshop
# Each objective, each optimiser, hidden layers; test_head_objectives.py looks at heads of every combination.
_CASES = [
    f"{objective}-{optimiser}-0"
    for objective, optimiser in zip(OBJECTIVE_NAMES, itertools.cycle(OPTIMISER_NAMES), strict=False)
]
_CASES += ["cross_entropy-sgd-5", "qat-adam-5"]
# One process converts them all, since TensorFlow takes seconds to load.
_MAKE = """
import json, pathlib, sys
import keras, numpy as np, tensorflow as tf
from firmware_tools.convert import head_model, worker
from firmware_tools.convert.job import ConvertJob
from protos.errors import ModelError

folder = pathlib.Path(sys.argv[1])
keras.utils.set_random_seed(1)
layers = keras.layers
keras.Sequential([
    layers.Input((6, 6, 1)), layers.Rescaling(1 / 255), layers.Conv2D(3, 3, activation="relu"), layers.Flatten(),
    layers.Dense(3),
]).save(folder / "small.keras")
rng = np.random.default_rng(0)
x, y = rng.integers(0, 256, (60, 6, 6, 1)).astype(np.uint8), (np.arange(60) % 3).astype(np.int32)
np.savez(folder / "data.npz", x=x, y=y)
for name in sys.argv[2:]:
    objective, optimiser, hidden = name.split("-")
    (folder / name).mkdir()
    worker.run(ConvertJob(
        model=str(folder / "small.keras"), kind="keras", output=str(folder / name), name=name, cut=None,
        input_shape=None, classes=None, class_names=None, hidden_units=int(hidden) or None,
        fresh_head=True, calibrate=str(folder / "data.npz"), calibration_examples=60, evaluate=None,
        objective=objective, optimiser=optimiser, batch_size=4, preprocess=None, min_agreement=0.5, seed=0,
    ).to_fields(), lambda line: None)


class Scalar(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([2], name="x"), tf.TensorSpec([], name="rate")])
    def train(self, x, rate):
        return {"loss": x * rate}


module = Scalar()
converter = tf.lite.TFLiteConverter.from_concrete_functions([module.train.get_concrete_function()], module)
(folder / "scalar.tflite").write_bytes(converter.convert())
tf.saved_model.save(module, str(folder / "scalar"), signatures={"train": module.train})
(folder / "signed.tflite").write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(folder / "scalar")).convert())

verdicts = {}
for name in ("signed.tflite", "cross_entropy-sgd-0/head.tflite"):
    try:
        head_model.check_head((folder / name).read_bytes())
        verdicts[name] = ""
    except ModelError as error:
        verdicts[name] = error.what
(folder / "verdicts.json").write_text(json.dumps(verdicts))
"""


@pytest.fixture(scope="module")
def made(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("no-scalars")
    tensorflow.script(_MAKE, folder, folder, *_CASES)
    return folder


def scalar_inputs(path: Path) -> list[str]:
    """``signature.input`` of every 0-D input, as the runtime tells; ``.input`` where there is no signature."""
    interpreter = open_interpreter(path)
    ends: Iterator[tuple[str, tuple[int, ...]]] = (
        (f"{name}.{key}", tuple(input_detail["shape"]))
        for name in interpreter.get_signature_list()
        for key, input_detail in interpreter.get_signature_runner(name).get_input_details().items()
    )
    plain = (
        (f".{input_detail['name']}", tuple(input_detail["shape"])) for input_detail in interpreter.get_input_details()
    )
    return [name for name, shape in itertools.chain(ends, plain) if shape == ()]


@pytest.mark.parametrize("case", _CASES)
def test_no_model_of_a_bundle_takes_a_scalar(made: Path, case: str) -> None:
    bundle = open_bundle(made / case)
    objective, optimiser, _ = case.split("-")
    assert (bundle.manifest.head.objective, bundle.manifest.head.optimiser) == (objective, optimiser)
    models = sorted((made / case).glob("*.tflite"))
    assert [path.name for path in models] == ["backbone.tflite", "head.tflite"]
    for path in models:
        assert scalar_inputs(path) == [], path.name
    assert set(open_interpreter(models[1]).get_signature_list()) == {
        "correct",
        "evaluate",
        "infer",
        "read",
        "train",
        "write",
    }


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("hidden", [0, 5])
def test_no_exported_model_takes_a_scalar(made: Path, tmp_path: Path, hidden: int, softmax: bool) -> None:
    bundle = open_bundle(made / f"cross_entropy-sgd-{hidden}")
    with np.load(made / "data.npz") as data:
        embeddings = Backbone(bundle).embed(data["x"])
    export_model(bundle, bundle.initial_head(), embeddings, tmp_path / "model.tflite", softmax=softmax)
    assert open_interpreter(tmp_path / "model.tflite").get_input_details()
    assert scalar_inputs(tmp_path / "model.tflite") == []


@pytest.mark.parametrize("name", ["scalar.tflite", "signed.tflite"])
def test_a_model_that_takes_one_is_found_and_refused(made: Path, name: str) -> None:
    path = made / name
    assert scalar_inputs(path)
    assert read_model(path).zero_dimensional_inputs()
    with pytest.raises(ModelError, match="0-D"):
        try_in_subprocess(path)


def test_a_head_that_takes_one_is_not_written(made: Path) -> None:
    verdicts = json.loads((made / "verdicts.json").read_text())
    assert "0-D inputs (train.rate" in verdicts["signed.tflite"]
    assert verdicts["cross_entropy-sgd-0/head.tflite"] == ""
