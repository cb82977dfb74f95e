"""Kinds of models that plain conversion loses, refuses or blames wrongly: converted with their figures, or named."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_outcome import Outcome
from warm_tensorflow import WarmTensorFlow

from protos.model.bundle import open_bundle

pytestmark = pytest.mark.workshop
UNIT = ("--preprocess", "unit")


@pytest.fixture(scope="module")
def made(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one model of each kind and its data."""
    folder = tmp_path_factory.mktemp("any")
    tensorflow.script(Path(__file__).with_name("any_models.py").read_text(), folder)
    return folder


@pytest.fixture(scope="module")
def command(quick: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """`firmware-tools convert`, each call in a fork of a process that has loaded TensorFlow."""
    return quick


@pytest.fixture
def converted(command: Callable[..., Outcome], made: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Converts MODEL on DATA; gives the report."""

    def run(model: str, data: str, *options: str) -> dict[str, Any]:
        done = command("convert", made / model, "--eval", made / data, "-o", tmp_path / "b", "--json", *options)
        report: dict[str, Any] = done.report
        assert report["backbone"]["float_operators"] == {}
        return report

    return run


@pytest.fixture
def refused(command: Callable[..., Outcome], made: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a conversion that must fail with a code; gives its one line."""

    def run(code: int, model: str, data: str, *options: str) -> str:
        done = command("convert", made / model, "--eval", made / data, "-o", tmp_path / "none", *options)
        assert done.code == code, done.stderr
        line: str = done.complaint
        assert ";" in line, "every refusal ends in a way on"
        assert "loc(" not in line
        return line

    return run


def _loses_little(report: dict[str, Any], points: float, cosine: float) -> None:
    accuracy, agreement = report["provenance"]["accuracy"], report["provenance"]["agreement"]
    assert accuracy["float"] > 0.7
    assert 100 * (accuracy["float"] - accuracy["int8"]) <= points
    assert agreement["cosine_mean"] >= cosine


@pytest.mark.parametrize("model", ["gru.keras", "lstm_saved", "rnn.keras"])
def test_recurrent_layers_are_written_out_in_integers(model: str, converted: Any) -> None:
    report = converted(model, "wave.npz")
    _loses_little(report, 1.5, 0.99)
    assert not {"WHILE", "CUSTOM"} & set(report["backbone"]["operators"])


@pytest.mark.parametrize("model", ["units.keras", "units_saved"])
def test_unlike_units_get_a_scale_each(model: str, converted: Any, tmp_path: Path) -> None:
    report = converted(model, "units.npz")
    _loses_little(report, 1.0, 0.999)
    rule = open_bundle(tmp_path / "b").manifest.preprocessing
    assert rule.per_channel is not None
    pascals, gravities, degrees = rule.per_channel.multiply
    assert gravities / pascals == pytest.approx(900 / 0.02, rel=0.2)
    assert degrees / pascals == pytest.approx(900 / 3.0, rel=0.2)
    assert "MUL" not in report["backbone"]["operators"]


def test_attention_and_layer_normalisation_hold_no_float_operator(converted: Any) -> None:
    _loses_little(converted("attention.keras", "image.npz", *UNIT), 3.0, 0.97)


def test_half_precision_and_a_fixed_batch_are_made_plain(converted: Any) -> None:
    _loses_little(converted("mixed20.keras", "image.npz", *UNIT), 1.5, 0.999)


def test_a_model_of_bytes_is_taken_with_its_rescaling(converted: Any, refused: Any) -> None:
    report = converted("uint8.keras", "image.npz")
    _loses_little(report, 1.5, 0.999)
    assert report["preprocessing"]["multiply"] == pytest.approx(1 / 255)
    assert "scales it itself" in refused(2, "uint8.keras", "image.npz", *UNIT)


def test_a_signature_is_chosen_by_name(converted: Any, refused: Any) -> None:
    _loses_little(converted("two_signatures", "image.npz", "--signature", "infer", *UNIT), 1.5, 0.999)
    assert "has the signatures infer, other, none named serving_default; choose one with --signature" in refused(
        6, "two_signatures", "image.npz"
    )
    assert "choose one of infer, other" in refused(6, "two_signatures", "image.npz", "--signature", "infr")
    assert "only a SavedModel or a .tflite has signatures" in refused(
        2, "good.keras", "image.npz", "--signature", "infer"
    )


@pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="needs the keras2 extra")
def test_a_file_of_keras_2_is_opened_by_keras_2(converted: Any, made: Path) -> None:
    import keras

    with pytest.raises(Exception):  # noqa: B017 (what Keras 3 raises differs by version)
        keras.models.load_model(made / "older.h5", compile=False)
    _loses_little(converted("older.h5", "image.npz", *UNIT), 1.5, 0.999)


@pytest.mark.parametrize("model", ["nan.keras", "nan_saved"])
def test_weights_that_are_no_numbers_are_named(model: str, refused: Any) -> None:
    line = refused(10, model, "image.npz", *UNIT)
    assert "last" in line
    assert "NaN" in line


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("regression.keras", "image.npz", "trained with the loss mse"),
        ("autoencoder.keras", "image.npz", "it is an autoencoder, no classifier"),
        ("labels.keras", "image.npz", "labels that do not exclude each other"),
    ],
)
def test_what_is_no_classifier_asks_for_a_cut_and_names_layers(model: str, data: str, says: str, refused: Any) -> None:
    line = refused(6, model, data)
    assert says in line
    assert "--cut LAYER (such as" in line
    assert ("code" if model == "autoencoder.keras" else "vector") in line
    assert "--classes N" in line


