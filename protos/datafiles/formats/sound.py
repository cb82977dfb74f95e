"""Folders of WAV recordings, by class, through a bundle's log-mel front end.

PCM of 8, 16, 24 and 32 bits, and floats of 32 and 64 (-1 to 1); several channels become their mean. The rate must be
the front end's: resampling would change what the model hears in silence.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from protos.datafiles.account import Tally, listed
from protos.datafiles.classes import renumber
from protos.datafiles.formats.class_folders import Kind, Search
from protos.datafiles.formats.columns import NO_LABEL, Choose, Columns, reading
from protos.datafiles.front_end import LogMel, log_mel
from protos.datafiles.renames import composed
from protos.errors import DataError, EmptyShardError
from protos.progress import progressed

__all__ = ["ENDLESS", "LONGER", "is_recording", "read", "recording", "told_of"]

ENDLESS = "recording read to the end of its file, since its header says no length"
LONGER = "recording read as far as its header says, though its file goes on"


def is_recording(path: Path) -> bool:
    """Whether a name ends as that of a recording does."""
    return path.suffix.lower() == ".wav"


def read(
    folder: Path,
    choose: Choose,
    spec: LogMel,
    classes: Sequence[str] | None,
    renames: Mapping[str, str] | None = None,
    *,
    tolerant: bool = False,
) -> tuple[NDArray[np.float32], Columns]:
    """Read the chosen recordings: ``FOLDER/CLASS/*.wav``, with or without ``train/`` and ``test/`` above.

    Returns:
        x, float32 [M, frames, bins], and its columns.

    Raises:
        DataError: a recording cannot be read, or is of another rate. LabelError: a folder that is no class of the
        model. EmptyShardError: no recording at all.
    """
    search = Search(folder, KIND, {*(classes or ()), *(renames or {})})
    paths, names, held_out, left_out = search.paths, search.class_of, search.held_out, search.left_out.remarks()
    if not paths:
        fix = "make one sub-folder per class, with .wav recordings in it"
        if any(remark.kind in _SOUNDS for remark in left_out):
            fix = f"{_CONVERTED}, {fix.removeprefix('make ')}"
        told = f"; it holds {listed(left_out)}" if left_out else ""
        raise EmptyShardError(f"holds no recording in a class folder{told}", where=str(folder), fix=fix)
    search.check_names(folder, known=classes)
    stored = list(dict.fromkeys(composed(name) for name in sorted(set(names))))
    number = {name: index for index, name in enumerate(stored)}
    y = np.array([number[composed(name)] for name in names], np.int32)
    y, class_names = renumber(y, stored, classes, str(folder), renames, tolerant=tolerant)
    described = Columns(y, np.array(held_out, np.bool_), None, class_names, left_out)
    rows = choose(described)
    kept, aside, changed = np.arange(len(y)) if rows is None else rows, Tally(), Tally()
    x = np.empty((len(kept), *spec.shape), np.float32)
    readable: list[int] = []
    for row in kept.tolist():
        progressed()
        if y[row] == NO_LABEL:
            aside.add(f"of class {names[row]!r}, which the model has not", str(paths[row].relative_to(folder)))
            continue
        try:
            x[len(readable)] = log_mel(recording(paths[row], spec.rate), spec)
            if told := told_of(paths[row]):
                changed.add(told, str(paths[row].relative_to(folder)))
        except DataError as error:
            if not tolerant:
                raise
            aside.add("recording that cannot be read", f"{paths[row].relative_to(folder)}: {error.what}"[:200])
            continue
        readable.append(row)
    found = described.select(np.array(readable, np.int64))
    found = replace(found, set_aside=aside.remarks(), changed=changed.remarks())
    return x[: len(readable)], found


def recording(path: Path, rate: int) -> NDArray[np.float64]:
    """The samples of a recording, float64 [n], -1 to 1.

    Raises:
        DataError: it cannot be read, or is of another rate.
    """
    with reading(str(path), "a recording"):
        channels, found, values = _samples(path)
        if found != rate:
            fix = f"record at {rate} Hz, or convert the recordings to it"
            raise DataError(f"has {found} samples a second, the model takes {rate}", where=str(path), fix=fix)
        frames = values[: len(values) // channels * channels].reshape(-1, channels)
        return np.asarray(frames.mean(axis=1), np.float64)


_SOUNDS = (".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".amr", ".caf")
_PLAIN = "convert it to PCM, such as ffmpeg -i IN.wav -c:a pcm_s16le OUT.wav"
_CONVERTED = "convert them to PCM, such as ffmpeg -i IN -c:a pcm_s16le OUT.wav"


# From here on a length is what programs write that do not know it: sox 0x7FFFF000, arecord 0x80000000, ffmpeg
# 0xFFFFFFFF. What they write to a pipe ends with the file.
_UNKNOWN = 0x7FFF0000
# Of samples that a header promises, how many may lack: recorders that are switched off write their last block no more.
_MAY_LACK = 0.01
_MOST_OF_FORMAT = 64


@dataclass(frozen=True)
class _Layout:
    """Where the samples of a file are: offset and bytes; what its `fmt` says; whether its header tells no length; bytes
    behind them that are no other part of the file."""

    described: bytes
    at: int
    size: int
    endless: bool
    behind: int


def told_of(path: Path) -> str:
    """What of a recording's length is to be told; empty where its header and its file agree."""
    with reading(str(path), "a recording"), path.open("rb") as file:
        layout = _layout(file, path)
    if layout.endless:
        return ENDLESS
    return LONGER if layout.behind > _MAY_LACK * layout.size else ""


def _layout(file: BinaryIO, path: Path) -> _Layout:
    """The parts of a RIFF file, without its samples.

    Refused are a recording without a sample, and one that was cut short: it would be taken for silence at its end.

    Raises:
        DataError: see above. ValueError: it is none.
    """
    here = file.seek(0, os.SEEK_END)
    file.seek(0)
    start = file.read(12)
    for begins, named in _OTHER_FILES.items():
        if start.startswith(begins) or (start[4:8] == b"ftyp" and begins == b"caff"):
            named = "an M4A or MP4 file" if start[4:8] == b"ftyp" else named
            raise DataError(f"is {named} under the name of a WAV file", where=str(path), fix=_PLAIN)
    if start[:4] != b"RIFF" or start[8:12] != b"WAVE":
        raise ValueError("it does not begin as one does" if start else "it is empty")
    at, described = 12, b""
    while at + 8 <= here:
        file.seek(at)
        head = file.read(8)
        said, there = int.from_bytes(head[4:], "little"), here - at - 8
        if head[:4] == b"fmt " and not described:
            described = file.read(min(said, _MOST_OF_FORMAT))
        if head[:4] != b"data":
            at += 8 + said + said % 2
            continue
        if min(said, there) == 0:
            what = "holds no sample"
            if there:
                what += f", by its header; {there} bytes follow, as when a recorder was cut off"
            raise DataError(what, where=str(path), fix="record it again")
        endless = said >= _UNKNOWN and there < said
        if not endless and there < (1.0 - _MAY_LACK) * said:
            what = f"is cut short: {there} of {said} bytes of samples are there"
            raise DataError(what, where=str(path), fix="copy or record it again")
        if len(described) < 16:
            raise ValueError("nothing before its samples says what they are")
        behind = 0 if there <= said + said % 2 else _no_part(file, at + 8 + said + said % 2, here)
        return _Layout(described, at + 8, min(said, there), endless, behind)
    raise ValueError("it ends before its samples begin")


def _no_part(file: BinaryIO, at: int, here: int) -> int:
    """Bytes from a place to the end that are no part of a RIFF file, but for a second one of samples."""
    file.seek(at)
    head = file.read(8)
    said = int.from_bytes(head[4:], "little")
    part = head[:4].isascii() and head[:4].decode("ascii").isprintable() and head[:4] != b"data"
    return 0 if part and at + 8 + said <= here + 1 else here - at


# By how they begin: what people give the name of a recording.
_OTHER_FILES = {
    b"ID3": "an MP3 file", b"\xff\xfb": "an MP3 file", b"\xff\xf3": "an MP3 file", b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file", b"FORM": "an AIFF file", b"RF64": "an RF64 file", b"BW64": "a BW64 file",
    b"RIFX": "a WAV file of the other byte order", b"caff": "a CAF file",
}  # fmt: skip

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHERS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 17: "IMA ADPCM", 49: "GSM", 85: "MP3"}


def _samples(path: Path) -> tuple[int, int, NDArray[np.float64]]:
    """Channels, samples a second, and all samples of a file.

    Source: Multiple Channel Audio Data and WAVE Files, Microsoft 2007 (format 1: integers; 3: floats; 0xFFFE: the first
    two bytes of its GUID are the format).
    """
    with path.open("rb") as file:
        layout = _layout(file, path)
        file.seek(layout.at)
        stored = np.frombuffer(file.read(layout.size), np.uint8)
    kind, channels, rate, _, frame, bits = struct.unpack_from("<HHIIHH", layout.described)
    if kind == _EXTENSIBLE and len(layout.described) >= 26:
        (kind,) = struct.unpack_from("<H", layout.described, 24)
    if not channels:
        raise ValueError("it has no channel")
    if kind in (_PCM, _FLOAT) and bits % 8 == 0 and bits and frame != channels * bits // 8:
        what = f"says {bits} bits a sample, and {frame} bytes for one of each of {channels} channels"
        raise DataError(what, where=str(path), fix=_PLAIN)  # nobody knows at which end of the bytes they lie
    if kind == _PCM and bits in (8, 16, 24, 32):
        return channels, rate, _values(stored, bits // 8)
    if kind != _FLOAT or bits not in (32, 64):
        raise DataError(
            f"is a recording of the kind {_OTHERS.get(kind, kind)}, {bits} bits", where=str(path),
            fix=_PLAIN,
        )  # fmt: skip
    values = stored[: len(stored) // (bits // 8) * (bits // 8)].view(f"<f{bits // 8}").astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("holds NaN or infinite samples", where=str(path), fix="record it again")
    return channels, rate, values


def _values(data: NDArray[np.uint8], width: int) -> NDArray[np.float64]:
    if width == 1:
        return (data.astype(np.float64) - 128.0) / 128.0
    if width == 3:
        whole = data[: len(data) // 3 * 3].reshape(-1, 3).astype(np.int32)
        packed = (whole[:, 0] << 8) | (whole[:, 1] << 16) | (whole[:, 2] << 24)
        return packed.astype(np.float64) / 2.0**31
    kinds: dict[int, Any] = {2: "<i2", 4: "<i4"}
    whole = data[: len(data) // width * width].view(kinds[width])
    return whole.astype(np.float64) / 2.0 ** (8 * width - 1)


# Where data sets keep all recordings, with their classes in a table.
KIND = Kind("recording", is_recording, frozenset({"audio", "wav", "wavs", "recordings", "sounds", "clips"}))
"""Of folders of recordings."""
