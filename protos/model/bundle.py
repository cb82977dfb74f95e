"""A bundle on disk: a folder with a manifest, an integer backbone, a trainable head and its starting values.

Nothing of a bundle is used before its size and SHA-256 are what the manifest declares. The hash says that the
bytes are the declared ones; whether they are good is for `protos.model.engine.try_in_subprocess`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from protos.errors import IntegrityError, ModelError
from protos.model.head_algebra import Array, Tree, check_tree
from protos.model.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, FileRecord, Manifest

MEAN, SCALE = "feature_mean", "feature_scale"
GRAM, BY_CLASS = "gram", "by_class"
TARGET_MEAN, TARGET_SCALE = "target_mean", "target_scale"
# What the .npy header of a small array takes, generously.
_HEADER_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Bundle:
    """An opened bundle: its files had the declared hashes when `open_bundle` returned it."""

    path: Path
    manifest: Manifest
    bundle_id: str

    @property
    def backbone_path(self) -> Path:
        """The integer backbone, a .tflite file."""
        return self.path / self.manifest.backbone.file

    @property
    def head_path(self) -> Path:
        """The trainable head, a .tflite file."""
        return self.path / self.manifest.head.file

    @property
    def initial_path(self) -> Path:
        """Starting values and feature standardisation, an .npz file."""
        return self.path / self.manifest.head.initial_file

    @property
    def tail_path(self) -> Path | None:
        """The layers between backbone and head, a float .tflite; None where there are none."""
        tail = self.manifest.head.tail
        return None if tail is None else self.path / tail.file

    @property
    def twin_path(self) -> Path | None:
        """The backbone for the Edge TPU, a .tflite file; None when there is none, or it was left out of this copy."""
        twin = self.manifest.edge_tpu
        path = None if twin is None else self.path / twin.file
        return path if path is not None and path.is_file() else None

    def initial_head(self) -> Tree:
        """The head before the first round, in standardised space; the arrays belong to the caller."""
        return {name: self._initial[name].copy() for name in self.manifest.head.shapes()}

    def feature_affine(self) -> tuple[Array, Array]:
        """Mean and scale, float32 [D]: the head sees ``(embedding - mean) * scale``; see `head_algebra`. Of a bundle
        with a tail: of the features that it makes."""
        return self._initial[MEAN].copy(), self._initial[SCALE].copy()

    def target_affine(self) -> tuple[Array, Array]:
        """Mean and scale of a regression's quantities, float32 [K]: a quantity is ``output * scale + mean``, so that
        those of unlike units weigh alike; zeros and ones for other tasks."""
        if TARGET_MEAN not in self._initial:
            return np.zeros(self.manifest.outputs, np.float32), np.ones(self.manifest.outputs, np.float32)
        return self._initial[TARGET_MEAN].copy(), self._initial[TARGET_SCALE].copy()

    def class_sums(self) -> Tree | None:
        """Sums over the standardised features, with a one added, of the examples that the bundle was made with: "gram"
        [D + 1, D + 1] of x x^T and "by_class" [K, D + 1] of x; None where the bundle has none.

        Raises:
            ModelError: not a readable file of sums, or sums that no examples have.
            ShapeError, NonFiniteError: other arrays than these.
        """
        file, wide = self.manifest.head.sums_file, self.manifest.features + 1
        if file is None:
            return None
        sums = read_tree(self.path / file, {GRAM: (wide, wide), BY_CLASS: (len(self.manifest.classes), wide)})
        counts = sums[BY_CLASS][:, -1]
        if not (counts >= 0).all() or counts.sum() < 1 or not np.isclose(counts.sum(), sums[GRAM][-1, -1], rtol=1e-4):
            raise ModelError("its counts of examples are not those of any", where=str(self.path / file),
                             fix="make the bundle again")  # fmt: skip
        return sums

    @functools.cached_property
    def _initial(self) -> Tree:
        width, quantities = self.manifest.features, self.manifest.quantities
        shapes = {**self.manifest.head.shapes(), MEAN: (width,), SCALE: (width,)}
        if quantities is not None:
            shapes |= {TARGET_MEAN: (quantities,), TARGET_SCALE: (quantities,)}
        return read_tree(self.initial_path, shapes)


def read_tree(path: Path, shapes: dict[str, tuple[int, ...]]) -> Tree:
    """Read float32 arrays of known names and shapes from an .npz file; never unpickles, never over-allocates.

    Raises:
        ModelError: not an .npz file, or an array in it is larger than its shape allows.
        ShapeError, NonFiniteError: other arrays than declared.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {entry.filename.removesuffix(".npy"): entry.file_size for entry in archive.infolist()}
        for name, size in members.items():
            if size > 8 * int(np.prod(shapes.get(name, (1,)))) + _HEADER_BYTES:
                raise ModelError(f"array {name[:80]!r} is larger than the head declares", where=path.name)
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"not a readable .npz file ({type(error).__name__})", where=path.name) from error
    return check_tree(arrays, shapes, where=path.name)


