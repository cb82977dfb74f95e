"""Tables and recordings as programs and contests hand them out: nothing vanishes, and no class is made of a gap."""

from __future__ import annotations

import doctest
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from protos.datafiles import dataset
from protos.datafiles.formats import class_folders
from protos.datafiles.formats.sound import LONGER
from protos.datafiles.front_end import front_end_of
from protos.errors import DataError, EdgejouleError, EmptyShardError, LabelError, ShapeError
from tests.protos.test_front_ends import MEL, tone, write_wav

ROWS = front_end_of("rows width=2 label=y")
WINDOWS = front_end_of("windows length=2 hop=2 columns=a,b label=y")
SOUND = front_end_of(MEL)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("gap", ["NaN", "nan", "NA", "<NA>", "N/A", "#N/A"])
def test_a_class_that_is_missing_is_no_class(gap: str, tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", f"a,b,y\n1,2,ant\n3,4,{gap}\n5,6,bee\n")
    data = dataset.load(path, front_end=ROWS)
    assert (data.class_names, data.y.tolist()) == (("ant", "bee"), [0, 1])
    assert dataset.account_of(data).endswith("left out: 1 row without a number or a class (t.csv:3)")
    # A model may have a class called so.
    assert len(dataset.load(path, front_end=ROWS, classes=("ant", "bee", gap))) == 3


def test_whole_numbers_with_a_point_are_those_classes(tmp_path: Path) -> None:
    rows = "".join(f"{label},{label},{label}.0\n" for label in (*range(12), 10))
    path = written(tmp_path / "t.csv", f"a,b,y\n{rows}")
    numbers = tuple(map(str, range(12)))
    for classes in (None, numbers, tuple("abcdefghijkl")):
        data = dataset.load(path, front_end=ROWS, classes=classes)
        assert data.y.tolist() == [*range(12), 10]
    assert dataset.load(path, front_end=ROWS).class_names == numbers
    some = written(tmp_path / "some.csv", "a,b,y\n1,2,10.0\n3,4,2.0\n")
    assert dataset.load(some, front_end=ROWS, classes=numbers).y.tolist() == [10, 2]
    with pytest.raises(LabelError, match=r"'1\.0' is not among"):
        dataset.load(written(tmp_path / "v.csv", "a,b,y\n1,2,1.0\n3,4,2.5\n"), front_end=ROWS, classes=numbers)


def test_a_parquet_table_of_pandas_is_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra `parquet` is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"a": [1.0, 3.0, 5.0], "b": [2, 4, 6], "y": [1.0, float("nan"), 0.0], "__index_level_0__": [7, 8, 9]}
    parquet.write_table(arrow.table(columns), tmp_path / "t.parquet")
    data = dataset.load(tmp_path / "t.parquet", front_end=ROWS, classes=("0", "1"))
    assert (data.y.tolist(), data.x.tolist()) == ([1, 0], [[1, 2], [5, 6]])
    assert "1 column of row numbers (t.parquet, the last)" in dataset.account_of(data)
    parquet.write_table(arrow.table({**columns, "y": [b"ant", b"bee", b"ant"]}), tmp_path / "t.parquet")
    assert dataset.load(tmp_path / "t.parquet", front_end=ROWS).class_names == ("ant", "bee")


