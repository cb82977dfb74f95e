"""A folder of images: one sub-folder per class, with `train/` and `test/` (or `val/`) above them or not.

Each image is cut to the aspect of the model's input around its centre, resized bilinearly and given the
model's channels. The orientation tag of a camera is not applied, as Keras does not apply it either.
Pillow is needed, and imported only here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.classes import composed, renumber
from protos.datafiles.columns import Choose, Columns, reading
from protos.errors import DataError, EmptyShardError, ShapeError

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
_SPLITS = {"train": False, "training": False, "test": True, "testing": True, "val": True, "validation": True}
_MODES = {1: "L", 3: "RGB"}


def read(
    folder: Path,
    choose: Choose,
    image_shape: Sequence[int] | None,
    classes: Sequence[str] | None,
    renames: Mapping[str, str] | None = None,
) -> tuple[NDArray[np.uint8], Columns]:
    """Read the chosen images.

    Args:
        folder: the folder above the class folders, or above `train/` and `test/`.
        choose: says which images to keep, before one is opened.
        image_shape: [height, width, channels] to make of every image; None keeps the size of the first
            image, which must then be the size of all.
        classes: class names of the model, by which folders are numbered; None numbers them by name.
        renames: names of folders to names of classes; None where the caller has no such option.

    Returns:
        x, uint8 [M, height, width, channels], and its columns.

    Raises:
        DataError: Pillow is missing, or an image cannot be decoded.
        ShapeError: sizes differ and no image_shape is given.
        LabelError: a folder that is no class of the model.
        EmptyShardError: no image at all.
    """
    paths, class_of, held_out = _list(folder)
    if not paths:
        raise EmptyShardError(
            "holds no image",
            where=str(folder),
            fix="make one sub-folder per class, with .jpg or .png images in it",
        )
    # In the order of the names as they are stored, as Keras numbers them; two spellings of one name are one class.
    stored = list(dict.fromkeys(composed(name) for name in sorted(set(class_of))))
    number = {name: index for index, name in enumerate(stored)}
    y = np.array([number[composed(name)] for name in class_of], np.int32)
    y, class_names = renumber(y, stored, classes, str(folder), renames)
    described = Columns(y, np.array(held_out, np.bool_), None, class_names)
    rows = choose(described)
    kept = paths if rows is None else [paths[row] for row in rows]
    x = _decode(kept, tuple(image_shape) if image_shape is not None else None, folder)
    return x, described if rows is None else described.select(rows)


def _list(folder: Path) -> tuple[list[Path], list[str], list[bool]]:
    below = _folders(folder)
    splits = [path for path in below if path.name.lower() in _SPLITS]
    # Only when nothing but splits lies above are they splits: a class may be called "test".
    roots = splits if splits and len(splits) == len(below) else [folder]
    paths: list[Path] = []
    class_of: list[str] = []
    held_out: list[bool] = []
    for root in roots:
        test = root is not folder and _SPLITS[root.name.lower()]
        for group in _folders(root):
            images = sorted(path for path in group.iterdir() if path.suffix.lower() in _IMAGES and path.is_file())
            paths += images
            class_of += [group.name] * len(images)
            held_out += [test] * len(images)
    return paths, class_of, held_out


def _folders(folder: Path) -> list[Path]:
    with reading(str(folder), "a folder of images"):
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pillow(folder: Path) -> ModuleType:
    try:
        from PIL import Image
    except ImportError as cause:
        raise DataError(
            "images need Pillow, which is not installed",
            where=str(folder),
            fix="pip install 'edgejoule[images]'",
        ) from cause
    return Image


def _decode(paths: list[Path], shape: tuple[int, ...] | None, folder: Path) -> NDArray[np.uint8]:
    pillow = _pillow(folder)
    if shape is not None and (len(shape) != 3 or shape[2] not in _MODES):
        raise ShapeError(
            f"images cannot be given the shape {list(shape)}",
            where=str(folder),
            fix="use a model with an input of [height, width, 1 or 3], or an npz file",
        )
    resize = shape is not None
    out: NDArray[np.uint8] | None = None if shape is None else np.empty((len(paths), *shape), np.uint8)
    for index, path in enumerate(paths):
        with reading(str(path), "an image"), warnings.catch_warnings():
            # Pillow warns of files that would unpack to huge pictures, and of odd metadata.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            try:
                with pillow.open(path) as image:
                    pixels = _pixels(pillow, image, shape if resize else None)
            except (pillow.DecompressionBombWarning, pillow.DecompressionBombError, SyntaxError) as cause:
                raise ValueError(str(cause)) from cause
        if out is None:
            out = np.empty((len(paths), *pixels.shape), np.uint8)
        if pixels.shape != out.shape[1:]:
            raise ShapeError(
                f"is {pixels.shape}, {paths[0].name} is {out.shape[1:]}",
                where=str(path),
                fix="make all images one size, or give the bundle so that they are resized to its input",
            )
        out[index] = pixels
    assert out is not None
    return out


def _pixels(pillow: ModuleType, image: Any, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    if shape is None:
        grey = image.mode in ("1", "L", "I;16", "LA")
        return np.asarray(image.convert("L" if grey else "RGB")).reshape(image.height, image.width, -1)
    height, width, channels = shape
    picture = image.convert(_MODES[channels])
    scale = min(picture.width / width, picture.height / height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (picture.width - wide) // 2, (picture.height - high) // 2
    picture = picture.crop((left, top, left + wide, top + high))
    picture = picture.resize((width, height), pillow.Resampling.BILINEAR)
    return np.asarray(picture).reshape(height, width, channels)
