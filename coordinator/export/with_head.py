"""The bundle of a run with one of its heads as the one that training starts from: a bundle like any other."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from typing import Any

import numpy as np

from coordinator.export.job import ExportJob, unjudged
from coordinator.operator.status import ExportSummary
from coordinator.store.models.bundle_store import BundleStore
from protos.errors import StoreError
from protos.model.bundle import MEAN, SCALE, TARGET_MEAN, TARGET_SCALE, Bundle
from protos.model.head_algebra import check_tree
from protos.model.manifest import MANIFEST_FILE, FileRecord
from protos.model.task import REGRESSION

__all__ = ["NOTE", "bundle_with_head"]

NOTE = "a bundle that starts from this head, not signed: "
# Of every file in the archive: the same head gives the same bytes.
_AT = (1980, 1, 1, 0, 0, 0)


def bundle_with_head(job: ExportJob, bundles: BundleStore) -> tuple[ExportSummary, bytes]:
    """A ``.zip`` of the bundle's files, stored: backbone, trainable head, tail and Edge TPU twin as they are, starting
    values and manifest new. Standardisation stays, since the head was trained behind it.

    Raises:
        UnknownRunError: the bundle is not here any more.
        ShapeError, NonFiniteError: the head does not fit it.
        StoreError: it cannot be read.
    """
    bundle = bundles.open(job.bundle_id)
    initial = _initial(bundle, job)
    record = FileRecord(hashlib.sha256(initial).hexdigest(), len(initial))
    name = bundle.manifest.head.initial_file
    manifest = dataclasses.replace(
        bundle.manifest,
        files={**bundle.manifest.files, name: record},
        provenance={
            **bundle.manifest.provenance,
            "starting_head": {"run": job.run_id, "version": job.head_version, "of_bundle": bundle.bundle_id},
        },
    )
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(MANIFEST_FILE, _AT), manifest.to_json())
            for file in sorted(manifest.files):
                content = initial if file == name else (bundle.path / file).read_bytes()
                archive.writestr(zipfile.ZipInfo(file, _AT), content)
    except OSError as error:
        raise StoreError(f"cannot be read ({error.strerror})", where=str(bundle.path)) from error
    content = made.getvalue()
    return unjudged(job, content, NOTE + manifest.bundle_id), content


def _initial(bundle: Bundle, job: ExportJob) -> bytes:
    """Starting values and standardisation as an ``.npz``."""
    mean, scale = bundle.feature_affine()
    arrays: dict[str, Any] = dict(check_tree(job.head, bundle.manifest.head.shapes(), where=job.run_id))
    arrays |= {MEAN: mean, SCALE: scale}
    if bundle.manifest.task == REGRESSION:
        arrays[TARGET_MEAN], arrays[TARGET_SCALE] = bundle.target_affine()
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()
