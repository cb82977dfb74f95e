"""Sound and tables become examples by one line of the bundle, alike at the conversion and on every board."""

from __future__ import annotations

import doctest
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from protos.datafiles import dataset, front_end
from protos.datafiles.formats import table
from protos.datafiles.formats.sound import ENDLESS, recording, told_of
from protos.datafiles.front_end import LogMel, Windows, declared, front_end_of, log_mel
from protos.errors import DataError, EmptyShardError, LabelError, UsageError

MEL = "log-mel rate=8000 frame=256 hop=128 bins=20 frames=30"
SPEC = front_end_of(MEL)
assert isinstance(SPEC, LogMel)
LINE = "windows length=4 hop=2 columns=ax,ay label=what"


def write_wav(path: Path, samples: Any, *, rate: int = 8000, width: int = 2, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.repeat(np.asarray(samples)[:, None], channels, axis=1)
    if width == 1:
        data = np.round(values * 127 + 128).astype(np.uint8).tobytes()
    elif width == 3:
        whole = np.round(values * (2**23 - 1)).astype("<i4")
        data = whole.reshape(-1, 1).view(np.uint8)[:, :3].tobytes()
    else:
        data = np.round(values * (2 ** (8 * width - 1) - 1)).astype(f"<i{width}").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return path


def tone(hertz: float, seconds: float = 0.5, rate: int = 8000) -> np.ndarray[Any, Any]:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_a_line_says_a_front_end_or_why_not() -> None:
    assert front_end_of(LINE) == Windows(4, 2, ("ax", "ay"), "what")
    assert declared({}) is None
    assert declared({"front_end": MEL}) == SPEC
    for bad, words in (
        ("mfcc rate=8000", "'mfcc' is no front end"),
        ("", "'' is no front end"),
        ("log-mel rate=8000 frame=256 hop=128 bins=20", "frames="),
        ("log-mel rate=1 frame=256 hop=128 bins=20 frames=3", "rate=1 is no number from 1000"),
        (f"{MEL} loud=1", "has no 'loud'"),
        ("windows length=4 hop=2", "names no columns"),
        ("windows length=4 hop=2 columns=a,a", "or one twice"),
    ):
        with pytest.raises(UsageError, match=words):
            front_end_of(bad)
    assert doctest.testmod(front_end).failed == 0


def test_a_tone_is_loudest_in_the_band_where_it_lies_and_as_loud_as_parseval_says() -> None:
    assert isinstance(SPEC, LogMel)
    edges = 700 * (10 ** (np.linspace(*(2595 * np.log10(1 + np.array([20, 4000]) / 700)), 22) / 2595) - 1)
    for band in (4, 10, 17):
        picture = log_mel(tone(edges[band + 1]), SPEC)
        assert picture.shape == SPEC.shape == (30, 20)
        assert set(picture.argmax(axis=1)) == {band}
    # A Hann window of N samples over a sine of amplitude A: |X|^2 / N sums to N A^2 3/16 over the bins of one side.
    picture = log_mel(tone(1000.0), SPEC)
    assert 10 ** picture[5].astype(float).max() < 256 * 0.25 * 3 / 16 * 1.05


def test_silence_is_the_floor_and_length_is_made_right() -> None:
    assert isinstance(SPEC, LogMel)
    assert (log_mel(np.zeros(100), SPEC) == -10.0).all()
    long = np.concatenate([np.zeros(8000), tone(1000, SPEC.samples / 8000), np.zeros(8000)])
    np.testing.assert_allclose(log_mel(long, SPEC), log_mel(tone(1000, SPEC.samples / 8000), SPEC), atol=1e-5)
    assert (log_mel(tone(1000, 0.1), SPEC)[-5:] == -10.0).all(), "padded with silence behind"


@pytest.mark.parametrize(
    ("width", "channels", "off"), [(1, 1, 0.02), (2, 1, 1e-4), (2, 2, 1e-4), (3, 1, 1e-6), (4, 1, 1e-6)]
)
def test_recordings_of_every_width_are_read(width: int, channels: int, off: float, tmp_path: Path) -> None:
    from protos.datafiles.formats.sound import recording

    path = write_wav(tmp_path / "a.wav", tone(440), width=width, channels=channels)
    np.testing.assert_allclose(recording(path, 8000), tone(440), atol=off)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (0, "holds no sample, by its header; 16000 bytes follow"),
        (160_000, "is cut short: 16000 of 160000 bytes of samples are there"),
        (0xFFFFFFFF, ""),
        (16_050, ""),
    ],
)
def test_a_recording_whose_header_lies_is_no_silence(says: int, words: str, tmp_path: Path) -> None:
    from protos.datafiles.formats.sound import recording

    path = write_wav(tmp_path / "a.wav", tone(440, 1.0))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = says.to_bytes(4, "little")
    path.write_bytes(bytes(data[: at + 4 + 16000]))
    if words:
        with pytest.raises(DataError, match=words):
            recording(path, 8000)
    else:
        assert len(recording(path, 8000)) == 8000
    path.write_bytes(bytes(data[: at + 4]))
    with pytest.raises(DataError, match="holds no sample"):
        recording(path, 8000)


