"""Scores behind a temperature, halves in a SavedModel, code of one's own, token ids: converted whole, or named."""

from __future__ import annotations

import copy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_outcome import Outcome
from warm_tensorflow import WarmTensorFlow

from firmware_tools.convert.sources.tflite_source import labels_in
from protos.model import flatbuffer
from protos.model.bundle import open_bundle
from protos.model.head_algebra import fold_standardisation, logits_of
from protos.model.manifest import TOKEN_SCHEMA

pytestmark = pytest.mark.workshop
UNIT = ("--preprocess", "unit")


@pytest.fixture(scope="module")
def made(tensorflow: WarmTensorFlow, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the models and their data."""
    folder = tmp_path_factory.mktemp("further")
    tensorflow.script(Path(__file__).with_name("further_models.py").read_text(), folder)
    return folder


@pytest.fixture
def converted(quick: Callable[..., Outcome], made: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Converts MODEL on DATA; gives the report, after its figures were looked at."""

    def run(model: str, data: str, *options: str) -> dict[str, Any]:
        done = quick("convert", made / model, "--eval", made / data, "-o", tmp_path / model, "--json", *options)
        report: dict[str, Any] = done.report
        assert report["backbone"]["float_operators"] == {}
        accuracy, agreement = report["provenance"]["accuracy"], report["provenance"]["agreement"]
        assert accuracy is not None, report["provenance"]["head"]
        assert accuracy["float"] > 0.9
        assert accuracy["float"] - accuracy["int8"] <= 0.015
        assert agreement["cosine_mean"] >= 0.999
        return report

    return run


@pytest.fixture
def refused(quick: Callable[..., Outcome], made: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs a conversion that must fail with a code; gives its one line."""

    def run(code: int, model: str, data: str, *options: str) -> str:
        done = quick("convert", made / model, "--eval", made / data, "-o", tmp_path / "none", *options)
        assert done.code == code, done.stderr
        line: str = done.complaint
        assert ";" in line, "every refusal ends in a way on"
        return line

    return run


@pytest.fixture(scope="module")
def plain(quick: Callable[..., Outcome], made: Path) -> Path:
    """The bundle of the model whose scores nothing follows but a softmax."""
    done = quick("convert", made / "good.keras", "--eval", made / "image.npz", "-o", made / "plain", "--json", *UNIT)
    assert done.report["provenance"]["accuracy"]["int8"] > 0.9
    return made / "plain"


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ("temperature.keras", 0.4),
        ("divided_saved", 4.0),
        ("reshaped.keras", 1.0),
        *(
            pytest.param(model, factor, marks=pytest.mark.slow)
            for model, factor in (
                ("temperature_saved", 0.4), ("divided.keras", 4.0), ("logarithm.keras", 1.0), ("logarithm_saved", 1.0)
            )
        ),
    ],
)  # fmt: skip
def test_what_follows_the_scores_keeps_the_trained_layer(
    model: str, factor: float, converted: Any, plain: Path, tmp_path: Path
) -> None:
    assert converted(model, "image.npz", *UNIT)["provenance"]["head"] == "starts from the pre-trained last layer"
    one, other = (open_bundle(folder) for folder in (tmp_path / model, plain))
    probe = np.random.default_rng(1).normal(size=(5, one.manifest.backbone.embedding_width)).astype(np.float32)
    given, expected = (
        logits_of(fold_standardisation(bundle.initial_head(), *bundle.feature_affine()), probe)
        for bundle in (one, other)
    )
    np.testing.assert_allclose(given, factor * expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "model",
    ["weakened.keras", *(pytest.param(one, marks=pytest.mark.slow) for one in ("weakened_saved", "reversed.keras"))],
)
def test_what_is_turned_round_or_comes_behind_the_softmax_is_no_temperature(
    model: str, quick: Any, made: Path, tmp_path: Path
) -> None:
    done = quick("convert", made / model, "--eval", made / "image.npz", "-o", tmp_path / "b", "--json", *UNIT)
    assert done.report["provenance"]["head"].startswith("starts untrained: ")


_LIMITS = """
import numpy as np, tensorflow as tf
from firmware_tools.convert.static_graph import _nudged
values = tf.constant(np.linspace(-9, 9, 4001, dtype=np.float32))
for low, high in ((0.0, 0.0), (0.0, 6.0), (-1.3, 2.9), (-0.7, 0.0)):
    for bits, narrow in ((8, False), (8, True), (4, False)):
        wanted = tf.quantization.fake_quant_with_min_max_vars(values, low, high, bits, narrow).numpy()
        ends = _nudged(np.float32(low), np.float32(high), bits, narrow)
        assert np.allclose(ends, (wanted.min(), wanted.max()), atol=1e-6), (low, high, bits, narrow, ends)
"""


def test_the_ends_of_a_fake_quant_are_those_of_tensorflow(tensorflow: WarmTensorFlow, tmp_path: Path) -> None:
    """Also of a range of nothing, as training leaves it of an activation that was never above zero."""
    tensorflow.script(_LIMITS, tmp_path)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", *(pytest.param(one, marks=pytest.mark.slow) for one in ("mixed_bfloat16", "float64"))]
)
def test_a_saved_model_of_another_precision_is_made_float32(policy: str, converted: Any) -> None:
    report = converted(f"{policy}_saved", "image.npz", *UNIT)
    assert report["provenance"]["head"] == "starts from the pre-trained last layer"


def test_a_model_that_was_trained_to_be_rounded_keeps_its_limits(converted: Any) -> None:
    report = converted("aware_saved", "image.npz", *UNIT)
    assert report["provenance"]["head"] == "starts from the pre-trained last layer"
    assert report["backbone"]["operators"]["MINIMUM"] >= 1


def test_code_that_is_not_in_the_file_is_named(refused: Any) -> None:
    assert "its class 'Gate' is none of Keras, and its code is not in" in refused(6, "own_layer.keras", "image.npz")
    assert "halved' is none of Keras" in refused(6, "own_activation.keras", "image.npz")
    assert "holds a Lambda layer" in refused(6, "lambda.keras", "image.npz")


@pytest.mark.parametrize("model", ["drawn.keras", "drawn_saved"])
def test_layers_that_are_random_in_training_alone_leave_no_generator(model: str, converted: Any) -> None:
    assert converted(model, "image.npz", *UNIT)["warnings"] == []


def test_a_layer_that_goes_on_training_is_told(converted: Any) -> None:
    (told,) = converted("goes_on.keras", "image.npz", *UNIT)["warnings"]
    assert told.startswith("goes_on works as in training whenever the model runs")


@pytest.mark.parametrize("model", ["constant.keras", pytest.param("constant_saved", marks=pytest.mark.slow)])
def test_a_model_whose_units_died_is_told(model: str, refused: Any) -> None:
    assert "the same embedding for all of" in refused(6, model, "image.npz", *UNIT)


def test_a_softmax_over_one_number_is_named(refused: Any) -> None:
    assert "a softmax over one number, which is 1 whatever" in refused(6, "certain.keras", "image.npz", *UNIT)


def test_a_cut_that_gives_no_vector_names_layers_that_give_one(refused: Any) -> None:
    line = refused(6, "spread.keras", "image.npz", *UNIT)
    assert "is 5 x 5 x 8 per example, not a vector" in line
    assert "--cut LAYER (such as pooled) and --classes N" in line


def test_operators_of_ones_own_are_named_with_a_way_on(refused: Any) -> None:
    assert "no TFLite builtins: CUSTOM:Erfinv; give its .keras" in refused(6, "custom.tflite", "image.npz")


def test_names_that_a_tflite_carries_number_the_data(made: Path, converted: Any, refused: Any, tmp_path: Path) -> None:
    shutil.copy(made / "plain.tflite", made / "labelled.tflite")
    with zipfile.ZipFile(made / "labelled.tflite", "a") as archive:
        archive.writestr("about.txt", "one line")
        archive.writestr("labels.txt", "tri\nuno\nduo\n\n")
    with np.load(made / "image.npz") as held:
        stored = {"x": held["x"], "is_test": held["is_test"]}
        y = held["y"]
    # The data name their classes in the order of the alphabet.
    np.savez(made / "named.npz", y=np.array([1, 2, 0], np.int32)[y], class_names=["duo", "tri", "uno"], **stored)
    np.savez(made / "further_stored.npz", y=y, class_names=["ant", "bee", "cat"], **stored)
    converted("labelled.tflite", "named.npz", *UNIT)
    assert open_bundle(tmp_path / "labelled.tflite").manifest.classes == ("tri", "uno", "duo")
    line = refused(9, "labelled.tflite", "further_stored.npz", *UNIT)
    assert "tri, uno, duo" in line
    assert "--rename" in line


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_of_labels_that_is_damaged_names_nothing(method: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("labels.txt", "\n".join(f"class {number}" for number in range(200)))
    names = labels_in(path, 200)
    assert names is not None
    whole = path.read_bytes()
    begin = whole.index(b"labels.txt") + len("labels.txt")
    for at in range(begin, whole.rindex(b"labels.txt") - 50):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        # Bytes that nothing hangs on may change; the archive's own sums keep others from passing.
        assert labels_in(path, 200) in (None, names)


def test_a_model_under_the_name_of_another_format_is_told_which(refused: Any, made: Path) -> None:
    shutil.copy(made / "custom.tflite", made / "renamed.keras")
    assert "give it the name of a .tflite file" in refused(6, "renamed.keras", "image.npz")


def test_token_ids_are_looked_up_by_integers(converted: Any, tmp_path: Path) -> None:
    report = converted("tokens.keras", "tokens.npz")
    assert report["backbone"]["operators"]["GATHER"] == 1
    assert not {"LESS", "SELECT_V2"} & set(report["backbone"]["operators"]), "there are no ids below 0"
    bundle = open_bundle(tmp_path / "tokens.keras")
    assert bundle.manifest.schema == TOKEN_SCHEMA
    spec = bundle.manifest.backbone
    assert (spec.input_dtype, spec.vocabulary, spec.input_shape) == ("int32", 40, (9,))


def test_ids_that_a_model_takes_as_real_numbers_are_integers_in_its_bundle(
    quick: Callable[..., Outcome], made: Path, tmp_path: Path
) -> None:
    for model in ("tokens_real.keras", "tokens_real.tflite"):
        done = quick("convert", made / model, "--eval", made / "tokens.npz", "-o", tmp_path / model, "--json")
        assert done.report["provenance"]["agreement"]["cosine_mean"] >= 0.999
        assert "CAST" not in done.report["backbone"]["operators"]
        assert open_bundle(tmp_path / model).manifest.backbone.vocabulary == 40


def test_padding_that_is_masked_stays_out_of_a_recurrent_layer(
    quick: Callable[..., Outcome], made: Path, tmp_path: Path
) -> None:
    done = quick(
        "convert", made / "tokens_masked.keras", "--eval", made / "padded.npz", "-o", tmp_path / "m", "--json",
    )  # fmt: skip
    assert done.report["backbone"]["float_operators"] == {}
    assert done.report["provenance"]["agreement"]["cosine_mean"] >= 0.98


def test_examples_with_ids_that_the_model_has_not_are_set_aside_and_told(
    quick: Callable[..., Outcome], made: Path, tmp_path: Path
) -> None:
    done = quick("convert", made / "tokens.keras", "--eval", made / "strange.npz", "-o", tmp_path / "s", "--json")
    assert "set aside as bad: 3 with a token id outside 0..39 (example 4)" in done.report["warnings"][0]
    assert done.report["provenance"]["evaluation"]["examples"] == 100


def test_ids_of_another_tokeniser_and_scaled_ones_are_refused(refused: Any) -> None:
    assert "300 of 300 examples hold what is no token id of the model, 0 to 39" in refused(
        13, "tokens.keras", "shifted.npz"
    )
    assert "nothing scales them" in refused(2, "tokens.keras", "tokens.npz", "--preprocess", "unit")


def test_a_batch_that_was_fixed_becomes_one_where_examples_do_not_mix(converted: Any, refused: Any) -> None:
    converted("eight_saved", "image.npz", *UNIT, "--signature", "together")
    line = refused(6, "eight_saved", "image.npz", *UNIT, "--signature", "mixed")
    assert "takes batches of exactly 8, and mixes the examples of a batch" in line
    assert "input_signature" in line


def test_one_signature_of_a_tflite_is_chosen_by_its_name(converted: Any, refused: Any, made: Path) -> None:
    model = flatbuffer.parse((made / "plain.tflite").read_bytes(), where="plain.tflite")
    model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
    one, other = model.signatureDefs[0], copy.deepcopy(model.signatureDefs[0])
    one.signatureKey, other.signatureKey, other.subgraphIndex = b"single", b"other", 1
    model.signatureDefs = [other, one]
    (made / "signed.tflite").write_bytes(flatbuffer.pack(model))
    converted("signed.tflite", "image.npz", *UNIT, "--signature", "other")
    line = refused(6, "signed.tflite", "image.npz", *UNIT)
    assert "has the signatures other, single; choose one with --signature NAME" in line
    assert "choose one of other, single" in refused(6, "signed.tflite", "image.npz", "--signature", "nose")