def record_of(path: Path) -> FileRecord:
    """Hash and size of a file, read once in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return FileRecord(digest.hexdigest(), size)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of a bundle folder, without looking at the other files.

    Raises:
        ModelError: no folder, no manifest in it, or a malformed one.
    """
    if not path.is_dir():
        what = "is a file, not a bundle folder" if path.exists() else "no such bundle folder"
        raise ModelError(what, where=str(path), fix="make one with: firmware-tools convert MODEL -o BUNDLE/")
    try:
        with (path / MANIFEST_FILE).open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelError(f"is no bundle: {MANIFEST_FILE} cannot be read ({error.strerror})", where=str(path)) from error
    try:
        return Manifest.from_json(text)
    except ModelError as error:
        raise ModelError(error.what, where=str(path / MANIFEST_FILE), fix=error.fix) from error


def check_files(path: Path, manifest: Manifest, *, twin_may_lack: bool = False) -> None:
    """Compare every file of a bundle with its record.

    Args:
        twin_may_lack: the Edge TPU twin need not be there; when it is, it is compared.

    Raises:
        IntegrityError: a file is missing, or its length or hash is not the declared one.
    """
    for name, declared in sorted(manifest.files.items()):
        file = path / name
        try:
            size = file.stat().st_size if file.is_file() else None
            found = record_of(file) if size == declared.size_bytes else None
        except OSError as error:
            raise IntegrityError(f"cannot be read ({error.strerror})", where=str(file)) from error
        if size is None and twin_may_lack and manifest.edge_tpu is not None and name == manifest.edge_tpu.file:
            continue
        if size is None:
            raise IntegrityError("is missing from the bundle", where=str(file), fix="copy the bundle again")
        if found is None:
            raise IntegrityError(
                f"has {size} bytes, the manifest says {declared.size_bytes}",
                where=str(file),
                fix="copy the bundle again",
            )
        if found != declared:
            raise IntegrityError(
                f"has SHA-256 {found.sha256[:12]}..., the manifest says {declared.sha256[:12]}...",
                where=str(file), fix="copy the bundle again",
            )  # fmt: skip


def open_bundle(path: str | Path, *, twin_may_lack: bool = False) -> Bundle:
    """Open a bundle folder and check every file of it.

    Args:
        twin_may_lack: as in `check_files`: a device that does not need the twin does not fetch it.

    Raises:
        ModelError: the folder, its manifest or its starting values are not what they should be.
        IntegrityError: a file is missing or changed.
        ShapeError, NonFiniteError: the starting values do not fit the head.
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    check_files(folder, manifest, twin_may_lack=twin_may_lack)
    bundle = Bundle(folder, manifest, manifest.bundle_id)
    _, scale = bundle.feature_affine()
    if not (scale > 0).all() or not (bundle.target_affine()[1] > 0).all():
        raise ModelError("a scale is not positive", where=str(bundle.initial_path))
    return bundle
