"""Published models and data: the figures that others have for them come out of our bundles too."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles import dataset
from protos.model.backbone import Backbone
from protos.model.bundle import open_bundle
from protos.model.engine import engine_identity

pytestmark = [pytest.mark.workshop, pytest.mark.reference_data]
Command = Callable[..., Any]


@pytest.fixture(scope="module")
def data(reference: Path) -> Path:
    pytest.importorskip("keras", reason="needs TensorFlow: the workshop extra")
    return reference


def test_resnet8_keeps_its_published_accuracy_as_int8(data: Path, quick: Command, tmp_path: Path) -> None:
    with np.load(data / "cifar10_subset" / "cifar10_jpeg.npz") as archive:
        x = np.concatenate([archive["x_train"][:600], archive["x_test"]])
        y = np.concatenate([archive["y_train"][:600], archive["y_test"]])
    np.savez(tmp_path / "cifar.npz", x=x, y=y, is_test=np.arange(len(y)) >= 600)
    model = data / "models_mlperf_tiny" / "pretrainedResnet.h5"
    done = quick("convert", model, "--eval", tmp_path / "cifar.npz", "-o", tmp_path / "b", "--json")
    accuracy = done.report["provenance"]["accuracy"]
    assert accuracy["examples"] == 2000
    assert accuracy["float"] == pytest.approx(0.757, abs=0.002)
    assert abs(accuracy["int8"] - accuracy["float"]) <= 0.005
    assert done.report["backbone"]["convolutions_per_channel"] == 9
    assert done.report["backbone"]["macs"] == 12_500_992


def test_the_coral_extractor_gives_the_published_embeddings(data: Path, quick: Command, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="needs the images extra")
    photos = tmp_path / "flowers"
    for path in sorted((data / "flowers_embeddings" / "jpg").glob("*.jpg")):
        kind, name = path.name.split("_", 1)
        (photos / kind).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, photos / kind / name)
    model = data / "models_coral" / "mobilenet_v1_1.0_224_quant_embedding_extractor.tflite"
    done = quick("convert", model, "--calibrate", photos, "-o", tmp_path / "b", "--json")
    assert done.report["classes"] == ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    bundle = open_bundle(tmp_path / "b")
    images = dataset.load(photos, image_shape=bundle.manifest.backbone.input_shape, classes=bundle.manifest.classes)
    found = Backbone(bundle).embed(images.x).astype(int)
    with np.load(data / "flowers_embeddings" / "flowers_mobilenet_v1_emb.npz") as archive:
        published = archive["emb"].astype(int)
    # Engines and delegates differ by one step here and there; with XNNPACK all 50 are equal bit by bit.
    allowed = 0 if engine_identity().delegate == "xnnpack" else 2
    nearest = [np.abs(published - one).max(axis=1).min() for one in found]
    assert len(nearest) == 50
    assert max(nearest) <= allowed


def test_an_edge_tpu_model_is_refused_with_its_reason(data: Path, quick: Command, tmp_path: Path) -> None:
    model = data / "models_coral" / "mobilenet_v1_1.0_224_quant_embedding_extractor_edgetpu.tflite"
    done = quick("convert", model, "--classes", "3", "-o", tmp_path / "b")
    assert done.code == 6
    assert "compiled for an Edge TPU" in done.complaint
