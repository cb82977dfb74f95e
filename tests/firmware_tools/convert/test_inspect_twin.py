"""`inspect` shows the Edge TPU twin of a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from edge_tpu_standin import Layer, with_layer

from protos.model.bundle import open_bundle

pytestmark = pytest.mark.workshop
Command = Callable[..., Any]


def test_a_twin_is_shown_with_its_origin_and_its_operators(
    plain_bundle: Path, command: Command, tmp_path: Path
) -> None:
    assert command("inspect", plain_bundle, "--json").report["edge_tpu"] is None
    layer = Layer.drawn((4, 4, 1), open_bundle(plain_bundle).manifest.backbone.embedding_width)
    folder = with_layer(plain_bundle, tmp_path / "twinned", layer, twin=layer.twin())
    report = command("inspect", folder, "--json").report
    assert report["edge_tpu"] == {
        "file": "twin.tflite",
        "size_bytes": len(layer.twin()),
        "made_from_sha256": report["files"]["backbone.tflite"]["sha256"],
        "compiler_version": "16.0.384591198",
        "operators": {"CUSTOM:edgetpu-custom-op": 1},
    }
    shown = command("inspect", folder).stdout
    assert "Edge TPU   twin.tflite" in shown
    assert "by compiler 16.0.384591198" in shown
