"""A folder of images: one sub-folder per class, with `train/` and `test/` (or `valid/`) above them or not.

Images may lie deeper, as class/session/image. Whatever else is there is counted by kind, but for what operating systems
leave behind. `pixels` says what becomes of an image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from protos.datafiles.account import Remark, Tally, listed, printable
from protos.datafiles.classes import renumber
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.formats.pixels import Opener, decode
from protos.datafiles.lazy import FileRows, Known, stamp_of
from protos.datafiles.renames import composed
from protos.datafiles.stored import Rows, StoredRows
from protos.errors import DataError, EmptyShardError, LabelError
from protos.progress import progressed

_IMAGES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".gif", ".bmp", ".dib", ".ppm", ".pgm",
    ".pbm", ".pnm", ".webp", ".tif", ".tiff", ".avif", ".jp2",
}  # fmt: skip
_SPLITS = {"train": False, "training": False}
_SPLITS |= dict.fromkeys(("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"), True)
# What macOS, Windows, Linux file systems and network storage leave in folders; names with a dot in front go as well.
# Hidden folders that are no class of anybody's; another one with images in it is told.
_HIDDEN = re.compile(r"\.(_.*|git|cache|idea|vscode|ipynb_checkpoints|thumbnails|trash.*|tmp.*|ds_store.*|spotlight.*)")
_LEAST_CLASSES = 2
_CLASS_AND_NAME = 2  # parts of a path below a folder of class folders
# Where tools for detection keep all pictures, whatever is on them, and what is drawn over them.
_POOLS = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}
_MASKS = {"mask", "masks", "labels", "annotations", "segmentation", "segmentations", "gt", "groundtruth"}
_FOLD = re.compile(r"(fold|split|part|batch|chunk|shard)[ _.-]*\d+", re.IGNORECASE)
_JUNK = {"__macosx", "@eadir", "lost+found", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}


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
    found = _Search(folder, {*(classes or ()), *(renames or {})})
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


class _Search:
    """Every image below a folder with its class and split, and what is no image."""

    def __init__(self, folder: Path, known: set[str]) -> None:
        self._folder = folder
        self._above = (folder.resolve(), *folder.resolve().parents)
        self._known = {composed(name).casefold() for name in known}
        self.paths: list[Path] = []
        self.class_of: list[str] = []
        self.held_out: list[bool] = []
        self.left_out = Tally()
        self._look(folder)

    def _look(self, root: Path) -> None:
        folders, files = _entries(root)
        for path in _hidden(root):
            self._leave(path, "hidden folder with images")
        for file in files:
            self._leave(file, "image outside the class folders" if is_image(file) else None)
        # A class may be called "test": splits are folders of folders, and there is nothing else or one of either kind.
        splits = {path: test for path in folders if (test := self._split(path)) is not None}
        bare = [path for path in folders if path not in splits and self._is_unlabelled(path, splits)]
        if bare:
            for path in bare:
                for file in _below(path, self._above):
                    self._leave(file, "image of a split without class folders" if is_image(file) else None)
            folders = [path for path in folders if path not in bare]
        if splits and (len(splits) == len(folders) or len(set(splits.values())) == 2):
            for path in folders:
                if path in splits:
                    self._classes(path, test=splits[path])
                else:
                    self._leave(path, "folder beside the splits")
        elif len(folders) == 1 and not self._is_class(folders[0]) and self._holds_only_folders(folders[0]):
            self._look(folders[0])
        else:
            for group in folders:
                self._group(group, test=False)

    def _is_unlabelled(self, path: Path, splits: Mapping[Path, bool]) -> bool:
        """Whether a folder is a split of pictures without labels, as contests hand them out: ``test/1.jpg`` beside
        ``train/cat`` and ``train/dog``."""
        if self._is_class(path) or not any(
            not test and len(_entries(other)[0]) >= _LEAST_CLASSES for other, test in splits.items()
        ):
            return False
        words = re.split(r"[-_. ]", re.sub(r"\d+$", "", path.name.lower()))
        folders, files = _entries(path)
        return not folders and any(_SPLITS.get(word, False) for word in words) and any(is_image(file) for file in files)

    def check_names(self, folder: Path, *, known: Sequence[str] | None) -> None:
        """Refuse folders that are no classes: all pictures in one pool, classes below folds, names that are no text.

        Raises:
            DataError: a name that is no UTF-8. EmptyShardError: a pool. LabelError: the classes lie deeper.
        """
        names = set(self.class_of)
        for name in sorted(names):
            if name != name.encode("utf-8", "replace").decode("utf-8"):
                raise DataError(f"the name of class folder '{printable(name)}' is no UTF-8", where=str(folder),
                                fix="rename it")  # fmt: skip
        if len(names) == 1 and next(iter(names)).casefold() in _POOLS - self._known:
            raise EmptyShardError(
                f"all {len(self.paths)} images lie in one folder {next(iter(names))!r}, and nothing tells their class",
                where=str(folder), fix="make one sub-folder per class; files of annotations are not read",
            )  # fmt: skip
        if known and not {composed(name).casefold() for name in names} & self._known:
            self._check_deeper(names, folder)
        self._check_kinds({name.casefold() for name in names} - self._known, names, folder)

    def _check_deeper(self, names: set[str], folder: Path) -> None:
        """Refuse folders that are none of the model's classes, where folders below them are."""
        below = {path.relative_to(folder).parts[-2]: name for path, name in zip(self.paths, self.class_of, strict=True)}
        deeper = [name for name in below if composed(name).casefold() in self._known]
        if deeper:
            raise LabelError(
                f"its folders ({', '.join(sorted(names)[:4])}) are no classes of the model, but folders below them are "
                f"({', '.join(sorted(deeper)[:4])})", where=str(folder),
                fix="give one of them, or put the class folders together",
            )  # fmt: skip

    def _check_kinds(self, strange: set[str], names: set[str], folder: Path) -> None:
        """Refuse folders whose names say that they are no classes, unless the model has classes called so."""
        if len(strange) < len(names) or len(names) < _LEAST_CLASSES:
            return
        listing = ", ".join(sorted(names)[:4])
        kinds = {_SPLITS[name] for name in strange if name in _SPLITS}
        if len(kinds) == 2 and strange <= set(_SPLITS):
            raise EmptyShardError(
                f"its folders ({listing}) are splits, and hold images without class folders", where=str(folder),
                fix="make one sub-folder per class in each of them",
            )  # fmt: skip
        if strange <= _POOLS | _MASKS and strange & _POOLS and strange & _MASKS:
            raise EmptyShardError(
                f"its folders ({listing}) are pictures and what is drawn over them, no classes", where=str(folder),
                fix="make one sub-folder per class; files of annotations are not read",
            )  # fmt: skip
        deep = all(len(path.relative_to(folder).parts) > _CLASS_AND_NAME for path in self.paths)
        if deep and all(_FOLD.fullmatch(name) for name in strange):
            below = sorted({path.parent.name for path in self.paths})
            raise LabelError(
                f"its folders ({listing}) are parts of the data, and the classes lie below them "
                f"({', '.join(below[:4])})", where=str(folder),
                fix="give one of them, or put the class folders together",
            )  # fmt: skip

    def _classes(self, root: Path, *, test: bool) -> None:
        folders, files = _entries(root)
        if len(folders) == 1 and self._split(folders[0]) is test:  # train/train, as archives unpack
            self._classes(folders[0], test=test)
            folders = []
        for file in files:
            self._leave(file, "image outside the class folders" if is_image(file) else None)
        for group in folders:
            self._group(group, test=test)

    def _group(self, group: Path, *, test: bool) -> None:
        before = len(self.paths)
        for file in _below(group, self._above):
            progressed()
            if file.is_dir():
                self._leave(file, "link to a folder above it")
            elif not is_image(file):
                self._leave(file, None)
            elif not file.is_file():
                self._leave(file, "broken link" if file.is_symlink() else "no plain file")
            else:
                self.paths.append(file)
                self.class_of.append(group.name)
                self.held_out.append(test)
        if len(self.paths) == before:
            self._leave(group, "class folder without an image")

    def _split(self, path: Path) -> bool | None:
        """Whether a folder holds examples out, by the words in its name; None for no split."""
        words = re.split(r"[-_. ]", path.name.lower())
        kinds = {_SPLITS[word] for word in words if word in _SPLITS}
        if (
            len(kinds) != 1
            or self._is_class(path)
            or not (self._holds_only_folders(path) or _entries(path) == ([], []))
        ):
            return None
        return kinds.pop()

    def _is_class(self, path: Path) -> bool:
        return composed(path.name).casefold() in self._known

    def _holds_only_folders(self, path: Path) -> bool:
        folders, files = _entries(path)
        return bool(folders) and not any(is_image(file) for file in files)

    def _leave(self, path: Path, kind: str | None) -> None:
        if kind is None and path.is_symlink() and not path.exists():
            kind = "broken link"
        self.left_out.add(kind or path.suffix.lower() or "file without an ending", str(path.relative_to(self._folder)))


