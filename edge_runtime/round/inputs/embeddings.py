"""Embeddings on disk, one file per (backbone, data, engine), filled from the first example to the last.

Rules kept here:

* Rows are appended with ordinary writes and only read through a memory map: a write through a map ends the process
  when the disk is full.
* What counts is in ``progress.json`` (rows and their CRC-32), written whole after the rows are on disk. A file that
  was cut short by a budget, a signal or a power cut is taken up where it stopped; one whose rows are not the
  recorded ones is made again.
* Beside each row is the key of its example (``keys.bin``), so that data that grew, or were set in another order, cost
  only the examples that nobody has embedded: see :mod:`edge_runtime.round.inputs.content`.
* Engines differ in the last bit of int8 results, so the engine is a part of the name; so is the file that it runs,
  the CPU model or the Edge TPU twin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.round.inputs.content import KEY_BYTES, Known, keys_of, keys_remembered, read_keys, remember_keys
from edge_runtime.state import keep_newest, storing, used
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.datafiles.stored import Rows
from protos.model.bundle import Bundle
from protos.model.manifest import BackboneSpec, Preprocessing
from protos.orders import StopReason

# Examples between two questions whether to go on, and seconds between two records of progress.
_BLOCK = 8
_COMMIT_S = 2.0
_DATA, _PROGRESS, _KEYS = "embeddings.npy", "progress.json", "keys.bin"


def dequantise(quantised: npt.NDArray[Any], spec: BackboneSpec) -> npt.NDArray[np.float32]:
    """``(q - zero_point) * scale`` as float32: the numbers that the head takes."""
    values = quantised.astype(np.float32)
    values -= spec.output_zero_point
    values *= np.float32(spec.output_scale)
    return values


def _identity_of(rule: Preprocessing) -> list[Any]:
    """Of a preprocessing; without channels as it always was, so that what is cached stays good."""
    return [rule.multiply, rule.add, *([dataclasses.asdict(rule.per_channel)] if rule.per_channel else [])]


class EmbeddingCache:
    """Quantised embeddings of ``count`` examples, int8 or uint8 [count, D], the first :attr:`rows` of which are there.

    Args:
        root: folder of all caches.
        bundle: whose backbone.
        fingerprint: of the examples.
        count: examples.
        engine: what computes.
        twin: it computes the bundle's Edge TPU twin.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(
        self, root: Path, bundle: Bundle, fingerprint: str, count: int, engine: str, *, twin: bool = False
    ) -> None:
        spec, twins = bundle.manifest.backbone, bundle.manifest.edge_tpu
        model = twins.file if twin and twins is not None else spec.file
        self._dtype, self._width, self.count = np.dtype(spec.output_dtype), spec.embedding_width, count
        self._identity = {
            "backbone": bundle.manifest.files[model].sha256,
            "preprocessing": _identity_of(bundle.manifest.preprocessing),
            "examples": fingerprint,
            "engine": engine,
            "shape": [count, self._width],
            "dtype": spec.output_dtype,
        }
        name = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = root / name
        self._data, self._record, self._keys = (self.folder / text for text in (_DATA, _PROGRESS, _KEYS))
        self._header = _npy_header((count, self._width), self._dtype)
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            used(self.folder)
            self.rows, self._crc = self._recover()
        keep_newest(root, in_use=[self.folder])

    @property
    def complete(self) -> bool:
        return self.rows == self.count

    def view(self) -> npt.NDArray[Any]:
        """The rows that are there, memory-mapped for reading, [rows, D]."""
        if self.rows == 0:
            return np.empty((0, self._width), self._dtype)
        return np.memmap(self._data, self._dtype, "r", offset=len(self._header), shape=(self.rows, self._width))

    def fill(
        self,
        embed: Callable[[npt.NDArray[Any]], npt.NDArray[Any]],
        raw: Rows,
        *,
        allowed: Callable[[int], int | StopReason],
        now_s: Callable[[], float],
        block_of: Callable[[int], int] = lambda most: most,
    ) -> tuple[int, StopReason | None]:
        """Embed what is missing, until all is there or it is not allowed to go on. What another cache has is taken
        from there, and costs nothing.

        Args:
            embed: raw examples [n, ...] to embeddings [n, D].
            raw: all examples [count, ...], of which a few at a time are read.
            allowed: asked before each small block, with its length; says how many of it, at least 1, or why none.
            block_of: how many examples a block has, 1 to its argument.

        Returns:
            How many were embedded, and why it stopped early, if it did.
        """
        before, embedded = self.rows, 0
        refused: StopReason | None = None
        committed_s = now_s()
        known = Known() if self.complete else self._others()
        with (
            storing(self._data),
            self._data.open("r+b", buffering=0) as file,
            self._keys.open("r+b", buffering=0) as keys_file,
        ):
            file.seek(len(self._header) + self.rows * self._width)
            keys_file.seek(self.rows * KEY_BYTES)
            try:
                while not self.complete:
                    wanted = min(block_of(_BLOCK), self.count - self.rows)
                    block_rows = slice(self.rows, self.rows + wanted)
                    remembered = keys_remembered(raw, block_rows)
                    there = [None if key is None else known.find(key) for key in remembered]
                    taken = _leading(there)
                    if taken:
                        # Files whose content is known are not even read.
                        examples, keys = None, [key for key in remembered if key is not None]
                    else:
                        # Up to the next one that need not be read.
                        fresh = next((at for at, array in enumerate(there) if array is not None), len(there))
                        block_rows = slice(self.rows, self.rows + fresh)
                        examples = raw[block_rows]
                        keys = keys_of(examples)
                        remember_keys(raw, block_rows, keys)
                        taken = _leading([known.find(key) for key in keys])
                    if taken:
                        block = np.ascontiguousarray(np.stack(taken), self._dtype)
                    else:
                        assert examples is not None
                        unknown = next((at for at, key in enumerate(keys) if known.find(key) is not None), len(keys))
                        granted = allowed(unknown)
                        if isinstance(granted, StopReason):
                            refused = granted
                            break
                        block = np.ascontiguousarray(embed(examples[:granted]), self._dtype)
                        embedded += len(block)
                    _write_all(keys_file, b"".join(keys[: len(block)]))
                    _write_all(file, block.tobytes())
                    self._crc = zlib.crc32(block.tobytes(), self._crc)
                    self.rows += len(block)
                    if now_s() - committed_s >= _COMMIT_S:
                        self._commit(file, keys_file)
                        committed_s = now_s()
            finally:
                if self.rows > before:
                    self._commit(file, keys_file)
        if self.rows - before > embedded:
            log().info("%d embeddings were taken from earlier data", self.rows - before - embedded)
        return embedded, refused

    def _others(self) -> Known:
        """What the caches of the same backbone and engine have, of other data."""
        known = Known()
        fits = {key: value for key, value in self._identity.items() if key not in ("examples", "shape")}
        for folder in self.folder.parent.iterdir():
            if folder == self.folder:
                continue
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                record = json.loads((folder / _PROGRESS).read_bytes())
                identity, rows = record["identity"], int(record["rows"])
                if {key: identity[key] for key in fits} != fits or identity["shape"][1] != self._width:
                    continue
                offset = len(_npy_header(tuple(identity["shape"]), self._dtype))
                view = np.memmap(folder / _DATA, self._dtype, "r", offset=offset, shape=(rows, self._width))
                # Rows that are not the recorded ones are nobody's.
                if zlib.crc32(np.asarray(view).data) == int(record["crc32"]):
                    known.add(view, read_keys(folder / _KEYS, rows))
        return known

    def _commit(self, file: io.FileIO, keys_file: io.FileIO) -> None:
        os.fsync(keys_file.fileno())
        os.fsync(file.fileno())
        with write_whole(self._record) as record:
            record.write(json.dumps({"identity": self._identity, "rows": self.rows, "crc32": self._crc}).encode())

    def _recover(self) -> tuple[int, int]:
        found = self._read_progress()
        if found is None:
            with self._data.open("wb") as file:
                file.write(self._header)
            found = 0, 0
        # Of rows without a key nobody knows the example; rows past the last record have none that counts.
        keys = read_keys(self._keys, found[0]).tobytes()
        if len(keys) < found[0] * KEY_BYTES or not self._keys.exists() or not found[0]:
            self._keys.write_bytes(keys.ljust(found[0] * KEY_BYTES, b"\0"))
        return found

    def _read_progress(self) -> tuple[int, int] | None:
        """Rows and CRC of an earlier start, or None when there is nothing to go on from."""
        try:
            record = json.loads(self._record.read_bytes())
            rows, crc = int(record["rows"]), int(record["crc32"])
            length = len(self._header) + rows * self._width
            with self._data.open("r+b") as file:
                if record["identity"] != self._identity or not 0 < rows <= self.count:
                    raise ValueError("the record is of other data")
                if file.read(len(self._header)) != self._header or os.fstat(file.fileno()).st_size < length:
                    raise ValueError("it is shorter than recorded")
                if _crc_of(file, rows * self._width) != crc:
                    raise ValueError("its bytes are not the recorded ones")
                # Rows past the last record may be half a row: a power cut came between.
                file.truncate(length)
            return rows, crc
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log().warning("cached embeddings are damaged and made again: %s", error)
            return None


def _npy_header(shape: tuple[int, int], dtype: np.dtype[Any]) -> bytes:
    header = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue()


def _leading(found: list[npt.NDArray[Any] | None]) -> list[npt.NDArray[Any]]:
    """Those before the first that is None."""
    return [array for array in itertools.takewhile(lambda array: array is not None, found) if array is not None]


def _write_all(file: io.FileIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]


def _crc_of(file: Any, length: int) -> int:
    crc = 0
    while length:
        piece = file.read(min(length, 1 << 20))
        if not piece:
            raise ValueError("it is shorter than recorded")
        crc = zlib.crc32(piece, crc)
        length -= len(piece)
    return crc
