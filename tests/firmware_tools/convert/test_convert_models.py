"""Conversion of real models of many forms, by the command that users run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firmware_tools.inspect.model import read_model
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.head import Head

pytestmark = pytest.mark.workshop
Command = Callable[..., Any]


def _held_out(models: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(models / "images.npz") as archive:
        return archive["x"][300:], archive["y"][300:]


def _facts(models: Path) -> dict[str, float]:
    facts: dict[str, float] = json.loads((models / "facts.json").read_text())
    return facts


def test_the_bundle_answers_as_the_float_model_did(models: Path, plain_bundle: Path) -> None:
    bundle = open_bundle(plain_bundle)
    backbone, head = Backbone(bundle), Head(bundle)
    x, y = _held_out(models)
    accuracy = head.evaluate(backbone.dequantise(backbone.embed(x)), y).accuracy
    assert accuracy > 0.9
    assert accuracy == pytest.approx(_facts(models)["plain"], abs=0.02)
    recorded = bundle.manifest.provenance["accuracy"]
    assert recorded["float"] == pytest.approx(_facts(models)["plain"], abs=0.011)
    assert recorded["int8"] == pytest.approx(accuracy, abs=1e-9)
    assert recorded["examples"] == 100
    assert bundle.manifest.provenance["calibration"]["ranges_from"] in (8, 24, 96, 300)


def test_the_backbone_is_integer_throughout_and_per_channel(plain_bundle: Path) -> None:
    facts = read_model(plain_bundle / "backbone.tflite")
    assert facts.float_operator_counts() == {}
    assert [tensor.dtype for tensor in (*facts.inputs, *facts.outputs)] == ["int8", "int8"]
    assert facts.inputs[0].shape == (1, 12, 12, 3)
    assert facts.convolutions_per_channel() == (3, 3)
    # 5x5x8 outputs of 3x3x3, 5x5x8 of 3x3, 5x5x16 of 8.
    assert facts.macs() == 200 * 27 + 200 * 9 + 400 * 8


def test_the_head_has_no_scalar_input_and_builtin_operators_only(plain_bundle: Path) -> None:
    facts = read_model(plain_bundle / "head.tflite")
    assert set(facts.signatures) == {"train", "evaluate", "infer", "read", "write", "correct"}
    assert facts.zero_dimensional_inputs() == []
    assert not [name for name in facts.operator_counts() if name.startswith(("CUSTOM", "Flex"))]
    hyper = {name: tensor.shape for name, tensor in facts.signatures["train"].inputs.items() if name not in "xyweight"}
    names = ("correction", "momentum", "proximal_mu", "rate", "weight_decay")
    assert hyper == dict.fromkeys(names, (1,))


def test_the_same_inputs_give_the_same_bundle(
    models: Path, plain_bundle: Path, command: Command, tmp_path: Path
) -> None:
    again = command("convert", models / "plain.keras", "--eval", models / "images.npz", "-o", tmp_path / "b", "--json")
    assert again.report["bundle_id"] == open_bundle(plain_bundle).bundle_id
    for name in ("backbone.tflite", "head.tflite", "initial.npz", "manifest.json"):
        assert (tmp_path / "b" / name).read_bytes() == (plain_bundle / name).read_bytes()


def test_data_is_on_stdout_and_progress_on_stderr(models: Path, command: Command, tmp_path: Path) -> None:
    done = command(
        "convert", models / "saved", "--eval", models / "images.npz", "-o", tmp_path / "b", "--class-names", "a,b,c,d",
        "--json",
    )  # fmt: skip
    report = done.report
    assert report["schema"] == "edgejoule.convert/1"
    assert report["bundle"] == str(tmp_path / "b")
    assert report["classes"] == ["a", "b", "c", "d"]
    assert report["provenance"]["accuracy"]["float"] == pytest.approx(_facts(models)["plain"], abs=0.011)
    assert report["provenance"]["agreement"]["cosine_mean"] > 0.98
    assert report["provenance"]["source"]["kind"] == "saved_model"
    assert "measuring ranges: example 100 of 300" in done.stderr
    assert "INFO" not in done.stderr
    assert "TensorFlow" not in done.stderr


def test_a_keras_2_file_with_grouped_depthwise_layers_opens(models: Path, quick: Command, tmp_path: Path) -> None:
    done = quick("convert", models / "groups.h5", "--eval", models / "images.npz", "-o", tmp_path / "b", "--json")
    assert done.report["provenance"]["accuracy"]["float"] == pytest.approx(_facts(models)["plain"], abs=0.011)


def test_a_head_with_a_hidden_layer_is_carried_over_whole(models: Path, quick: Command, tmp_path: Path) -> None:
    done = quick(
        "convert", models / "two.keras", "--cut", "vector", "--hidden", "20", "--objective", "kure",
        "--optimizer", "adam",
        "--calibrate", models / "images.npz", "--eval", models / "images_all_test.npz", "-o", tmp_path / "b", "--json",
    )  # fmt: skip
    report = done.report
    assert report["provenance"]["head"] == "starts from the pre-trained last layer"
    assert report["provenance"]["evaluation"]["examples"] == 400
    assert set(report["head"]["tensors"]) == {"hidden_kernel", "hidden_bias", "out_kernel", "out_bias"}
    assert {tensor["name"] for tensor in report["head"]["inputs"]} == {
        "rate", "correction", "beta1", "beta2", "proximal_mu", "weight_decay", "kurtosis_weight",
    }  # fmt: skip
    bundle = open_bundle(tmp_path / "b")
    backbone, head = Backbone(bundle), Head(bundle)
    x, y = _held_out(models)
    accuracy = head.evaluate(backbone.dequantise(backbone.embed(x)), y).accuracy
    assert accuracy == pytest.approx(_facts(models)["two"], abs=0.02)


def test_a_nested_model_is_cut_inside_and_other_classes_start_untrained(
    models: Path, quick: Command, tmp_path: Path
) -> None:
    done = quick(
        "convert", models / "nested.keras", "--classes", "7", "--calibrate", models / "images.npz",
        "-o", tmp_path / "b", "--json",
    )  # fmt: skip
    report = done.report
    assert report["backbone"]["outputs"][0]["shape"] == [1, 16]
    assert report["provenance"]["head"] == "starts untrained: the model has 4 classes, the bundle 7"
    assert report["provenance"]["accuracy"] is None
    assert not any(array.any() for array in open_bundle(tmp_path / "b").initial_head().values())


def test_vectors_and_one_sigmoid_unit_make_a_two_class_bundle(models: Path, quick: Command, tmp_path: Path) -> None:
    values = models / "values.npz"
    done = quick(
        "convert", models / "vector.keras", "--calibrate", values, "--eval", values, "-o", tmp_path / "b", "--json"
    )
    report = done.report
    assert report["classes"] == ["0", "1"]
    assert report["backbone"]["inputs"][0]["shape"] == [1, 10]
    assert report["provenance"]["accuracy"]["int8"] == pytest.approx(
        report["provenance"]["accuracy"]["float"], abs=0.03
    )
    assert not open_bundle(tmp_path / "b").manifest.provenance["head"].startswith("starts untrained")


def test_an_integer_extractor_is_taken_as_it_is(
    models: Path, plain_bundle: Path, quick: Command, tmp_path: Path
) -> None:
    source = plain_bundle / "backbone.tflite"
    done = quick(
        "convert", source, "--calibrate", models / "images.npz", "--classes", "4", "-o", tmp_path / "b", "--json"
    )
    report = done.report
    assert (tmp_path / "b" / "backbone.tflite").read_bytes() == source.read_bytes()
    assert report["provenance"]["agreement"] is None
    bundle = open_bundle(tmp_path / "b")
    x, _ = _held_out(models)
    # The extractor takes int8, and its raw bytes map straight to quantised values: r becomes r - 128.
    np.testing.assert_array_equal(Backbone(bundle)._table.astype(int), np.arange(256) - 128)
    assert Backbone(bundle).embed(x[:3]).shape == (3, bundle.manifest.backbone.embedding_width)
