"""Class folders: one sub-folder per class, with `train/` and `test/` (or `valid/`) above them or not.

Examples may lie deeper, as class/session/file. Whatever else is there is counted by kind, but for what operating
systems leave behind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protos.datafiles.account import Tally, printable
from protos.datafiles.formats.columns import reading
from protos.datafiles.renames import composed
from protos.errors import DataError, EmptyShardError, LabelError
from protos.progress import progressed

_SPLITS = {"train": False, "training": False}
_SPLITS |= dict.fromkeys(("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"), True)
# What macOS, Windows, Linux file systems and network storage leave in folders; names with a dot in front go as well.
# Hidden folders that are no class of anybody's; another one with images in it is told.
_HIDDEN = re.compile(r"\.(_.*|git|cache|idea|vscode|ipynb_checkpoints|thumbnails|trash.*|tmp.*|ds_store.*|spotlight.*)")
_LEAST_CLASSES = 2
_CLASS_AND_NAME = 2  # parts of a path below a folder of class folders
# What tools for detection draw over pictures.
_MASKS = {"mask", "masks", "labels", "annotations", "segmentation", "segmentations", "gt", "groundtruth"}
_FOLD = re.compile(r"(fold|split|part|batch|chunk|shard)[ _.-]*\d+", re.IGNORECASE)
_JUNK = {"__macosx", "@eadir", "lost+found", "thumbs.db", "desktop.ini", "$recycle.bin", "system volume information"}


@dataclass(frozen=True)
class Kind:
    """What is an example in class folders.

    Attributes:
        noun: of one of them, such as "image"; its plural has an s.
        is_one: whether a file's name ends as that of one does.
        pools: names, in small letters, of folders where all of them lie together, whatever their class.
    """

    noun: str
    is_one: Callable[[Path], bool]
    pools: frozenset[str]

    @property
    def article(self) -> str:
        """Of the noun."""
        return "an" if self.noun[0] in "aeiou" else "a"


class Search:
    """Every file of a kind below a folder with its class and split, and what is none.

    Args:
        folder: the folder above the class folders, or above `train/` and `test/`.
        kind: of the files that are examples.
        known: class names of the model, which no split or pool is taken for.

    Raises:
        DataError: a folder cannot be read.
    """

    def __init__(self, folder: Path, kind: Kind, known: set[str]) -> None:
        self._folder, self._kind, self._is_one = folder, kind, kind.is_one
        self._outside = f"{kind.noun} outside the class folders"
        self._of_a_split = f"{kind.noun} of a split without class folders"
        self._above = (folder.resolve(), *folder.resolve().parents)
        self._known = {composed(name).casefold() for name in known}
        self.paths: list[Path] = []
        self.class_of: list[str] = []
        self.held_out: list[bool] = []
        self.left_out = Tally()
        self._look(folder)

    def _look(self, root: Path) -> None:
        folders, files = entries(root)
        for path in _hidden(root, self._kind):
            self._leave(path, f"hidden folder with {self._kind.noun}s")
        for file in files:
            self._leave(file, self._outside if self._is_one(file) else None)
        # A class may be called "test": splits are folders of folders, and there is nothing else or one of either kind.
        splits = {path: test for path in folders if (test := self._split(path)) is not None}
        bare = [path for path in folders if path not in splits and self._is_unlabelled(path, splits)]
        if bare:
            for path in bare:
                for file in below(path, self._above):
                    self._leave(file, self._of_a_split if self._is_one(file) else None)
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
            not test and len(entries(other)[0]) >= _LEAST_CLASSES for other, test in splits.items()
        ):
            return False
        words = re.split(r"[-_. ]", re.sub(r"\d+$", "", path.name.lower()))
        folders, files = entries(path)
        return (
            not folders
            and any(_SPLITS.get(word, False) for word in words)
            and any(self._is_one(file) for file in files)
        )

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
        only = next(iter(names)) if len(names) == 1 else ""
        pool = only.casefold() in self._kind.pools or split_of(only) is not None
        if pool and composed(only).casefold() not in self._known:
            raise EmptyShardError(
                f"all {len(self.paths)} {self._kind.noun}s lie in one folder {only!r}, and nothing tells "
                "their class",
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
        if {split_of(name) for name in strange} == {True, False}:
            raise EmptyShardError(
                f"its folders ({listing}) are splits, and hold {self._kind.noun}s without class folders",
                where=str(folder), fix="make one sub-folder per class in each of them",
            )  # fmt: skip
        if strange <= self._kind.pools | _MASKS and strange & self._kind.pools and strange & _MASKS:
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
        folders, files = entries(root)
        if len(folders) == 1 and self._split(folders[0]) is test:  # train/train, as archives unpack
            self._classes(folders[0], test=test)
            folders = []
        for file in files:
            self._leave(file, self._outside if self._is_one(file) else None)
        for group in folders:
            self._group(group, test=test)

    def _group(self, group: Path, *, test: bool) -> None:
        before = len(self.paths)
        # class/train/file and class/test/file, where both are there.
        splits = {path: split_of(path.name) for path in entries(group)[0]}
        apart = [path for path, held_out in splits.items() if held_out] if False in splits.values() else []
        for file in below(group, self._above):
            progressed()
            if file.is_dir():
                self._leave(file, "link to a folder above it")
            elif not self._is_one(file):
                self._leave(file, None)
            elif not file.is_file():
                self._leave(file, "broken link" if file.is_symlink() else "no plain file")
            else:
                self.paths.append(file)
                self.class_of.append(group.name)
                self.held_out.append(test or any(file.is_relative_to(path) for path in apart))
        if len(self.paths) == before:
            self._leave(group, f"class folder without {self._kind.article} {self._kind.noun}")

    def _split(self, path: Path) -> bool | None:
        """Whether a folder holds examples out, by the words in its name; None for no split."""
        words = re.split(r"[-_. ]", path.name.lower())
        kinds = {_SPLITS[word] for word in words if word in _SPLITS}
        if len(kinds) != 1 or self._is_class(path) or not (self._holds_only_folders(path) or entries(path) == ([], [])):
            return None
        return kinds.pop()

    def _is_class(self, path: Path) -> bool:
        return composed(path.name).casefold() in self._known

    def _holds_only_folders(self, path: Path) -> bool:
        folders, files = entries(path)
        return bool(folders) and not any(self._is_one(file) for file in files)

    def _leave(self, path: Path, kind: str | None) -> None:
        if kind is None and path.is_symlink() and not path.exists():
            kind = "broken link"
        self.left_out.add(kind or path.suffix.lower() or "file without an ending", str(path.relative_to(self._folder)))


def split_of(name: str) -> bool | None:
    """Whether a name says that what it names is held out, by its words; None where it names no split, or both.

    >>> split_of("valid"), split_of("my_train-1"), split_of("train_test"), split_of("latest"), split_of("val2017")
    (True, False, None, None, True)
    """
    words = (word.rstrip("0123456789") for word in re.split(r"[-_. ]", name.lower()))
    kinds = {_SPLITS[word] for word in words if word in _SPLITS}
    return kinds.pop() if len(kinds) == 1 else None


def is_left_behind(name: str) -> bool:
    """Whether a file or folder of this name is of the system, and no data."""
    return name.lower() in _JUNK


def entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """The sub-folders and the files of a folder, each by name, without what systems leave behind."""
    with reading(str(folder), "a folder of examples"):
        mine = sorted(
            path for path in folder.iterdir() if not path.name.startswith(".") and not is_left_behind(path.name)
        )
        folders = [path for path in mine if path.is_dir()]
    return folders, [path for path in mine if path not in set(folders)]


def _hidden(folder: Path, kind: Kind) -> list[Path]:
    """Hidden folders beside the class folders that hold examples, and are none that tools make."""
    with reading(str(folder), "a folder of examples"):
        mine = [path for path in sorted(folder.iterdir()) if path.name.startswith(".") and path.is_dir()]
        mine = [path for path in mine if not _HIDDEN.fullmatch(path.name.lower())]
    return [path for path in mine if _holds_one(path, kind)]


def _holds_one(folder: Path, kind: Kind) -> bool:
    try:
        return any(kind.is_one(path) for path in folder.iterdir())
    except OSError:  # nobody asked for it
        return False


def below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder; a link to a folder above it is not followed, and given itself.

    A link to the folder of all classes would give each picture every label.
    """
    real = folder.resolve()
    if real in above:
        yield folder
        return
    folders, files = entries(folder)
    yield from files
    for path in folders:
        yield from below(path, (*above, real))