def is_image(path: Path) -> bool:
    """Whether a name ends as that of an image does."""
    return path.suffix.lower() in _IMAGES


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is of the system, and no data."""
    return name.lower() in _JUNK


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the files of a folder, each by name, without what systems leave behind."""
    with reading(str(folder), "a folder of images"):
        mine = sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and not is_left_behind(path.name)
        )
        folders = [path for path in mine if path.is_dir()]
    return folders, [path for path in mine if path not in set(folders)]


def _hidden(folder: Path) -> list[Path]:
    """Hidden folders beside the class folders that hold images, and are none that tools make."""
    with reading(str(folder), "a folder of images"):
        mine = [path for path in sorted(folder.iterdir()) if path.name.startswith(".") and path.is_dir()]
        mine = [path for path in mine if not _HIDDEN.fullmatch(path.name.lower())]
    return [path for path in mine if _holds_an_image(path)]


def _holds_an_image(folder: Path) -> bool:
    try:
        return any(is_image(path) for path in folder.iterdir())
    except OSError:  # nobody asked for it
        return False


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """All files below a folder; a link to a folder above it is not followed, and given itself.

    A link to the folder of all classes would give each picture every label.
    """
    real = folder.resolve()
    if real in above:
        yield folder
        return
    folders, files = _entries(folder)
    yield from files
    for path in folders:
        yield from _below(path, (*above, real))
