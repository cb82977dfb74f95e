"""A manifest with an Edge TPU twin: another schema, another identity, and no change for bundles without one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edge_tpu_standin import Layer, bare_bundle

from protos.errors import IntegrityError, ModelError
from protos.model.bundle import open_bundle
from protos.model.manifest import MANIFEST_FILE, SCHEMA, TWIN_SCHEMA, FileRecord, Manifest

LAYER = Layer.drawn((2, 2, 1), 3)
RECORD = FileRecord("ab" * 32, 5)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return bare_bundle(tmp_path / "plain", LAYER)


@pytest.fixture
def twinned(tmp_path: Path) -> Path:
    return bare_bundle(tmp_path / "twinned", LAYER, twin=LAYER.twin())


def document(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text())
    return value


def refusal(value: dict[str, Any]) -> str:
    with pytest.raises(ModelError) as caught:
        Manifest.from_json(json.dumps(value))
    return str(caught.value)


def test_a_bundle_without_a_twin_is_written_as_ever(plain: Path) -> None:
    value = document(plain)
    assert value["schema"] == SCHEMA == "edgejoule.bundle/1"
    assert "edge_tpu" not in value
    bundle = open_bundle(plain)
    assert bundle.twin_path is None
    assert Manifest.from_json(bundle.manifest.to_json()).bundle_id == bundle.bundle_id


def test_a_twin_is_named_with_its_hash_its_origin_and_its_compiler(plain: Path, twinned: Path) -> None:
    bundle = open_bundle(twinned)
    twin, files = bundle.manifest.edge_tpu, bundle.manifest.files
    assert twin is not None
    assert (twin.file, twin.compiler_version) == ("twin.tflite", "16.0.384591198")
    assert twin.made_from_sha256 == files["backbone.tflite"].sha256
    assert files["twin.tflite"].size_bytes == len(LAYER.twin())
    assert bundle.twin_path == twinned / "twin.tflite"
    assert bundle.bundle_id != open_bundle(plain).bundle_id
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest


def test_software_that_reads_only_the_first_schema_refuses_a_twin_by_the_schema(plain: Path, twinned: Path) -> None:
    """What it says is the rule of the first version: another schema than its own is refused before all else."""
    assert document(twinned)["schema"] == TWIN_SCHEMA != SCHEMA
    assert "this version reads" in refusal({**document(plain), "schema": "edgejoule.bundle/9"})


def test_the_schema_and_the_twin_go_together(plain: Path, twinned: Path) -> None:
    assert "without edge_tpu it must be" in refusal({**document(plain), "schema": TWIN_SCHEMA})
    assert "with edge_tpu it must be" in refusal({**document(twinned), "schema": SCHEMA})


def test_there_is_one_way_to_write_that_there_is_no_twin(plain: Path) -> None:
    assert "must be left out, not null" in refusal({**document(plain), "edge_tpu": None})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"file": "../twin.tflite"}, "not a plain file name"),
        ({"file": "backbone.tflite"}, "a file of its own"),
        ({"file": "other.tflite"}, "must record exactly"),
        ({"made_from_sha256": "cd" * 32}, "compiled from another model"),
        ({"compiler_version": "16\n"}, "no version"),
        ({"compiler_version": 16}, "must be str"),
        ({"chip": "v1"}, "unknown key 'chip'"),
    ],
)
def test_a_twin_that_contradicts_the_rest_is_refused(twinned: Path, changes: dict[str, Any], says: str) -> None:
    value = document(twinned)
    assert says in refusal({**value, "edge_tpu": {**value["edge_tpu"], **changes}})


def test_a_second_twin_takes_the_place_of_the_first(twinned: Path) -> None:
    manifest = open_bundle(twinned).manifest
    second = manifest.with_twin("second.tflite", RECORD, None)
    assert set(second.files) == (set(manifest.files) - {"twin.tflite"}) | {"second.tflite"}
    assert second.edge_tpu is not None
    assert second.edge_tpu.compiler_version is None
    with pytest.raises(ModelError, match=r"a file of its own"):
        manifest.with_twin("head.tflite", RECORD, None)


def test_a_backbone_that_changed_leaves_no_place_for_an_old_twin(twinned: Path) -> None:
    manifest = open_bundle(twinned).manifest
    with pytest.raises(ModelError, match="compiled from another model"):
        dataclasses.replace(manifest, files={**manifest.files, "backbone.tflite": RECORD})


def test_a_twin_may_lack_only_where_it_is_allowed_to_and_is_checked_where_it_is(twinned: Path) -> None:
    (twinned / "twin.tflite").rename(twinned / "aside")
    with pytest.raises(IntegrityError, match="is missing"):
        open_bundle(twinned)
    assert open_bundle(twinned, twin_may_lack=True).twin_path is None
    other = Layer(LAYER.shape, np.negative(LAYER.weights), LAYER.biases).twin()
    assert len(other) == len(LAYER.twin())
    (twinned / "twin.tflite").write_bytes(other)
    for lenient in (False, True):
        with pytest.raises(IntegrityError, match="SHA-256"):
            open_bundle(twinned, twin_may_lack=lenient)
    (twinned / "aside").rename(twinned / "twin.tflite")
    (twinned / "head.tflite").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        open_bundle(twinned, twin_may_lack=True)
