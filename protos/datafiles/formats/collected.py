"""A store of examples that grows: one file for each, and an index of lines that says what each is.

    STORE/examples.lines        {"name": "0000000012-9f86d081", "file": "0000000012-9f86d081.npy", "label": "cat", ...}
    STORE/raw/                  FILE of each: raw values as .npy (uint8 or float32), or an image file
    STORE/inbox/                what people and programs put there, by folders of labels

Lines are appended; the newest of a name counts, and one with `dropped` ends it. A line that a power cut tore counts for
nothing. `edge_runtime/data/store.py` writes; here it is read as data. Examples without a label wait for one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Tally
from protos.datafiles.classes import renumber
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.formats.npy import array_at, described
from protos.datafiles.formats.pixels import Opener
from protos.datafiles.lazy import FileRows, Known, stamp_of
from protos.datafiles.renames import composed
from protos.datafiles.rows import kept_dtype
from protos.datafiles.stored import Rows, StoredRows
from protos.errors import DataError, EmptyShardError, ShapeError
from protos.progress import progressed

__all__ = ["INBOX", "INDEX", "RAW", "Entry", "entries", "is_store", "read"]

INDEX, RAW, INBOX = "examples.lines", "raw", "inbox"
NPY = ".npy"


@dataclass(frozen=True)
class Entry:
    """One example.

    Attributes:
        sequence: counts what was ever added, from 1.
        label: the name of its class; None while it waits for one.
        held_out: it is never trained on.
        sha256: of the file.
        size_bytes: likewise.
        unix_s: when it was added, for people.
        age_s: when, on the store's own clock, which no jump of the board's moves: see ``edge_runtime/data/store.py``.
    """

    name: str
    file: str
    sequence: int
    label: str | None
    held_out: bool
    sha256: str
    size_bytes: int
    unix_s: float
    age_s: float


def is_store(folder: Path) -> bool:
    """Whether a folder is such a store."""
    return (folder / INDEX).is_file()


def entries(folder: Path) -> list[Entry]:
    """What is there, in the order in which it was added.

    Raises:
        DataError: the index cannot be read.
    """
    found: dict[str, Entry] = {}
    with reading(str(folder / INDEX), "an index of examples"), (folder / INDEX).open("rb") as file:
        for line in file:
            try:
                said = json.loads(line)
                name = str(said["name"])
                if said.get("dropped"):
                    found.pop(name, None)
                elif name in found:
                    found[name] = replace(found[name], label=said["label"])
                else:
                    found[name] = _entry(name, said)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
    return sorted(found.values(), key=lambda entry: entry.sequence)


def _entry(name: str, said: Mapping[str, Any]) -> Entry:
    label, file = said["label"], str(said["file"])
    if Path(file).name != file:
        raise ValueError("no plain file name")
    return Entry(
        name,
        file,
        int(said["sequence"]),
        None if label is None else str(label),
        bool(said["held_out"]),
        str(said["sha256"]),
        int(said["size_bytes"]),
        float(said["unix_s"]),
        float(said["age_s"]),
    )


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
    """Read the labelled examples; arguments and errors are those of :func:`protos.datafiles.formats.folder.read`.

    Returns:
        x, uint8 or float32 [M, ...], in their files, or [M, 0] of examples that are only listed; and the columns.
    """
    every = entries(folder)
    mine = [entry for entry in every if entry.label is not None]
    left_out = Tally()
    for entry in every:
        if entry.label is None:
            left_out.add("example that waits for a label", entry.name)
    if not mine:
        raise EmptyShardError(
            "holds no labelled example",
            where=str(folder),
            fix="add some: edge-runtime data add --store DIR --label NAME FILE",
        )
    stored = list(
        dict.fromkeys(composed(entry.label or "") for entry in sorted(mine, key=lambda entry: entry.label or ""))
    )
    number = {name: index for index, name in enumerate(stored)}
    y = np.array([number[composed(entry.label or "")] for entry in mine], np.int32)
    y, class_names = renumber(y, stored, classes, str(folder), renames, tolerant=tolerant)
    columns = Columns(y, np.array([entry.held_out for entry in mine], np.bool_), None, class_names, left_out.remarks())
    rows = choose(columns)
    kept = np.arange(len(y)) if rows is None else rows
    aside = Tally()
    for row in kept[y[kept] == NO_LABEL]:
        aside.add(f"of class {mine[row].label!r}, which the model has not", mine[row].name)
    kept = kept[y[kept] != NO_LABEL]
    if not decoded or image_shape is None or not len(kept):
        return np.empty((len(kept), 0), np.uint8), replace(columns.select(kept), set_aside=aside.remarks())
    opener = _StoreOpener(image_shape, folder)
    memory: Known = known if known is not None else _Nothing()
    stamps, readable = [], []
    for row in kept.tolist():
        progressed()
        path = folder / RAW / mine[row].file
        try:
            with reading(str(path), "an example"):
                stamp = stamp_of(path)
            look = memory.look_of(stamp) or opener.look(path)
            memory.keep_look(stamp, look)
            if look.startswith("bad: "):
                raise DataError(look.removeprefix("bad: "), where=str(path), fix="drop it: edge-runtime data drop")
        except DataError as error:
            if not tolerant:
                raise
            aside.add("example that cannot be read", f"{mine[row].name}: {error.what}"[:200])
            continue
        stamps.append(stamp)
        readable.append(row)
    memory.sync()
    chosen = np.array(readable, np.int64)
    source = FileRows([folder / RAW / mine[row].file for row in readable], stamps, opener, folder, memory)
    x = StoredRows(source, np.arange(len(readable), dtype=np.int64))
    return x, replace(columns.select(chosen), set_aside=aside.remarks())


class _StoreOpener:
    """Raw values and images alike, in the shape of the model."""

    def __init__(self, shape: Sequence[int], folder: Path) -> None:
        self.shape, self._folder = tuple(int(size) for size in shape), folder
        self._images: Opener | None = None

    def dtype_of(self, paths: Sequence[Path]) -> np.dtype[Any]:
        for path in paths:
            if path.suffix == NPY and described(path)[2] != np.uint8:
                return np.dtype(np.float32)
        return np.dtype(np.uint8)

    def look(self, path: Path) -> str:
        """As :meth:`protos.datafiles.formats.pixels.Opener.look`."""
        if path.suffix != NPY:
            return self._opener().look(path)
        try:
            found, _, dtype = described(path)
            kept_dtype(dtype, str(path))
        except (DataError, ShapeError) as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise
            return f"bad: {error.what}"
        if [size for size in found if size != 1] != [size for size in self.shape if size != 1]:
            return f"bad: shape {list(found)}, the model takes {list(self.shape)}"
        return "ok"

    def read(self, path: Path) -> NDArray[Any]:
        """Its values in the shape of the model."""
        if path.suffix != NPY:
            return self._opener().read(path)
        held = array_at(path)
        if held.size != math.prod(self.shape):
            raise DataError(f"shape {list(held.shape)}, the model takes {list(self.shape)}", where=str(path))
        return held.reshape(self.shape)

    def _opener(self) -> Opener:
        if self._images is None:
            self._images = Opener(self.shape, self._folder)
        return self._images


class _Nothing:
    """Remembers nothing: for who reads once."""

    def look_of(self, stamp: str) -> str | None:
        return None

    def keep_look(self, stamp: str, look: str) -> None:
        return None

    def key_of(self, stamp: str, shape: tuple[int, ...]) -> bytes | None:
        return None

    def keep_key(self, stamp: str, shape: tuple[int, ...], key: bytes) -> None:
        return None

    def sync(self) -> None:
        return None