def test_an_elu_and_a_normalisation_behind_the_last_layer_are_carried_over(converted: Any) -> None:
    report = converted("elu.keras", "image.npz", *UNIT)
    _loses_little(report, 1.5, 0.99)
    assert report["provenance"]["head"] == "starts from the pre-trained last layer"


def test_an_operator_without_an_int8_kernel_is_named_with_the_layers_to_cut_at(refused: Any) -> None:
    line = refused(6, "floor.keras", "image.npz", *UNIT)
    assert "FLOOR" in line
    assert "(such as " in line


def test_a_head_that_guesses_is_told(converted: Any) -> None:
    right = converted("good.keras", "image.npz", *UNIT)
    assert not [line for line in right["warnings"] if "guesses" in line]
    assert right["provenance"]["inputs"]["levels"] > 100
    wrong = converted("good.keras", "float01.npz", "--force", *UNIT, "--min-agreement", "0.5")
    (warning,) = [line for line in wrong["warnings"] if "guesses" in line]
    assert "--preprocess" in warning
    assert np.isclose(wrong["provenance"]["inputs"]["raw_high"], 229 / 255, rtol=0.01)


def test_group_normalisation_over_five_dimensions_holds_no_float_operator(converted: Any) -> None:
    report = converted("groups.keras", "image.npz", *UNIT)
    _loses_little(report, 1.5, 0.99)
    assert "SQUARE" not in report["backbone"]["operators"]


def test_double_precision_is_rebuilt_as_single(converted: Any) -> None:
    _loses_little(converted("wide.keras", "image.npz", *UNIT), 1.5, 0.999)


def test_a_state_that_goes_from_batch_to_batch_is_left_out_and_told(converted: Any) -> None:
    report = converted("stateful.keras", "wave.npz")
    assert report["provenance"]["agreement"]["cosine_mean"] >= 0.99
    assert [line for line in report["warnings"] if "stateful=True" in line]


def test_weights_alone_are_told_from_a_file_of_keras_2(refused: Any) -> None:
    line = refused(6, "good.weights.h5", "image.npz", *UNIT)
    assert "holds weights alone" in line
    assert "load_weights" in line
    assert "Keras 2" not in line


def test_what_makes_nan_is_named_and_not_the_operators_behind_it(refused: Any) -> None:
    line = refused(10, "odd_variance.keras", "image.npz", *UNIT)
    assert "moving_variance of layer odd_one goes down to -0.999" in line
    line = refused(10, "root.keras", "image.npz", *UNIT)
    assert "the float model itself gives NaN or infinity for" in line


def test_examples_that_are_held_out_and_trained_on_are_told(converted: Any, made: Path) -> None:
    with np.load(made / "image.npz") as held:
        x, y = held["x"], held["y"]
    x[250:] = x[:50]
    np.savez(made / "leak.npz", x=x, y=y, is_test=np.arange(len(y)) >= 200)
    report = converted("good.keras", "leak.npz", *UNIT)
    (warning,) = [line for line in report["warnings"] if "among the training ones" in line]
    assert "50 of 100 held-out examples" in warning