def test_marks_of_spreadsheets_are_no_columns(tmp_path: Path) -> None:
    for front_end in (ROWS, WINDOWS):
        data = dataset.load(written(tmp_path / "t.csv", "sep=;\na;b;y;\n1,5;2;ant;\n3;4;ant;\n"), front_end=front_end)
        assert data.x.reshape(-1).tolist() == [1.5, 2, 3, 4]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'a,b,y\n1,2,"ant\n3,4,ant\n', "close its quotes"),
        ("a,b,y\n1,2,ant\n".encode("utf-16-le"), "UTF-16 without its mark"),
        (b"a,b,y\n1,2," + b"x" * 5000 + b"\n", r"class 'x{57}\.\.\.' is not among"),
        (b"a,b\n1,2\n", "has no column 'y'"),
    ],
)
def test_a_table_that_would_be_misread_is_refused_in_short_words(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(EdgejouleError, match=words) as told:
        dataset.load(tmp_path / "t.csv", front_end=ROWS, classes=("ant", "bee"))
    assert len(str(told.value)) < 500
    assert str(told.value).isprintable()


def test_numbers_that_float32_does_not_hold_are_none(tmp_path: Path) -> None:
    data = dataset.load(written(tmp_path / "t.csv", "a,b,y\n1e39,2,ant\n3,4,ant\n"), front_end=ROWS)
    assert data.x.tolist() == [[3, 4]]


def test_a_test_table_beside_a_train_table_is_held_out_or_told(tmp_path: Path) -> None:
    written(tmp_path / "d" / "train.csv", "a,b,y\n1,2,ant\n3,4,bee\n")
    written(tmp_path / "d" / "test.csv", "a,b,y\n5,6,bee\n")
    written(tmp_path / "d" / "._train.csv", "\0")
    written(tmp_path / "d" / "notes.txt", "")
    (tmp_path / "d" / "up").symlink_to("..")
    data = dataset.load(tmp_path / "d", front_end=ROWS)
    assert data.x[data.is_test].tolist() == [[5, 6]]
    assert data.x[~data.is_test].tolist() == [[1, 2], [3, 4]]
    assert "left out: 1 .txt (notes.txt), 1 link to a folder above it (up)" in dataset.account_of(data)
    written(tmp_path / "d" / "test.csv", "a,b\n5,6\n")
    assert "1 table without a class (test.csv)" in dataset.account_of(dataset.load(tmp_path / "d", front_end=ROWS))
    # Alone, a test is a trial of somebody's.
    written(tmp_path / "e" / "test.csv", "a,b,y\n5,6,bee\n")
    assert not dataset.load(tmp_path / "e", front_end=ROWS).is_test.any()
    shutil.rmtree(tmp_path / "d")
    written(tmp_path / "d" / "notes.txt", "")
    with pytest.raises(EmptyShardError, match=r"holds no table; it holds 1 \.txt"):
        dataset.load(tmp_path / "d", front_end=ROWS)
    with pytest.raises(DataError, match=r"unpack it, and give t\.csv"):
        dataset.load(written(tmp_path / "t.csv.gz", ""), front_end=ROWS)


def test_a_folder_of_tables_that_is_a_link_is_read(tmp_path: Path) -> None:
    written(tmp_path / "elsewhere" / "a.csv", "a,b,y\n1,2,ant\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "far").symlink_to("../elsewhere")
    assert len(dataset.load(tmp_path / "d", front_end=ROWS)) == 1


def test_recordings_are_found_as_pictures_are(tmp_path: Path) -> None:
    for where in ("my_data/train_set/ant/1", "my_data/train_set/bee/deep/1", "my_data/test_set/ant/1"):
        write_wav(tmp_path / f"{where}.wav", tone(440.0))
    written(tmp_path / "my_data" / "train_set" / "cat" / "1.mp3", "ID3")
    (tmp_path / "my_data" / "train_set" / "dog").symlink_to("bee")
    data = dataset.load(tmp_path, front_end=SOUND)
    assert data.class_names == ("ant", "bee", "dog")
    assert np.bincount(data.y[~data.is_test]).tolist() == [1, 1, 1]
    assert data.y[data.is_test].tolist() == [0]
    told = dataset.account_of(data)
    assert "1 .mp3 (my_data/train_set/cat/1.mp3), 1 class folder without a recording (my_data/train_set/cat)" in told


def test_recordings_in_one_pool_are_not_one_class(tmp_path: Path) -> None:
    write_wav(tmp_path / "audio" / "1-100032-A-0.wav", tone(440.0))
    written(tmp_path / "meta" / "esc50.csv", "filename,category\n")
    with pytest.raises(EmptyShardError, match="all 1 recordings lie in one folder 'audio'"):
        dataset.load(tmp_path, front_end=SOUND)


def test_words_of_a_name_tell_its_split() -> None:
    assert doctest.testmod(class_folders).failed == 0


@pytest.mark.parametrize(
    ("given", "wanted", "call"),
    [
        ((4, 4, 4), (4, 4, 3), "x[..., :3]"),
        ((4, 4), (4, 4, 3), "numpy.repeat(x[..., None], 3, axis=-1)"),
        ((4, 4, 1), (4, 4, 3), "numpy.repeat(x, 3, axis=-1)"),
        ((4, 4, 3), (4, 4, 1), "x.mean(axis=-1)"),
        ((48,), (4, 4, 3), "x.reshape(-1, 4, 4, 3)"),
        ((4, 4, 3), (48,), "x.reshape(-1, 48)"),
    ],
)
def test_the_call_that_makes_a_shape_right_is_said_and_does(
    given: tuple[int, ...], wanted: tuple[int, ...], call: str, tmp_path: Path
) -> None:
    x = np.zeros((6, *given), np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(6, np.int32))
    with pytest.raises(ShapeError) as told:
        dataset.fitted(dataset.load(tmp_path / "a.npz"), wanted)
    assert call in str(told.value)
    made = eval(call, {"numpy": np, "x": x})
    np.savez(tmp_path / "a.npz", x=made, y=np.zeros(6, np.int32))
    assert dataset.fitted(dataset.load(tmp_path / "a.npz"), wanted).held.shape == (6, *wanted)


def header(data: bytes, *, bits: int = 16, frame: int = 2, begins: bytes = b"RIFF", says: int | None = None) -> bytes:
    body = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000 * frame, frame, bits)
    body += b"data" + struct.pack("<I", len(data) if says is None else says) + data
    return begins + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ID3\x03" + b"\0" * 500, "is an MP3 file under the name of a WAV file"),
        (b"fLaC" + b"\0" * 500, "is a FLAC file"),
        (b"\0\0\0\x20ftypM4A " + b"\0" * 500, "is an M4A or MP4 file"),
        (header(b"\0" * 8000, begins=b"RF64"), "is an RF64 file"),
        (header(b"\0" * 8000, bits=24, frame=4), "says 24 bits a sample, and 4 bytes"),
    ],
)
def test_what_is_no_plain_recording_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "1.wav").write_bytes(content)
    with pytest.raises(DataError, match=words) as told:
        dataset.load(tmp_path, front_end=SOUND)
    assert "ffmpeg" in (told.value.fix or "")


@pytest.mark.parametrize(
    ("behind", "told"),
    [
        (b"", False),
        (b"LIST" + struct.pack("<I", 400) + b"x" * 400, False),
        (b"\1\2" * 3000, True),
        (b"data" + struct.pack("<I", 400) + b"x" * 400, True),
    ],
)
def test_a_file_that_goes_on_behind_its_samples_is_told(behind: bytes, told: bool, tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    samples = (tone(440.0) * 32767).astype("<i2").tobytes()
    (tmp_path / "ant" / "1.wav").write_bytes(header(samples) + behind)
    data = dataset.load(tmp_path, front_end=SOUND)
    assert (f"changed: 1 {LONGER} (ant/1.wav)" in dataset.account_of(data)) is told
