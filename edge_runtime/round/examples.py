"""The own data: who is in it is known cheaply; raw values are read in blocks, and only when something is embedded.

What was found out about a data file (labels, counts, a fingerprint of the training examples) is kept under the
file's name, size and time of change. As long as these stay the same, a restart reads no raw value.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.state import keep_newest, storing
from protos.atomic import write_whole
from protos.datafiles import dataset
from protos.datafiles.account import Remark
from protos.datafiles.dataset import Dataset
from protos.datafiles.renames import read_renames
from protos.datafiles.stored import Rows
from protos.errors import DataError
from protos.model.bundle import Bundle
from protos.model.resemblance import RECORD, held_against

_KEEP_SUMMARIES = 16
# Goes up when the same file would be read differently: what an earlier version kept does not count any more.
_READING = 3


@dataclass(frozen=True, eq=False)
class Summary:
    """What training needs to know besides the embeddings.

    Attributes:
        labels: int32 [N] of the training examples.
        shape: of one example, as stored.
        test_count: held-out examples; they are not trained on.
        fingerprint: SHA-256 of the training examples and labels.
        source: the file, for messages.
        left_out: what lay there and was not read.
        changed: what was changed while it was read.
        unlike: how the examples differ from those that the bundle was calibrated on, or nothing.
    """

    labels: npt.NDArray[np.int32]
    shape: tuple[int, ...]
    test_count: int
    fingerprint: str
    source: str
    left_out: tuple[Remark, ...] = ()
    changed: tuple[Remark, ...] = ()
    unlike: str = ""

    @property
    def account(self) -> str:
        """What became of the data, in one line."""
        return dataset.account(self.train_count, self.test_count, self.left_out, self.changed)

    @property
    def train_count(self) -> int:
        return len(self.labels)


class LocalExamples:
    """One device's own examples.

    Args:
        spec: what ``protos.datafiles.dataset.load`` takes.
        shard: of it, or None.
        folder: where summaries are kept.
        rename: `OLD=NEW,...`, class names of the data and of the bundle where they differ.
    """

    def __init__(self, spec: str, shard: str | None, folder: Path, *, rename: str | None = None) -> None:
        self._rename = rename
        self._spec, self._shard, self._folder = spec, shard, folder
        self._raw: Dataset | None = None
        self._raw_key = ""
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
            )
            if key:
                self._write(key, known)
        elif bundle is not None:
            # The raw values were checked when the summary was made: only shape and labels are left to compare.
            stand_in = np.broadcast_to(np.zeros((), np.uint8), (known.train_count, *known.shape))
            flags = np.zeros(known.train_count, np.bool_)
            _check(Dataset(stand_in, known.labels, flags, source=known.source), bundle)
        return known

    def raw(self, bundle: Bundle, expected: Summary) -> Rows:
        """The raw training examples, uint8 or float32 [N, ...] in the shape of the model; read them in slices.

        Raises:
            DataError: the data changed since ``expected`` was made; and as :meth:`summary`.
        """
        data = self._load(bundle, self._key(bundle))
        if _fingerprint(data) != expected.fingerprint:
            raise DataError("changed while the daemon was running", where=expected.source, fix="start the daemon again")
        return dataset.fitted(data, bundle.manifest.backbone.input_shape).held

    def release(self) -> None:
        """Give the memory of the raw values back, and close their file."""
        self._raw = None

    def _load(self, bundle: Bundle | None, key: str) -> Dataset:
        if self._raw is not None and key and key == self._raw_key:
            return self._raw
        self._raw = None
        spec = bundle.manifest.backbone if bundle else None
        whole = dataset.load(
            self._spec,
            shard=self._shard,
            image_shape=spec.input_shape if spec else None,
            classes=bundle.manifest.classes if bundle else None,
            renames=read_renames(self._rename) if self._rename and bundle else {},
        )
        data = whole.train()
        self._test_count = len(whole) - len(data)
        _check(data, bundle)
        self._unlike = (bundle and held_against(bundle.manifest, data.held, where=data.source)) or ""
        self._raw, self._raw_key = data, key
        return data

    def _key(self, bundle: Bundle | None) -> str:
        """Changes whenever the summary may; empty when that cannot be told cheaply."""
        path = Path(self._spec).expanduser()
        if path.suffix.lower() != ".npz":
            return ""
        try:
            found = path.resolve(strict=True).stat()
        except OSError:
            return ""
        stamp = [
            str(path.resolve()),
            found.st_size,
            found.st_mtime_ns,
            found.st_ino,
            self._shard,
            self._rename,
            _READING,
        ]
        fit = [list(bundle.manifest.classes), list(bundle.manifest.backbone.input_shape)] if bundle else None
        if fit is not None and bundle is not None:
            fit += [bundle.manifest.files[bundle.manifest.backbone.file].sha256, bundle.manifest.provenance.get(RECORD)]
        return hashlib.sha256(json.dumps([stamp, fit]).encode()).hexdigest()[:32]

    def _read(self, key: str) -> Summary | None:
        path = self._folder / f"{key}.npz"
        try:
            with np.load(path, allow_pickle=False) as held:
                labels = np.ascontiguousarray(held["labels"], np.int32)
                shape = tuple(int(size) for size in held["shape"])
                return Summary(
                    labels,
                    shape,
                    int(held["test_count"]),
                    str(held["fingerprint"]),
                    str(held["source"]),
                    unlike=str(held["unlike"]),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _write(self, key: str, summary: Summary) -> None:
        path = self._folder / f"{key}.npz"
        with storing(path), write_whole(path) as file:
            np.savez(
                file,
                labels=summary.labels,
                shape=np.array(summary.shape, np.int64),
                test_count=np.int64(summary.test_count),
                fingerprint=np.array(summary.fingerprint),
                source=np.array(summary.source),
                unlike=np.array(summary.unlike),
            )
        keep_newest(self._folder, _KEEP_SUMMARIES)


def _check(data: Dataset, bundle: Bundle | None) -> None:
    if bundle is None:
        dataset.check(data, data.held.shape[1:], int(data.y.max(initial=0)) + 1)
    else:
        dataset.check(data, bundle.manifest.backbone.input_shape, len(bundle.manifest.classes))


def _fingerprint(data: Dataset) -> str:
    digest = hashlib.sha256(json.dumps([str(data.held.dtype), list(data.held.shape)]).encode())
    for array in itertools.chain([data.y], dataset.blocks(data.held)):
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
