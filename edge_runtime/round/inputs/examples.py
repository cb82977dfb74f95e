"""The own data: who is in it is known cheaply; raw values are read in blocks, and only when something is embedded.

What was found out about a data file (labels, counts, a fingerprint of the training examples) is kept under the
file's name, size and time of change. As long as these stay the same, a restart reads no raw value.

Bad examples (a label of no class, an image that cannot be read, a NaN) are set aside and counted, up to a share of all;
beyond it the data are refused with the first of them. A folder of images is only listed until a bundle says what size
they are to have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.round.inputs.content import damaged_in
from edge_runtime.round.inputs.image_table import ImageTable
from edge_runtime.state import keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.datafiles import dataset
from protos.datafiles.account import Remark, listed
from protos.datafiles.dataset import Dataset
from protos.datafiles.formats.class_folders import is_left_behind
from protos.datafiles.formats.collected import INDEX, RAW, is_store
from protos.datafiles.front_end import declared
from protos.datafiles.lazy import FileRows
from protos.datafiles.renames import read_renames
from protos.datafiles.stored import Rows, StoredRows
from protos.errors import DataError, EmptyShardError, LabelError, NonFiniteError, ShapeError, StoreError
from protos.model.bundle import Bundle
from protos.model.resemblance import RECORD, held_against, places_looked_at
from protos.model.task import ANOMALY, CLASSIFICATION, NORMAL

_KEEP_SUMMARIES = 16
# Goes up when the same file would be read differently: what an earlier version kept does not count any more.
_READING = 4


@dataclass(frozen=True, eq=False)
class Summary:
    """What training needs to know besides the embeddings.

    Attributes:
        labels: int32 [N] of the training examples; float32 [N, K] of a regression.
        shape: of one example, as stored.
        test_count: held-out examples; they are not trained on.
        fingerprint: SHA-256 of the training examples and labels.
        source: the file, for messages.
        left_out: what lay there and was not read.
        changed: what was changed while it was read.
        unlike: how the examples differ from those that the bundle was calibrated on, or nothing.
        set_aside: bad examples that are left out.
        test_labels: int32 [T] of the held-out examples.
        test_fingerprint: SHA-256 of the held-out examples and labels; empty when there are none.
    """

    labels: npt.NDArray[Any]
    shape: tuple[int, ...]
    test_count: int
    fingerprint: str
    source: str
    left_out: tuple[Remark, ...] = ()
    changed: tuple[Remark, ...] = ()
    unlike: str = ""
    set_aside: tuple[Remark, ...] = ()
    test_labels: npt.NDArray[np.int32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    test_fingerprint: str = ""

    @property
    def account(self) -> str:
        """What became of the data, in one line."""
        return dataset.account(self.train_count, self.test_count, self.left_out, self.changed, self.set_aside)

    @property
    def complaint(self) -> str:
        """How many bad examples there are and of which kind, in one line; empty when there are none."""
        if not self.set_aside:
            return ""
        bad = sum(remark.count for remark in self.set_aside)
        return f"{bad} of {self.train_count + self.test_count + bad} examples set aside: {listed(self.set_aside)}"

    @property
    def train_count(self) -> int:
        return len(self.labels)


class ChangedDataError(DataError):
    """The data are not any more what their summary says. Looking at them again mends it."""


class LocalExamples:
    """One device's own examples.

    Args:
        spec: what ``protos.datafiles.dataset.load`` takes.
        shard: of it, or None.
        folder: where summaries are kept.
        rename: `OLD=NEW,...`, class names of the data and of the bundle where they differ.
        bad_share: of all examples, how many may be bad and are set aside, 0 to 1.
    """

    def __init__(
        self, spec: str, shard: str | None, folder: Path, *, rename: str | None = None, bad_share: float = 0.0
    ) -> None:
        self._rename, self._bad_share = rename, bad_share
        self._spec, self._shard, self._folder = spec, shard, folder
        self._raw: Dataset | None = None
        self._raw_test: Dataset | None = None
        self._raw_key = ""
        self._images = ImageTable(folder.parent / "images.lines")
        self._test_count, self._unlike = 0, ""

    def summary(self, bundle: Bundle | None) -> Summary:
        """Labels and counts, checked against the bundle when there is one.

        Raises:
            DataError, ShapeError, LabelError, NonFiniteError, EmptyShardError: as ``protos.datafiles.dataset`` says.
        """
        key = self._key(bundle)
        known = self._read(key) if key else None
        if known is None:
            data = self._load(bundle, key)
            known = Summary(
                data.y,
                data.held.shape[1:],
                self._test_count,
                _fingerprint(data),
                data.source,
                data.left_out,
                data.changed,
                self._unlike,
                data.set_aside,
                *self._held_out(),
            )
            if self._raw_key:
                self._write(self._raw_key, known)
        elif bundle is not None:
            # The raw values were checked when the summary was made: only shape and labels are left to compare.
            stand_in = np.broadcast_to(np.zeros((), np.uint8), (known.train_count, *known.shape))
            flags = np.zeros(known.train_count, np.bool_)
            _check(Dataset(stand_in, known.labels, flags, source=known.source), bundle)
        return known

    def _held_out(self) -> tuple[npt.NDArray[np.int32], str]:
        """Labels and fingerprint of the held-out examples that were loaded."""
        test = self._raw_test
        return (np.zeros(0, np.int32), "") if test is None or not len(test) else (test.y, _fingerprint(test))

    def raw_test(self, bundle: Bundle, expected: Summary) -> Rows:
        """The raw held-out examples, likewise."""
        self._load(bundle, self._key(bundle), judged=True)
        test = self._raw_test
        if test is None or _fingerprint(test) != expected.test_fingerprint:
            raise ChangedDataError("changed since they were looked at", where=expected.source)
        return dataset.fitted(test, bundle.manifest.backbone.input_shape).held

    def raw(self, bundle: Bundle, expected: Summary) -> Rows:
        """The raw training examples, uint8 or float32 [N, ...] in the shape of the model; read them in slices.

        Raises:
            ChangedDataError: the data changed since ``expected`` was made; and as :meth:`summary`.
        """
        data = self._load(bundle, self._key(bundle), judged=True)
        if _fingerprint(data) != expected.fingerprint:
            raise ChangedDataError("changed since they were looked at", where=expected.source)
        return dataset.fitted(data, bundle.manifest.backbone.input_shape).held

    @property
    def costs_a_look(self) -> bool:
        """Whether a summary for a bundle takes decoding every image."""
        return Path(self._spec).expanduser().is_dir()

    def release(self) -> None:
        """Give the memory of the raw values back, and close their file."""
        self._raw = self._raw_test = None

    def _load(self, bundle: Bundle | None, key: str, *, judged: bool = False) -> Dataset:
        """The training examples.

        Args:
            judged: it is known already whether they are like those of the bundle.
        """
        if self._raw is not None and key and key == self._raw_key:
            return self._raw
        self._raw = self._raw_test = None
        try:
            whole = self._good_ones(bundle, bundle.manifest.quantities if bundle else None)
        except (LabelError, ShapeError):
            # Without a bundle nobody knows yet whether labels are classes or the quantities of a regression.
            if bundle is not None or Path(self._spec).suffix.lower() != ".npz":
                raise
            whole = self._good_ones(None, 0)
        data = whole.train()
        self._test_count = len(whole) - len(data)
        judges = bundle is not None and bundle.manifest.task == CLASSIFICATION
        test = whole.test() if self._test_count and judges else None
        if bundle is not None and bundle.manifest.task == ANOMALY:
            data = _normal(data)
        _check(data, bundle)
        if bundle is not None and not judged:
            fresh = _never_decoded(data.held)
            _decode_sample(fresh)
            # Of data that grew only what is new is judged: the rest was, and is not decoded again for it.
            before = self._unlike if len(fresh) < len(data.held) else ""
            self._unlike = held_against(bundle.manifest, fresh, where=data.source) or before
            if damaged_in(data.held):
                # Found out by looking: they are set aside now.
                return self._load(bundle, key)
        # What was found out about images while they were looked at is a part of the name.
        self._raw, self._raw_test, self._raw_key = data, test, self._key(bundle) if key else ""
        return data

    def _good_ones(self, bundle: Bundle | None, quantities: int | None) -> Dataset:
        """All examples but the bad ones, of which there are no more than there may be."""
        read = self._read_all(bundle, tolerant=True, quantities=quantities)
        vocabulary = bundle.manifest.backbone.vocabulary if bundle else None
        whole = dataset.screened(read, len(bundle.manifest.classes) if bundle else None, vocabulary)
        bad = sum(remark.count for remark in whole.set_aside)
        if bad > self._bad_share * (len(whole) + bad) or (bad and not len(whole)):
            self._refuse(bundle, bad, len(whole) + bad, quantities)
        return whole

    def _read_all(self, bundle: Bundle | None, *, tolerant: bool, quantities: int | None) -> Dataset:
        spec = bundle.manifest.backbone if bundle else None
        return dataset.load(
            self._spec,
            shard=self._shard,
            image_shape=spec.input_shape if spec else None,
            classes=bundle.manifest.classes if bundle else None,
            renames=read_renames(self._rename) if self._rename and bundle else {},
            tolerant=tolerant,
            decoded=bundle is not None,
            known=self._images if tolerant else None,
            front_end=declared(bundle.manifest.provenance) if bundle else None,
            quantities=quantities,
        )

    def _refuse(self, bundle: Bundle | None, bad: int, count: int, quantities: int | None) -> None:
        """Raise for the first of too many bad examples."""
        counted = f"{bad} of {count} examples are bad, and {self._bad_share:.0%} may be set aside"
        try:
            _check(self._read_all(bundle, tolerant=False, quantities=quantities), bundle)
        except (DataError, LabelError, NonFiniteError) as error:
            raise type(error)(f"{error.what}; {counted}", where=error.where, fix=error.fix) from error
        raise DataError(counted, where=self._spec, fix="mend them, or raise bad_examples_percent")

    def stamp(self) -> str:
        """Changes whenever the data may have: a hash of name, size and times of every file. Opens none.

        Raises:
            DataError: they are not there, or their folder cannot be read.
        """
        path = Path(self._spec).expanduser()
        digest = hashlib.sha256()
        try:
            if is_store(path):
                # Every change goes through the index; what is taken away by hand changes the folder.
                for each_path in (path / INDEX, path / RAW):
                    found = each_path.stat()
                    digest.update(json.dumps([str(each_path), found.st_size, found.st_mtime_ns, found.st_ino]).encode())
            elif path.is_dir():
                for entry in _files_below(path):
                    found = entry.stat()
                    digest.update(json.dumps([entry.path, found.st_size, found.st_mtime_ns, found.st_ino]).encode())
            else:
                # An idx file has its labels beside it.
                beside = path.parent.iterdir() if path.suffix.lower() != ".npz" else [path]
                for each_path in sorted(beside):
                    found = each_path.stat()
                    digest.update(json.dumps([str(each_path), found.st_size, found.st_mtime_ns, found.st_ino]).encode())
        except FileNotFoundError as error:
            raise DataError("no such file or folder", where=str(path), fix="check the path") from error
        except OSError as error:
            raise DataError(f"cannot be looked at ({error.strerror})", where=str(path), fix="check the path") from error
        return digest.hexdigest()

    def _key(self, bundle: Bundle | None) -> str:
        """Changes whenever the summary may; empty when that cannot be told cheaply."""
        path = Path(self._spec).expanduser()
        folder = path.is_dir() and bundle is not None
        if not folder and path.suffix.lower() != ".npz":
            return ""
        try:
            found = path.resolve(strict=True).stat()
            content: list[Any] = (
                [self.stamp(), self._images.damaged] if folder else [found.st_size, found.st_mtime_ns, found.st_ino]
            )
        except (OSError, DataError):
            return ""
        stamp = [str(path.resolve()), *content, self._shard, self._rename, _READING]
        fit = [list(bundle.manifest.classes), list(bundle.manifest.backbone.input_shape)] if bundle else None
        if fit is not None and bundle is not None and bundle.manifest.task != CLASSIFICATION:
            fit += [bundle.manifest.task]
        if fit is not None and bundle is not None:
            fit += [bundle.manifest.files[bundle.manifest.backbone.file].sha256, bundle.manifest.provenance.get(RECORD)]
        return hashlib.sha256(json.dumps([stamp, fit]).encode()).hexdigest()[:32]

    def _read(self, key: str) -> Summary | None:
        path = self._folder / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as held:
                labels = np.ascontiguousarray(held["labels"], np.float32 if held["labels"].ndim == 2 else np.int32)
                shape = tuple(int(size) for size in held["shape"])
                return Summary(
                    labels,
                    shape,
                    int(held["test_count"]),
                    str(held["fingerprint"]),
                    str(held["source"]),
                    _remarks(held["left_out"]),
                    _remarks(held["changed"]),
                    str(held["unlike"]),
                    _remarks(held["set_aside"]),
                    np.ascontiguousarray(held["test_labels"], np.int32),
                    str(held["test_fingerprint"]),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def _write(self, key: str, summary: Summary) -> None:
        path = self._folder / f"{key}.npz"
        try:
            self._save(path, summary)
        except StoreError as error:
            log().warning("%s; the next start looks at the data again", error)
            return
        used(path)
        keep_newest(self._folder, _KEEP_SUMMARIES, in_use=[path])

    @staticmethod
    def _save(path: Path, summary: Summary) -> None:
        with storing(path), write_whole(path) as file:
            np.savez(
                file,
                labels=summary.labels,
                shape=np.array(summary.shape, np.int64),
                test_count=np.int64(summary.test_count),
                fingerprint=np.array(summary.fingerprint),
                source=np.array(summary.source),
                unlike=np.array(summary.unlike),
                left_out=_written(summary.left_out),
                changed=_written(summary.changed),
                set_aside=_written(summary.set_aside),
                test_labels=summary.test_labels,
                test_fingerprint=np.array(summary.test_fingerprint),
            )


def _written(remarks: tuple[Remark, ...]) -> npt.NDArray[np.str_]:
    return np.array(json.dumps([[remark.kind, remark.count, remark.example] for remark in remarks]))


def _remarks(text: npt.NDArray[np.str_]) -> tuple[Remark, ...]:
    return tuple(Remark(str(kind), int(n), str(one)) for kind, n, one in json.loads(str(text)))


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below a folder, in the order of names; links to folders are not followed. What systems leave behind is
    not looked at: the `lost+found` of a disk is root's alone."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not is_left_behind(entry.name)), key=lambda one: one.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(Path(entry.path))
        elif entry.is_file():
            yield entry


def _check(data: Dataset, bundle: Bundle | None) -> None:
    if bundle is None and data.held.shape[1:] == (0,):
        # Images that are only listed.
        if not len(data):
            raise EmptyShardError("has no example", where=data.source, fix="give a shard that has some")
        return
    if bundle is None:
        classes = data.y.shape[1] if data.y.ndim == 2 else int(data.y.max(initial=0)) + 1
        dataset.check(data, data.held.shape[1:], classes)
    else:
        spec = bundle.manifest.backbone
        dataset.check(data, spec.input_shape, len(bundle.manifest.classes), spec.vocabulary)


def _never_decoded(held: Rows) -> Rows:
    """Of examples in files, those whose content nobody knows yet; all of them where they are in one file."""
    if not (isinstance(held, StoredRows) and isinstance(held.source, FileRows)):
        return held
    unknown = [place for place, key in enumerate(held.source.keys(held.places)) if key is None]
    return held.select(np.array(unknown, np.int64))


def _decode_sample(held: Rows) -> None:
    """Of images in files, decode those that are about to be looked at, and keep them until they are embedded."""
    if isinstance(held, StoredRows) and isinstance(held.source, FileRows):
        held.source.sample(held.places[places_looked_at(held)])


def _normal(data: Dataset) -> Dataset:
    """The normal examples: what is known to be an anomaly says nothing of what is normal."""
    normal = np.flatnonzero(data.y == NORMAL)
    if len(normal) == len(data):
        return data
    first = int(np.argmax(data.y != NORMAL))
    remark = Remark("anomaly, not trained on", len(data) - len(normal), f"example {first}")
    kept = data.select(normal)
    if not len(normal):
        raise EmptyShardError(
            "holds anomalies alone", where=data.source, fix="give normal examples: label 0, or the folder `normal`"
        )
    return replace(kept, left_out=(*data.left_out, remark))


def _fingerprint(data: Dataset) -> str:
    if isinstance(data.held, StoredRows) and isinstance(data.held.source, FileRows):
        # By name, size and time of the files: no image is read for it.
        digest = hashlib.sha256(data.held.source.fingerprint(data.held.places).encode())
        digest.update(np.ascontiguousarray(data.y).view(np.uint8).data)
        return digest.hexdigest()
    digest = hashlib.sha256(json.dumps([str(data.held.dtype), list(data.held.shape)]).encode())
    for array in itertools.chain([data.y], dataset.blocks(data.held)):
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
