"""A trained denoiser on its way from the coordinator to where it is sampled: one .npz file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from protos.errors import ModelError
from protos.model.bundle import MEAN, SCALE, Bundle
from protos.model.head_algebra import Array, Tree, check_tree
from protos.model.head_kinds import diffusion

_ABOUT, _SCHEMA = "about", "edgejoule.denoiser/1"
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Denoiser:
    """What makes embeddings of new examples.

    Attributes:
        tree: the head; mean, scale: float32 [D], of the features; classes: their names.
    """

    tree: Tree
    mean: Array
    scale: Array
    classes: tuple[str, ...]

    @classmethod
    def of(cls, bundle: Bundle, tree: Mapping[str, npt.ArrayLike]) -> Denoiser:
        """A head of this bundle.

        Raises:
            ShapeError, NonFiniteError: it is none.
        """
        checked = check_tree(tree, bundle.manifest.head.shapes(), where="head")
        return cls(checked, *bundle.feature_affine(), bundle.manifest.classes)

    def embeddings(self, classes: npt.NDArray[np.int32], *, seed: int) -> Array:
        """Embeddings [N, D] of new examples of these classes [N].

        Raises:
            ModelError: numbers of the head are so large that what comes is not finite.
        """
        try:
            with np.errstate(over="raise", invalid="raise"):
                latents = diffusion.sample(self.tree, classes, seed=seed)
                made = diffusion.embeddings_of(latents, self.mean, self.scale)
        except FloatingPointError as error:
            raise ModelError(f"its numbers are too large to sample with ({error})", where="denoiser",
                             fix="take an earlier head, and train with a lower rate") from error  # fmt: skip
        return made

    def to_bytes(self) -> bytes:
        """The file."""
        about = json.dumps({"schema": _SCHEMA, "classes": self.classes}).encode()
        arrays: dict[str, npt.NDArray[Any]] = {
            **self.tree,
            _ABOUT: np.frombuffer(about, np.uint8),
            MEAN: self.mean,
            SCALE: self.scale,
        }
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, **arrays)
        return stream.getvalue()

    @staticmethod
    def from_file(path: Path) -> Denoiser:
        """Read one.

        Raises:
            ModelError: it is none.
            ShapeError, NonFiniteError: its tensors do not fit together.
        """
        where, fix = str(path), "make one with: coordinator export RUN -o denoiser.npz"
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                    raise ModelError(f"is larger than {_MOST_BYTES} bytes", where=where)
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            about = json.loads(arrays.pop(_ABOUT).tobytes())
            if about["schema"] != _SCHEMA:
                raise ModelError(f"is {about['schema']!r}, this version reads {_SCHEMA!r}", where=where)
            classes = tuple(str(class_name) for class_name in about["classes"])
            width, hidden = arrays["hidden_kernel"].shape
            if not classes:
                raise ModelError("knows no class", where=where, fix=fix)
        except ModelError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(f"is no denoiser ({type(error).__name__})", where=where, fix=fix) from error
        shapes = {**diffusion.denoiser_shapes(width, len(classes), hidden), MEAN: (width,), SCALE: (width,)}
        tree = check_tree(arrays, shapes, where=where)
        mean, scale = tree.pop(MEAN), tree.pop(SCALE)
        if not (scale > 0).all():
            raise ModelError("a scale is not positive", where=where)
        return Denoiser(tree, mean, scale, classes)
