"""Files as spreadsheets, sound programs and other libraries write them: read, or refused with the line that helps."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles import dataset, front_end
from protos.datafiles.formats.columns import reading
from protos.errors import DataError, EdgejouleError, LabelError

TABLE = front_end.front_end_of("windows length=4 hop=4 columns=ax,ay label=what")
MEL = front_end.front_end_of("log-mel rate=8000 frame=256 hop=128 bins=20 frames=30")
ROWS = [(0.5 + at / 8, 1.0 - at / 4, ("run", "sit")[at // 8]) for at in range(16)]


def table(
    path: Path, divider: str, decimal: str = ".", *, mark: bytes = b"", code: str = "utf-8", gap: str = ""
) -> Path:
    lines = [divider.join(("ax", f"{gap}ay", f"{gap}what"))]
    for value, other, name in ROWS:
        lines.append(
            divider.join((str(value).replace(".", decimal), gap + str(other).replace(".", decimal), gap + name))
        )
    path.write_bytes(mark + "\r\n".join(lines).encode(code))
    return path


@pytest.mark.parametrize(
    ("divider", "decimal", "more"),
    [
        (",", ".", {}),
        (";", ".", {}),
        (";", ",", {}),
        (";", ",", {"mark": b"\xef\xbb\xbf"}),
        ("\t", ",", {"code": "utf-16"}),
        ("|", ".", {}),
        (",", ".", {"gap": " "}),
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, divider: str, decimal: str, more: dict[str, Any]) -> None:
    found = dataset.load(table(tmp_path / "t.csv", divider, decimal, **more), front_end=TABLE)
    assert found.class_names == ("run", "sit")
    assert found.y.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(found.x.reshape(16, 2), np.array([row[:2] for row in ROWS], np.float32))
    assert found.left_out == ()


def test_a_number_of_two_signs_is_none(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", ";", ",")
    path.write_bytes(path.read_bytes() + b"\r\n1.234,5;1,0;sit")
    found = dataset.load(path, front_end=TABLE)
    assert dataset.account_of(found).endswith("left out: 1 row without a number or a class (t.csv:18)")
    path.write_bytes(b"ax;ax;what\n1;2;sit\n")
    with pytest.raises(DataError, match="has 2 columns 'ax'"):
        dataset.load(path, front_end=TABLE)


def wav(path: Path, samples: Any, kind: int, *, inner: int | None = None) -> Path:
    """A file with another part before its data, of this format; of an extensible one with a format inside."""
    body, bits = samples.tobytes(), 8 * samples.dtype.itemsize
    described = struct.pack("<HHIIHH", kind, 1, 8000, 8000 * bits // 8, bits // 8, bits)
    if inner is not None:
        described += struct.pack("<HHIH", 22, bits, 4, inner) + bytes(14)
    parts = b"fmt " + struct.pack("<I", len(described)) + described + b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    parts += b"data" + struct.pack("<I", len(body)) + body
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WAVE" + parts)
    return path


def test_recordings_of_floats_are_those_of_integers(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4000) / 8000)
    found = []
    for name, samples, kind, inner in (
        ("pcm", np.round(tone * 32767).astype("<i2"), 1, None),
        ("float", tone.astype("<f4"), 3, None),
        ("double", tone.astype("<f8"), 3, None),
        ("extensible", tone.astype("<f4"), 0xFFFE, 3),
        ("extensible_pcm", np.round(tone * 32767).astype("<i2"), 0xFFFE, 1),
    ):
        wav(tmp_path / name / "a" / "1.wav", samples, kind, inner=inner)
        found.append(dataset.load(tmp_path / name, front_end=MEL).x)
    loud = found[0] > -4  # below, 16 bits round
    for array in found[1:]:
        np.testing.assert_allclose(array[loud], found[0][loud], atol=0.02)


def test_recordings_that_are_coded_name_what_they_are(tmp_path: Path) -> None:
    wav(tmp_path / "a" / "1.wav", np.zeros(800, np.uint8), 6)
    with pytest.raises(DataError, match="of the kind A-law, 8 bits") as told:
        dataset.load(tmp_path, front_end=MEL)
    assert "pcm_s16le" in (told.value.fix or "")
    (tmp_path / "a" / "1.wav").write_bytes(b"RIFF\x04\0\0\0WAVE")
    with pytest.raises(DataError, match="cannot be read as a recording"):
        dataset.load(tmp_path, front_end=MEL)


@pytest.mark.parametrize(
    ("names", "way"),
    [
        ({"x_train": 0, "y_train": 1, "x_test": 0, "y_test": 1}, "is_test=numpy.arange(len(d['x_train'])"),
        ({"images": 0, "labels": 1}, "numpy.savez(FILE, x=d['images'], y=d['labels'])"),
        ({"arr_0": 0, "arr_1": 1}, "numpy.savez(FILE, x=d['arr_0'], y=d['arr_1'])"),
        ({"weights": 0}, "numpy.savez(FILE, x=..., y=...)"),
    ],
)
def test_arrays_of_other_names_are_told_by_them(tmp_path: Path, names: dict[str, int], way: str) -> None:
    arrays = (np.zeros((8, 3), np.float32), np.arange(8))
    np.savez(tmp_path / "d.npz", **{name: arrays[which] for name, which in names.items()})
    with pytest.raises(DataError, match="has no `x`") as told:
        dataset.load(tmp_path / "d.npz")
    assert way in (told.value.fix or "")


def test_labels_of_other_forms_name_the_call_that_makes_them_whole(tmp_path: Path) -> None:
    for y, way in ((np.eye(8), "y.argmax(axis=1)"), (np.array(["a", "b"] * 4), "numpy.unique(y, return_inverse=True)")):
        np.savez(tmp_path / "d.npz", x=np.zeros((8, 3), np.float32), y=y)
        with pytest.raises(EdgejouleError) as told:
            dataset.load(tmp_path / "d.npz")
        assert way in (told.value.fix or "")


def test_what_lies_in_the_place_of_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "d.npz").write_text("<!DOCTYPE html><html>not here</html>")
    with pytest.raises(DataError, match="is a web page, and no npz file"):
        dataset.load(tmp_path / "d.npz")
    for name, way in (("d.zip", "unpack it"), ("d.npy", "numpy.load"), ("d.pkl", "read it with what wrote it")):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(DataError, match="of an unknown kind") as told:
            dataset.load(tmp_path / name)
        assert way in (told.value.fix or "")
    with (
        pytest.raises(DataError, match="cannot be read as an npz file"),
        reading(str(tmp_path / "none"), "an npz file"),
    ):
        raise ValueError("damaged")


def test_blanks_at_the_end_of_a_name_are_none_of_it(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs the images extra")
    for folder in ("ant ", "bee", " cat"):
        (tmp_path / folder).mkdir()
        image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / folder / "1.png")
    found = dataset.load(tmp_path, image_shape=(4, 4, 3), classes=("ant", "bee", "cat"))
    assert found.class_names == ("ant", "bee", "cat")
    assert sorted(found.y.tolist()) == [0, 1, 2]
    (tmp_path / "ant").mkdir()
    image.new("RGB", (4, 4), (1, 9, 9)).save(tmp_path / "ant" / "2.png")
    assert dataset.load(tmp_path, image_shape=(4, 4, 3)).class_names == ("cat", "ant", "bee")
    with pytest.raises(LabelError, match="'bee' is not among"):
        dataset.load(tmp_path, image_shape=(4, 4, 3), classes=("ant", "cat", "dog"))


def test_a_recording_without_a_sample_is_no_silence(tmp_path: Path) -> None:
    wav(tmp_path / "a" / "1.wav", np.zeros(0, np.float32), 3)
    with pytest.raises(DataError, match="holds no sample") as told:
        dataset.load(tmp_path, front_end=MEL)
    assert told.value.fix == "record it again"
    wav(tmp_path / "a" / "2.wav", np.zeros(800, np.float32), 3)
    found = dataset.load(tmp_path, front_end=MEL, tolerant=True)
    assert len(found) == 1
    assert "1 recording that cannot be read" in dataset.account_of(found)
    (tmp_path / "a" / "1.wav").write_bytes((tmp_path / "a" / "2.wav").read_bytes()[:20])
    with pytest.raises(DataError, match="ends before its samples begin"):
        dataset.load(tmp_path, front_end=MEL)


def test_what_lies_in_the_place_of_recordings_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.flac", "2.flac", "notes"):
        (tmp_path / "a" / name).write_bytes(b"fLaC")
    with pytest.raises(EdgejouleError, match=r"it holds 2 \.flac \(a/1\.flac\), 1 file without an ending") as told:
        dataset.load(tmp_path, front_end=MEL)
    assert "ffmpeg -i IN" in (told.value.fix or "")
    (tmp_path / "1.wav").write_bytes(b"RIFF")
    with pytest.raises(EdgejouleError, match="1 recording outside the class folders"):
        dataset.load(tmp_path, front_end=MEL)


def test_a_table_without_a_window_says_what_its_rows_lack(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("ax,ay,what\n" + "2020-01-01,1,run\n" * 8)
    with pytest.raises(EdgejouleError, match=r"one class: 8 row without a number or a class \(t.csv:2\)") as told:
        dataset.load(path, front_end=TABLE)
    assert "let ax, ay hold one number each" in (told.value.fix or "")
    path.write_text("ax,ay,what\n1,1,run\n")
    with pytest.raises(EdgejouleError, match=r"shorter than a window \(t\.csv:2\); give tables with 4 rows"):
        dataset.load(path, front_end=TABLE)


def test_tables_of_tabs_are_read_and_other_encodings_named(tmp_path: Path) -> None:
    assert len(dataset.load(table(tmp_path / "t.tsv", "\t"), front_end=TABLE)) == 4
    path = tmp_path / "t.csv"
    path.write_bytes("ax,ay,what\n1,2,gehört\n".encode("latin-1"))
    with pytest.raises(DataError, match="is no text in UTF-8") as told:
        dataset.load(path, front_end=TABLE)
    assert "iconv" in (told.value.fix or "")


def test_tables_and_addresses_in_the_place_of_examples_are_told(tmp_path: Path) -> None:
    for name, way in (("t.csv", "--front-end"), ("t.tsv", "--front-end"), ("t.xlsx", "save its table as CSV")):
        (tmp_path / name).write_bytes(b"PK")
        with pytest.raises(DataError, match="of an unknown kind") as told:
            dataset.load(tmp_path / name)
        assert way in (told.value.fix or "")
    with pytest.raises(DataError, match=r"https://example\.org/d\.zip: no such file") as told:
        dataset.load("https://example.org/d.zip")
    assert "download it first" in (told.value.fix or "")
