"""A folder of images by class: `class_folders` finds them, and `pixels` says what becomes of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from protos.datafiles.account import Remark, Tally, listed
from protos.datafiles.classes import renumber
from protos.datafiles.formats.class_folders import Kind, Search
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.formats.pixels import Opener, decode
from protos.datafiles.lazy import FileRows, Known, stamp_of
from protos.datafiles.renames import composed
from protos.datafiles.stored import Rows, StoredRows
from protos.errors import DataError, EmptyShardError
from protos.progress import progressed

_IMAGES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".gif", ".bmp", ".dib", ".ppm", ".pgm",
    ".pbm", ".pnm", ".webp", ".tif", ".tiff", ".avif", ".jp2",
}  # fmt: skip
# Where tools for detection keep all pictures, whatever is on them.
_POOLS = frozenset({"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"})


def read(
    folder: Path,
    choose: Choose,
    image_shape: Sequence[int] | None,
    classes: Sequence[str] | None,
    renames: Mapping[str, str] | None = None,
    *,
    tolerant: bool = False,
    decoded: bool = True,
    known: Known | None = None,
) -> tuple[Rows, Columns]:
    """Read the chosen images.

    Args:
        folder: the folder above the class folders, or above `train/` and `test/`.
        choose: says which images to keep, before one is opened.
        image_shape: [height, width, channels] to make of every image; None keeps the size of the first
            image, which must then be the size of all.
        classes: class names of the model, by which folders are numbered; None numbers them by name.
        renames: names of folders to names of classes; None where the caller has no such option.
        tolerant: images that cannot be read, or lie in a folder that is no class, are set aside and counted.
        decoded: False lists the images and opens none of them.
        known: what is remembered of files: images stay in theirs then, and are decoded when they are read. None, or
            images of more than 8 bits, whose scale all of them tell: all are decoded here.

    Returns:
        x, uint8 [M, height, width, channels], or [M, 0] of images that are only listed; and its columns.

    Raises:
        DataError: Pillow is missing, or a folder or an image cannot be read.
        ShapeError: sizes differ and no image_shape is given.
        LabelError: a folder that is no class of the model.
        EmptyShardError: no image at all.
    """
    found = Search(folder, KIND, {*(classes or ()), *(renames or {})})
    if not found.paths:
        seen = listed(found.left_out.remarks())
        raise EmptyShardError(
            f"holds no image{f' in a class folder; it holds {seen}' if seen else ''}",
            where=str(folder),
            fix="make one sub-folder per class, with .jpg or .png images in it",
        )
    found.check_names(folder, known=classes)
    # In the order of the names as they are stored, as Keras numbers them; two spellings of one name are one class.
    stored = list(dict.fromkeys(composed(name) for name in sorted(set(found.class_of))))
    number = {name: index for index, name in enumerate(stored)}
    y = np.array([number[composed(name)] for name in found.class_of], np.int32)
    y, class_names = renumber(y, stored, classes, str(folder), renames, tolerant=tolerant)
    described = Columns(y, np.array(found.held_out, np.bool_), None, class_names, found.left_out.remarks())
    rows = choose(described)
    kept = np.arange(len(y)) if rows is None else rows
    aside = Tally()
    for row in kept[y[kept] == NO_LABEL]:
        kind = f"of class {found.class_of[row]!r}, which the model has not"
        aside.add(kind, str(found.paths[row].relative_to(folder)))
    kept = kept[y[kept] != NO_LABEL]
    changed: tuple[Remark, ...] = ()
    x: Rows
    lazy = None if known is None or not decoded or image_shape is None else _left_in_files(
        folder, [found.paths[row] for row in kept], image_shape, aside if tolerant else None, known
    )  # fmt: skip
    if lazy is not None:
        x, changed, readable = lazy
        kept = kept[readable]
    elif decoded and len(kept):
        x, changed, readable = decode(
            [found.paths[row] for row in kept], image_shape, folder, aside if tolerant else None
        )
        kept = kept[readable]
    else:
        x = np.empty((len(kept), 0), np.uint8)
    return x, replace(described.select(kept), changed=changed, set_aside=aside.remarks())


def _left_in_files(
    folder: Path, paths: Sequence[Path], shape: Sequence[int], aside: Tally | None, known: Known
) -> tuple[StoredRows, tuple[Remark, ...], list[int]] | None:
    """Rows that are decoded when they are read, what will be changed, and which of the images can be read, as far as
    their headers say; None where one has more than 8 bits."""
    opener = Opener(shape, folder)
    stamps, readable, changed = [], [], Tally()
    for index, path in enumerate(paths):
        progressed()
        name = str(path.relative_to(folder))
        try:
            with reading(str(path), "an image"):
                stamp = stamp_of(path)
            look = known.look_of(stamp)
            if look is None:
                look = opener.look(path)
                known.keep_look(stamp, look)
        except DataError as error:
            if aside is None:
                raise
            aside.add("image that cannot be read", f"{name}: {error.what}"[:200])
            continue
        if look == "deep":
            return None
        if look.startswith("bad: "):
            if aside is None:
                raise DataError(look.removeprefix("bad: "), where=str(path), fix="copy or make the file again")
            aside.add("image that cannot be read", f"{name}: {look.removeprefix('bad: ')}"[:200])
            continue
        for kind in look.split("|")[1:]:
            changed.add(kind, name)
        stamps.append(stamp)
        readable.append(index)
    known.sync()
    source = FileRows([paths[index] for index in readable], stamps, opener, folder, known)
    return StoredRows(source, np.arange(len(readable), dtype=np.int64)), changed.remarks(), readable


def is_image(path: Path) -> bool:
    """Whether a name ends as that of an image does."""
    return path.suffix.lower() in _IMAGES


KIND = Kind("image", is_image, _POOLS)
"""Of folders of images."""
