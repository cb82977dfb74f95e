"""A checked twin becomes part of its bundle; at each moment the folder is the bundle of before or the one of after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from protos.atomic import write_whole
from protos.errors import ModelError, StoreError, UsageError
from protos.model.bundle import open_bundle, record_of
from protos.model.manifest import MANIFEST_FILE, Manifest


def refuse_if_unfit(path: Path, *, force: bool) -> None:
    """Return when a twin may be put into this bundle.

    Raises:
        UsageError: it is no folder, or has a twin and `force` is not given.
        ModelError, IntegrityError: it is no sound bundle.
    """
    if not path.is_dir():
        raise UsageError("--into-bundle needs a bundle", where=str(path), fix="name the bundle's folder")
    if open_bundle(path).manifest.edge_tpu is not None and not force:
        raise UsageError("has an Edge TPU twin already", where=str(path), fix="give --force to replace it")


def put_twin(path: Path, twin: Path, compiler_version: str | None) -> dict[str, Any]:
    """Copy a checked twin into a bundle and name it in the manifest, which is written last. A new bundle id follows.

    Returns:
        the bundle, its id now and before, the twin's name in it, and the compiler's version.

    Raises:
        ModelError, IntegrityError: it is no sound bundle.
        StoreError: it cannot be written.
    """
    before = open_bundle(path)
    old = before.manifest.edge_tpu
    try:
        data = twin.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read ({error.strerror})", where=str(twin)) from error
    name = f"{Path(before.manifest.backbone.file).stem}_edgetpu.tflite"
    if name in before.manifest.files:
        # A file that the manifest still names must not change before the manifest does.
        name = f"{Path(name).stem}-{before.bundle_id[-8:]}.tflite"
    try:
        with write_whole(path / name) as file:
            file.write(data)
        manifest = before.manifest.with_twin(name, record_of(path / name), _plain(compiler_version))
        with write_whole(path / MANIFEST_FILE) as file:
            file.write(manifest.to_json().encode())
        if old is not None:
            (path / old.file).unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"cannot be written ({error.strerror})", where=str(path)) from error
    return _facts(path, manifest, open_bundle(path).bundle_id, before.bundle_id)


def _facts(path: Path, manifest: Manifest, bundle_id: str, before: str) -> dict[str, Any]:
    assert manifest.edge_tpu is not None
    return {
        "path": str(path),
        "bundle_id": bundle_id,
        "bundle_id_before": before,
        "file": manifest.edge_tpu.file,
        "compiler_version": manifest.edge_tpu.compiler_version,
    }


def _plain(version: str | None) -> str | None:
    """A version as a manifest takes it; what the compiler prints is not ours."""
    return version if version is not None and version.replace(".", "").isalnum() and len(version) <= 100 else None