@pytest.mark.parametrize("says", [0x7FFFF000, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF], ids=hex)
def test_a_recording_from_a_pipe_is_read_to_the_end_of_its_file_and_that_is_said(says: int, tmp_path: Path) -> None:
    # As sox, arecord and ffmpeg write them when they do not know how long it will be.
    for name in ("low", "high"):
        path = write_wav(tmp_path / name / "a.wav", tone(440.0))
        whole = recording(path, 8000)
        data = bytearray(path.read_bytes())
        data[4:8] = min(says + 36, 0xFFFFFFFF).to_bytes(4, "little")
        data[40:44] = says.to_bytes(4, "little")
        path.write_bytes(data)
        assert told_of(path) == ENDLESS
        assert np.array_equal(recording(path, 8000), whole)
    found = dataset.load(tmp_path, front_end=SPEC)
    assert len(found) == 2
    (told,) = found.changed
    assert (told.count, told.kind) == (2, ENDLESS)
    assert not told_of(write_wav(tmp_path / "b.wav", tone(440.0)))


def test_a_table_without_an_end_of_its_line_is_refused_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for text in ("ax,ay,what," + "z" * 300_000, "ax,ay,what\n1,2,a\n3,4," + "b" * 300_000 + "\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=f"has no end of line {text.count(chr(10), 0, 40) + 1} within"):
            dataset.load(path, front_end=front_end_of(LINE))
    # A quote that nobody closes makes one cell of all that follows.
    path.write_text('ax,ay,what\n1,2,"a\n' + "3,4,b\n" * 40_000)
    with pytest.raises(DataError, match="is no table of cells"):
        dataset.load(path, front_end=front_end_of(LINE))


def test_a_folder_of_recordings_is_data_by_class(tmp_path: Path) -> None:
    for number in range(6):
        split = "test" if number > 3 else "train"
        write_wav(
            tmp_path / split / ("low" if number % 2 else "high") / f"{number}.wav", tone(300 + 900 * (number % 2))
        )
    data = dataset.load(tmp_path, classes=("low", "high"), front_end=SPEC)
    assert data.held.shape == (6, 30, 20)
    assert data.held.dtype == np.float32
    assert sorted(data.y.tolist()) == [0, 0, 0, 1, 1, 1]
    assert int(data.is_test.sum()) == 2
    assert dataset.fitted(data, (30, 20, 1)).held.shape == (6, 30, 20, 1)
    listed = dataset.load(tmp_path, decoded=False)
    assert listed.held.shape == (6, 0), "before a bundle is known they are only counted"
    write_wav(tmp_path / "train" / "low" / "fast.wav", tone(300, rate=16000), rate=16000)
    (tmp_path / "train" / "low" / "broken.wav").write_bytes(b"RIFFnothing")
    with pytest.raises(DataError, match=r"cannot be read as a recording|16000 samples a second"):
        dataset.load(tmp_path, classes=("low", "high"), front_end=SPEC)
    kept = dataset.load(tmp_path, classes=("low", "high"), front_end=SPEC, tolerant=True)
    assert len(kept) == 6
    assert kept.set_aside[0].count == 2
    with pytest.raises(LabelError):
        dataset.load(tmp_path, classes=("dog", "cat"), front_end=SPEC)


def test_a_table_is_cut_into_windows_of_one_class(tmp_path: Path) -> None:
    rows = ["ay,what,ax"]
    rows += [f"{number},walk,{number + 0.5}" for number in range(9)]
    rows += [f"{number},run,{number + 0.5}" for number in range(4)]
    rows += ["1,run,what", "2,run,3", "3,rest,4"]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(rows))
    data = dataset.load(path, classes=("run", "walk"), front_end=front_end_of(LINE))
    assert data.y.tolist() == [1, 1, 1, 0]
    np.testing.assert_array_equal(data.held[1:2][0], [[2.5, 2], [3.5, 3], [4.5, 4], [5.5, 5]])
    assert [(remark.kind, remark.count) for remark in data.left_out] == [
        ("row without a number or a class", 1), ("stretch of one class, shorter than a window", 2),
    ]  # fmt: skip
    assert dataset.load(path, decoded=False).held.shape == (1, 0)
    folder = tmp_path / "many"
    for name in ("train/a.csv", "test/b.csv"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(path.read_text())
    many = dataset.load(folder, classes=("run", "walk"), front_end=front_end_of(LINE))
    assert (len(many), int(many.is_test.sum())) == (8, 4)
    with pytest.raises(DataError, match="has no column 'az'"):
        dataset.load(path, front_end=front_end_of("windows length=4 hop=2 columns=ax,az label=what"))
    with pytest.raises(EmptyShardError, match="no window of one class"):
        dataset.load(path, front_end=front_end_of("windows length=40 hop=2 columns=ax label=what"))


def test_a_parquet_table_gives_the_windows_of_the_same_table_as_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    monkeypatch.setattr(table, "_ROWS_AT_ONCE", 5)
    ax = [number + 0.5 for number in range(9)] * 2 + [float("nan"), 3.0, 4.0]
    ay = [float(number) for number in range(9)] * 2 + [1.0, None, 4.0]
    what = ["walk"] * 9 + ["run"] * 9 + ["run", "run", None]
    cells = zip(ax, ay, what, strict=True)
    rows = [f"{'' if y is None else y},{name or ''},{x}" for x, y, name in cells]
    (tmp_path / "own.csv").write_text("\n".join(["ay,what,ax", *rows]))
    columns = {"ay": ay, "other": list(range(21)), "what": arrow.array(what).dictionary_encode(), "ax": ax}
    parquet.write_table(arrow.table(columns), tmp_path / "own.parquet", row_group_size=4)
    plain, found = (
        dataset.load(tmp_path / name, classes=("run", "walk"), front_end=front_end_of(LINE))
        for name in ("own.csv", "own.parquet")
    )
    assert found.y.tolist() == plain.y.tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(found.held[:], plain.held[:])
    assert [(remark.kind, remark.count) for remark in found.left_out] == [("row without a number or a class", 3)]
    both = dataset.load(tmp_path, classes=("run", "walk"), front_end=front_end_of(LINE))
    assert len(both) == 12
    # A class that is a number is named by its digits.
    parquet.write_table(arrow.table({"ax": ax[:8], "ay": ay[:8], "what": [7] * 8}), tmp_path / "numbers.pq")
    numbers = dataset.load(tmp_path / "numbers.pq", front_end=front_end_of(LINE))
    assert numbers.class_names == ("7",)
    with pytest.raises(DataError, match="has no column 'az'"):
        dataset.load(tmp_path / "own.parquet", front_end=front_end_of(LINE.replace("ax,ay", "ax,az")))
    content = (tmp_path / "own.parquet").read_bytes()
    for name, broken in (("short.parquet", content[: len(content) // 2]), ("other.parquet", b"no table at all")):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(DataError, match="cannot be read as a table"):
            dataset.load(tmp_path / name, front_end=front_end_of(LINE))


def test_a_parquet_table_names_the_extra_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "own.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"pyarrow is not installed.*edgejoule\[parquet\]"):
        dataset.load(tmp_path / "own.parquet", front_end=front_end_of(LINE))
