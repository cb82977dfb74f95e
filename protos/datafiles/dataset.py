"""Local examples: what a device trains on and what a coordinator evaluates on, from whatever file they are in.

>>> data = Dataset(np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1], np.int32),
...                np.array([False, False, True, True]), source="four.npz")
>>> len(data.train()), len(data.test()), fitted(data, (8, 8, 1)).x.shape
(2, 2, (4, 8, 8, 1))
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Remark, listed
from protos.datafiles.formats import collected, folder, idx, npz, sound, table
from protos.datafiles.formats.columns import Array, Choose, Columns
from protos.datafiles.front_end import FrontEnd, LogMel, TableRows, Windows
from protos.datafiles.lazy import Known
from protos.datafiles.rows import are_token_ids
from protos.datafiles.stored import Rows, StoredRows
from protos.errors import DataError, EmptyShardError, LabelError, NonFiniteError, ShapeError, UsageError
from protos.progress import progressed

_TOKENISER = "number the words as the model's tokeniser does; its unknown words have an id, too"
_SHARD_SEED = 0
_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, eq=False)
class Dataset:
    """N examples, in memory or still in their file. The arrays are shared, not copied: treat them as read-only.

    Attributes:
        held: uint8 or float32 [N, ...], raw values as stored (a bundle's preprocessing is not yet applied), in an
            array or in a file. Slices of it are arrays; who goes through it in slices needs memory for one of them.
        y: int32 [N], class index; or float32 [N, K], the quantities of a regression.
        is_test: bool [N], held-out examples.
        owner: [N] integers or strings, the natural owner of each example, or None.
        class_names: name of class i at i, or None.
        source: file or folder it came from, for messages.
        left_out: what lay there and was not read.
        changed: what was changed while it was read.
        set_aside: bad examples that were left out; only where the caller allows that.
    """

    held: Rows
    y: NDArray[Any]
    is_test: NDArray[np.bool_]
    owner: Array | None = None
    class_names: tuple[str, ...] | None = None
    source: str = "data"
    left_out: tuple[Remark, ...] = ()
    changed: tuple[Remark, ...] = ()
    set_aside: tuple[Remark, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x(self) -> NDArray[Any]:
        """All raw values as one array: a read-only memory map where the file allows it."""
        return self.held.array if isinstance(self.held, StoredRows) else self.held

    def train(self) -> Dataset:
        """The examples that are not held out; the data set itself when none is held out."""
        return self.select(np.flatnonzero(~self.is_test)) if self.is_test.any() else self

    def test(self) -> Dataset:
        """The held-out examples, none when the source names none."""
        return self if self.is_test.all() else self.select(np.flatnonzero(self.is_test))

    def select(self, indices: Array) -> Dataset:
        """The examples at these indices, in this order; a copy only when they are in memory and not consecutive."""
        places = np.asarray(indices, np.int64)
        rows: Array | slice = places
        if places.size and places[0] >= 0 and (np.diff(places) == 1).all():
            rows = slice(int(places[0]), int(places[-1]) + 1)
        owner = None if self.owner is None else self.owner[rows]
        held = self.held.select(places) if isinstance(self.held, StoredRows) else self.held[rows]
        return replace(self, held=held, y=self.y[rows], is_test=self.is_test[rows], owner=owner)


def load(
    spec: str | Path,
    *,
    shard: int | str | None = None,
    image_shape: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    renames: Mapping[str, str] | None = None,
    tolerant: bool = False,
    decoded: bool = True,
    known: Known | None = None,
    front_end: FrontEnd | None = None,
    quantities: int | None = None,
) -> Dataset:
    """Read a data set, or one shard of it. Only what is kept takes memory.

    Args:
        spec: `FILE.npz` with x, y and optional is_test, device, class_names; an MNIST-style images file, plain
            or gzipped, with its labels file beside it; a folder of such pairs (`t10k-*` and `*-test-*` are held
            out); or a folder with one sub-folder of images per class, with or without `train/` and `test/` above;
            or a store that grows (:mod:`protos.datafiles.formats.collected`).
        shard: the owner to keep, by value, where the file names owners (`device`). Otherwise "K/N": the K-th
            of N nearly equal parts (K from 1) of an order shuffled with a fixed seed, so that N devices
            with the same file get disjoint parts; held-out examples are shared out separately.
        image_shape: [height, width, channels] of the model, to which images in folders are cut and resized.
        classes: class names of the model; where the data has class names too, labels are numbered by them.
        renames: class names of the data to class names of the model, where they differ; None where the caller
            has no option for it.
        tolerant: examples without a label, of no class of the model or whose image cannot be read are left out and
            counted in `set_aside`, instead of an error for the first. :func:`screened` does the rest.
        decoded: False opens no image of a folder: labels and splits are known then, and `held` is [N, 0].
        known: what is remembered of image files: images of a folder stay there until they are read.
        front_end: of the model, which makes its values of recordings or tables.
        quantities: labels are so many real numbers each, for a regression; 0: however many there are; None: classes.

    Raises:
        DataError: missing, damaged, truncated, of an unknown kind, or with arrays of Python objects.
        ShapeError: arrays whose lengths differ.
        LabelError: labels that are no whole numbers, or class names that are not the model's.
        EmptyShardError: no example is left.
        UsageError: a shard that cannot be understood.
    """
    path = Path(spec).expanduser()
    choose = _chooser(shard, str(path))
    if quantities is not None:
        if path.suffix.lower() == ".npz" and path.is_file():
            return _dataset(npz.read(path, choose, None, {}, tolerant=tolerant, quantities=quantities), path)
        if path.exists():
            fix = "give FILE.npz with x [N, ...] and y [N] or [N, K] of real numbers"
            raise DataError("holds classes, and a regression needs quantities", where=str(path), fix=fix)
    if isinstance(front_end, LogMel) and path.is_dir():
        return _dataset(sound.read(path, choose, front_end, classes, renames, tolerant=tolerant), path)
    if isinstance(front_end, (Windows, TableRows)) and (path.is_dir() or (path.exists() and table.is_table(path))):
        return _dataset(table.read(path, choose, front_end, classes, renames, tolerant=tolerant), path)
    if not decoded and front_end is None and (count := _only_a_model_can_read(path)):
        # Listed: what becomes of them, the model's front end says.
        return Dataset(np.empty((count, 0), np.uint8), np.zeros(count, np.int32), np.zeros(count, np.bool_),
                       source=str(path))  # fmt: skip
    if path.is_dir():
        if collected.is_store(path):
            found = collected.read(
                path, choose, image_shape, classes, renames, tolerant=tolerant, decoded=decoded, known=known
            )
            return _dataset(found, path)
        pairs = idx.images_in(path)
        if pairs:
            held, columns = idx.read(pairs, choose, in_folder=True)
            return _dataset((held, replace(columns, left_out=idx.left_out(path, pairs))), path)
        read = folder.read(path, choose, image_shape, classes, renames, tolerant=tolerant, decoded=decoded, known=known)
        return _dataset(read, path)
    if not path.exists():
        address = str(spec).partition(":")[0].lower() in ("http", "https", "s3", "gs", "ftp")
        fix = "download it first: data are files here" if address else "check the path"
        raise DataError("no such file or folder", where=str(spec) if address else str(path), fix=fix)
    if path.suffix.lower() == ".npz":
        return _dataset(npz.read(path, choose, classes, renames, tolerant=tolerant), path)
    if idx.is_images_file(path):
        return _dataset(idx.read([path], choose, in_folder=False), path)
    fix = _OTHER_KINDS.get(
        path.suffix.lower(), "give FILE.npz, NAME-images-idx3-ubyte[.gz], or a folder of images by class"
    )
    if table.is_table(path.with_suffix("")):  # table.csv.gz
        fix = f"unpack it, and give {path.stem}"
    elif isinstance(front_end, (Windows, TableRows)) and path.suffix.lower() in (".txt", ".dat", ".data", ""):
        fix = "call it FILE.csv if it is a table whose first row names the columns"
    raise DataError("is of an unknown kind", where=str(path), fix=fix)


_OTHER_KINDS = {
    **dict.fromkeys((".zip", ".tar", ".tgz", ".gz", ".xz", ".7z", ".rar"), "unpack it, and give the folder"),
    **dict.fromkeys((".csv", ".tsv"), "a table needs a front end of the bundle: see convert --front-end (rows, where "
                    "each is an example; windows of a series); else save numpy.savez('FILE.npz', x=..., y=...)"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "save its table as CSV"),
    ".npy": "save it with its labels: numpy.savez('FILE.npz', x=numpy.load(...), y=...)",
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".parquet", ".json", ".h5", ".hdf5", ".mat", ".tfrecord"),
                    "read it with what wrote it, and save numpy.savez('FILE.npz', x=..., y=...)"),
}  # fmt: skip


def _only_a_model_can_read(path: Path) -> int:
    """How many recordings or tables there are, which need a model's front end; 0 of every other kind."""
    if path.is_file():
        return int(table.is_table(path))
    if not path.is_dir() or collected.is_store(path):
        return 0
    files = [each_path for each_path in path.rglob("*") if each_path.is_file() and not each_path.name.startswith(".")]
    if any(folder.is_image(each_path) for each_path in files) or idx.images_in(path):
        return 0
    return sum(sound.is_recording(each_path) or table.is_table(each_path) for each_path in files)


def account(
    train_count: int,
    test_count: int,
    left_out: Sequence[Remark],
    changed: Sequence[Remark],
    set_aside: Sequence[Remark] = (),
) -> str:
    """All that became of a data set, in one line: read, held out, set aside, left out, changed."""
    words = f"{train_count + test_count} examples read, {test_count} of them held out"
    words += f"; set aside as bad: {listed(set_aside)}" if set_aside else ""
    words += f"; left out: {listed(left_out)}" if left_out else ""
    return words + (f"; changed: {listed(changed)}" if changed else "")


def account_of(dataset: Dataset) -> str:
    """`account` of a data set as it was loaded."""
    held_out = int(dataset.is_test.sum())
    return account(len(dataset) - held_out, held_out, dataset.left_out, dataset.changed, dataset.set_aside)


def save(dataset: Dataset, path: str | Path) -> None:
    """Write an npz file that `load` gives back, whole or not at all."""
    columns = Columns(dataset.y, dataset.is_test, dataset.owner, dataset.class_names)
    npz.write(Path(path), dataset.x, columns)


def fitted(dataset: Dataset, input_shape: Sequence[int]) -> Dataset:
    """The same examples in the shape of the model, when only dimensions of 1 are missing or too many.

    Args:
        dataset: x [N, ...].
        input_shape: what the model takes, without the batch.

    Raises:
        ShapeError: any other difference.
    """
    wanted, given = tuple(input_shape), dataset.held.shape[1:]
    if given == wanted:
        return dataset
    if [size for size in given if size != 1] == [size for size in wanted if size != 1]:
        held = dataset.held
        if isinstance(held, StoredRows):
            return replace(dataset, held=held.reshaped(wanted))
        return replace(dataset, held=held.reshape(len(dataset), *wanted))
    fix = "resize the data, or use a bundle made for it"
    if len(given) > 1 and (*given[1:], given[0]) == wanted:
        order = ", ".join(map(str, (0, *range(2, len(given) + 1), 1)))
        fix = f"the channels come first: store numpy.transpose(x, ({order}))"
    elif len(given) > 1 and (given[-1], *given[:-1]) == wanted:
        order = ", ".join(map(str, (0, len(given), *range(1, len(given)))))
        fix = f"the model takes the channels first: store numpy.transpose(x, ({order}))"
    else:
        fix = _reshaped(given, wanted) or fix
    raise ShapeError(
        f"an example has shape {list(given)}, the model takes {list(wanted)}", where=dataset.source, fix=fix
    )


_RED_GREEN_BLUE, _AND_ALPHA = 3, 4


def _reshaped(given: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """The numpy call that makes examples of one shape those of another, of which nothing is lost but what is said."""
    colours = wanted[-1] if wanted else 0
    if given[:-1] == wanted[:-1] and (given[-1], colours) == (_AND_ALPHA, _RED_GREEN_BLUE):
        return "the last channel is transparency: store x[..., :3]"
    if colours == _RED_GREEN_BLUE and given in (wanted[:-1], (*wanted[:-1], 1)):
        one = "x" if len(given) == len(wanted) else "x[..., None]"
        return f"the model takes colours, and these are grey: store numpy.repeat({one}, 3, axis=-1)"
    if given[-1:] == (_RED_GREEN_BLUE,) and wanted in (given[:-1], (*given[:-1], 1)):
        return "the model takes grey, and these are colours: store x.mean(axis=-1)"
    if math.prod(given) == math.prod(wanted) and 1 in (len(given), len(wanted)):
        return f"store x.reshape(-1, {', '.join(map(str, wanted))}), if it was flattened from that"
    return ""


def check(dataset: Dataset, input_shape: Sequence[int], class_count: int, vocabulary: int | None = None) -> None:
    """Return when a model can train on this data, else say what is wrong with which example.

    Args:
        vocabulary: of a model that takes token ids.

    Raises:
        EmptyShardError: there is no example.
        ShapeError: x, y and is_test disagree, or the shape is not the model's (`fitted` makes up for ones).
        DataError: x is neither uint8 nor float32, or holds what is no token id of the vocabulary.
        LabelError: a label outside 0..class_count-1.
        NonFiniteError: NaN or infinity in x.
    """
    where = dataset.source
    if not len(dataset.held) == len(dataset.y) == len(dataset.is_test):
        raise ShapeError(
            f"{len(dataset.held)} examples, {len(dataset.y)} labels, {len(dataset.is_test)} is_test flags",
            where=where,
            fix="store one of each per example",
        )
    if not len(dataset):
        if dataset.set_aside:
            fix = _TOKENISER if vocabulary is not None else "mend them"
            raise EmptyShardError(f"has no good example: {listed(dataset.set_aside)}", where=where, fix=fix)
        raise EmptyShardError("has no example", where=where, fix="give a shard that has some")
    if dataset.held.dtype not in (np.uint8, np.float32):
        raise DataError(f"`x` is {dataset.held.dtype}", where=where, fix="store `x` as uint8 or float32")
    held = fitted(dataset, input_shape).held
    if dataset.y.ndim == 2:
        _check_quantities(dataset, class_count)
    elif (outside := np.flatnonzero((dataset.y < 0) | (dataset.y >= class_count))).size:
        raise LabelError(
            f"label {dataset.y[outside[0]]} at example {outside[0]} is outside 0..{class_count - 1}"
            + (f", and {outside.size - 1} more" if outside.size > 1 else ""),
            where=where,
            fix=f"number the classes from 0, or use a bundle with more than {class_count} classes",
        )
    if vocabulary is not None and (strange := _not_ids(held, vocabulary)).any():
        raise DataError(
            f"{int(strange.sum())} of {len(dataset)} examples hold a token id outside 0..{vocabulary - 1}, first "
            f"example {int(np.argmax(strange))}", where=where, fix=_TOKENISER,
        )  # fmt: skip
    if held.dtype == np.float32:
        bad = _first_not_finite(held)
        if bad is not None:
            raise NonFiniteError(f"example {bad} has a NaN or an infinity", where=where, fix="remove or repair it")


def _check_quantities(dataset: Dataset, count: int) -> None:
    if dataset.y.shape[1] != count:
        raise ShapeError(
            f"`y` has {dataset.y.shape[1]} quantities, the model gives {count}", where=dataset.source,
            fix=f"store y as [N, {count}]",
        )  # fmt: skip
    bad = np.flatnonzero(~np.isfinite(dataset.y).all(axis=1))
    if bad.size:
        raise NonFiniteError(
            f"`y` holds NaN or infinity at example {bad[0]}", where=dataset.source, fix="remove or repair it"
        )


def screened(dataset: Dataset, class_count: int | None, vocabulary: int | None = None) -> Dataset:
    """The examples that a model can train on; what is left out is counted in `set_aside`.

    Args:
        class_count: labels are 0..class_count-1; None asks only for a label.
        vocabulary: of a model that takes token ids.
    """
    dataset = in_vocabulary(dataset, vocabulary)
    remarks = list(dataset.set_aside)
    if dataset.y.ndim == 2:
        bad = ~np.isfinite(dataset.y).all(axis=1)
        kind = "quantity that is no number"
    else:
        bad = dataset.y < 0
        if class_count is not None:
            bad |= dataset.y >= class_count
        kind = "label outside the classes"
    if bad.any():
        first = int(np.argmax(bad))
        remarks.append(Remark(kind, int(bad.sum()), f"{dataset.y[first]} at example {first}"))
    if dataset.held.dtype == np.float32:
        wild = _not_finite(dataset.held)
        if (wild & ~bad).any():
            remarks.append(
                Remark("NaN or infinity", int((wild & ~bad).sum()), f"example {int(np.argmax(wild & ~bad))}")
            )
        bad |= wild
    if not bad.any():
        return dataset
    return replace(dataset.select(np.flatnonzero(~bad)), set_aside=tuple(remarks))


def in_vocabulary(dataset: Dataset, vocabulary: int | None) -> Dataset:
    """The examples whose token ids are all 0 to ``vocabulary`` - 1; the others are counted in `set_aside`.

    Args:
        vocabulary: None where the model takes no token ids, and nothing is done.
    """
    if vocabulary is None or not len(dataset):
        return dataset
    strange = _not_ids(dataset.held, vocabulary)
    if not strange.any():
        return dataset
    remark = Remark(_no_ids(vocabulary), int(strange.sum()), f"example {int(np.argmax(strange))}")
    return replace(dataset.select(np.flatnonzero(~strange)), set_aside=(*dataset.set_aside, remark))


def _no_ids(vocabulary: int) -> str:
    return f"with a token id outside 0..{vocabulary - 1}"


def _not_ids(held: Rows, vocabulary: int) -> NDArray[np.bool_]:
    """Which examples hold a value that is no whole number from 0 to ``vocabulary`` - 1, NaN and infinity too."""
    if held.dtype == np.uint8 and vocabulary > np.iinfo(np.uint8).max:
        return np.zeros(len(held), np.bool_)
    found = [~are_token_ids(block.reshape(len(block), -1), vocabulary).all(axis=1) for block in blocks(held)]
    return np.concatenate(found) if found else np.zeros(0, np.bool_)


def _not_finite(held: Rows) -> NDArray[np.bool_]:
    found = [~np.isfinite(block).reshape(len(block), -1).all(axis=1) for block in blocks(held)]
    return np.concatenate(found) if found else np.zeros(0, np.bool_)


def blocks(held: Rows) -> Iterator[Array]:
    """All examples, a few megabytes at a time."""
    step = max(1, _BLOCK_BYTES // max(1, held.dtype.itemsize * math.prod(held.shape[1:])))
    for start in range(0, len(held), step):
        progressed()
        yield held[start : start + step]


def _first_not_finite(held: Rows) -> int | None:
    start = 0
    for block in blocks(held):
        finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            return start + int(np.argmin(finite))
        start += len(block)
    return None


def _dataset(read: tuple[Rows, Columns], path: Path) -> Dataset:
    held, columns = read
    return Dataset(
        held,
        columns.y,
        columns.is_test,
        columns.owner,
        columns.class_names,
        str(path),
        columns.left_out,
        columns.changed,
        columns.set_aside,
    )


def _chooser(shard: int | str | None, where: str) -> Choose:
    def everything(columns: Columns) -> None:
        return None

    def of_owner(columns: Columns) -> NDArray[np.int64]:
        name = str(shard)
        if columns.owner is None:
            return _part(name, columns.is_test, where)
        rows = np.flatnonzero(columns.owner.astype(np.str_) == name)
        if not rows.size:
            known = np.unique(columns.owner)
            some = ", ".join(str(owner) for owner in known[:8]) + ("..." if len(known) > 8 else "")
            raise EmptyShardError(
                f"no example belongs to {name!r}", where=where, fix=f"choose one of its {len(known)} owners: {some}"
            )
        return rows

    return everything if shard is None else of_owner


def _part(shard: str, is_test: NDArray[np.bool_], where: str) -> NDArray[np.int64]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        raise UsageError(
            f"shard {shard!r} cannot be used: the data names no owners",
            where=where,
            fix="give K/N, such as 1/4, or data with a `device` field",
        )
    rng = np.random.default_rng(_SHARD_SEED)
    mine = []
    for held_out in (False, True):
        rows = rng.permutation(np.flatnonzero(is_test == held_out))
        mine.append(rows[len(rows) * (part - 1) // parts : len(rows) * part // parts])
    rows = np.sort(np.concatenate(mine)).astype(np.int64)
    if not rows.size:
        raise EmptyShardError(f"shard {shard} of {len(is_test)} examples is empty", where=where, fix="use fewer shards")
    return rows
