"""A bundle is used only when every byte of it is the declared one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from protos.errors import EdgejouleError, IntegrityError, ModelError, ShapeError
from protos.model.bundle import open_bundle, read_tree
from protos.model.head_algebra import head_shapes

pytestmark = pytest.mark.workshop
Copy = Callable[..., Path]


def test_a_bundle_gives_its_head_and_affine(workshop: Path) -> None:
    bundle = open_bundle(workshop / "bundle")
    assert {name: array.shape for name, array in bundle.initial_head().items()} == head_shapes(16, 10)
    mean, scale = bundle.feature_affine()
    assert mean.shape == scale.shape == (16,)
    assert (scale > 0).all()
    assert bundle.bundle_id == bundle.manifest.bundle_id


def test_the_arrays_of_a_bundle_belong_to_the_caller(workshop: Path) -> None:
    bundle = open_bundle(workshop / "bundle")
    bundle.initial_head()["out_kernel"][:] = 99.0
    assert not (bundle.initial_head()["out_kernel"] == 99.0).any()


@pytest.mark.parametrize("name", ["backbone.tflite", "head.tflite", "initial.npz"])
def test_a_changed_byte_in_any_file_is_found(damaged: Copy, name: str) -> None:
    path = damaged()
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name}: has SHA-256"):
        open_bundle(path)


@pytest.mark.parametrize("name", ["backbone.tflite", "head.tflite", "initial.npz"])
def test_a_truncated_or_missing_file_is_found(damaged: Copy, name: str) -> None:
    path = damaged()
    (path / name).write_bytes((path / name).read_bytes()[:-7])
    with pytest.raises(IntegrityError, match=f"{name}: has .* bytes, the manifest says"):
        open_bundle(path)
    (path / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name}: is missing"):
        open_bundle(path)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such bundle folder"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r"is no bundle: manifest\.json cannot be read"):
        open_bundle(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file, not a bundle folder"):
        open_bundle(tmp_path / "file")


def test_a_changed_manifest_changes_the_identity_or_is_refused(damaged: Copy) -> None:
    path = damaged()
    before = open_bundle(path).bundle_id
    fields = json.loads((path / "manifest.json").read_text())
    fields["preprocessing"]["add"] = 0.5
    (path / "manifest.json").write_text(json.dumps(fields))
    assert open_bundle(path).bundle_id != before
    (path / "manifest.json").write_text(json.dumps(fields)[:-20])
    with pytest.raises(ModelError, match=r"manifest\.json"):
        open_bundle(path)


def test_starting_values_are_never_unpickled_and_never_larger_than_declared(tmp_path: Path) -> None:
    shapes = head_shapes(4, 2)
    good = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "objects.npz", **{**good, "out_bias": np.array([{}, {}], object)})
    with pytest.raises(ModelError, match=r"objects\.npz"):
        read_tree(tmp_path / "objects.npz", shapes)
    np.savez_compressed(tmp_path / "bomb.npz", **{**good, "out_bias": np.zeros(10_000_000)})
    with pytest.raises(ModelError, match="larger than the head declares"):
        read_tree(tmp_path / "bomb.npz", shapes)
    np.savez(tmp_path / "short.npz", out_bias=good["out_bias"])
    with pytest.raises(ShapeError, match="lacks out_kernel"):
        read_tree(tmp_path / "short.npz", shapes)
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.npz"):
        read_tree(tmp_path / "text.npz", shapes)


def test_noise_in_starting_values_is_an_error_and_no_crash(workshop: Path, tmp_path: Path) -> None:
    content = (workshop / "bundle" / "initial.npz").read_bytes()
    shapes = {**head_shapes(16, 10), "feature_mean": (16,), "feature_scale": (16,)}
    rng = np.random.default_rng(0)
    for _ in range(60):
        noisy = bytearray(content)
        for place in rng.integers(0, len(noisy), 4):
            noisy[place] = int(rng.integers(256))
        (tmp_path / "noisy.npz").write_bytes(noisy[: int(rng.integers(1, len(noisy)))] if rng.random() < 0.3 else noisy)
        try:
            read_tree(tmp_path / "noisy.npz", shapes)
        except EdgejouleError as error:
            assert "noisy.npz" in str(error)  # noqa: PT017
