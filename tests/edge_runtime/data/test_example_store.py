"""The store of own examples: what is added is there, also after a power cut, and bounds hold for years."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_runtime.cli import main
from edge_runtime.data.store import Bounds, ExampleStore
from protos.datafiles import dataset
from protos.datafiles.formats.collected import INDEX, RAW
from protos.errors import DataError, EmptyShardError, NonFiniteError, UsageError

DAY_S = 86_400.0


def example(number: int, shape: tuple[int, ...] = (8, 8, 1)) -> Any:
    return np.random.default_rng(number).integers(0, 255, shape).astype(np.uint8)


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(example(number, (20, 30))).save(file, "JPEG")
    return file.getvalue()


def test_what_is_added_is_read_as_data_whatever_kind_it_is_of(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    first = store.add(example(1), "cat")
    store.add(jpeg(2), "dog")
    store.add(example(3), "cat", held_out=True)
    waiting = store.add(jpeg(4), None)
    assert store.add(example(1), None) == first, "the same content is kept once"
    stats = store.stats()
    assert (stats.by_label, stats.held_out, stats.unlabelled, stats.seen) == ({"cat": 1, "dog": 1}, 1, 1, 4)
    data = dataset.load(tmp_path / "own", image_shape=(8, 8, 1), classes=("dog", "cat", "bird"))
    assert data.y.tolist() == [1, 0, 1]
    assert data.is_test.tolist() == [False, False, True]
    np.testing.assert_array_equal(data.held[0:1][0], example(1))
    assert [(remark.kind, remark.count) for remark in data.left_out] == [("example that waits for a label", 1)]
    store.label([waiting], "bird")
    assert len(dataset.load(tmp_path / "own", image_shape=(8, 8, 1), classes=("dog", "cat", "bird"))) == 4
    assert store.drop([first]) == 1
    assert not (tmp_path / "own" / RAW / f"{first}.npy").exists()
    with pytest.raises(UsageError, match=f"no example is called '{first}'"):
        store.label([first], "cat")
    listed = dataset.load(tmp_path / "own", decoded=False)
    assert (listed.held.shape, listed.class_names) == ((3, 0), ("bird", "cat", "dog"))


def test_real_numbers_make_all_examples_such(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(np.full((4, 2), 0.5, np.float32), "a")
    store.add(example(1, (4, 2)), "b")
    data = dataset.load(tmp_path / "own", image_shape=(4, 2), classes=("a", "b"))
    assert data.held.dtype == np.float32
    assert data.held[0:1][0, 0, 0] == 0.5


@pytest.mark.parametrize(
    ("x", "label", "error"),
    [
        (b"no image", "a", DataError),
        (np.full((2, 2), np.nan, np.float32), "a", NonFiniteError),
        (np.zeros((0,), np.uint8), "a", DataError),
        (np.array(["x"]), "a", DataError),
        (np.zeros((2, 2), np.uint8), " ", DataError),
        (np.zeros((2, 2), np.uint8), "a\nb", DataError),
    ],
)
def test_what_is_no_example_is_refused_and_nothing_is_left_of_it(
    x: Any, label: str, error: type[Exception], tmp_path: Path
) -> None:
    store = ExampleStore(tmp_path / "own")
    with pytest.raises(error):
        store.add(x, label)
    assert store.entries() == []
    assert not list((tmp_path / "own").glob(f"{RAW}/*"))


def test_bounds_by_count_age_and_bytes(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    store = ExampleStore(tmp_path / "own", now_unix_s=lambda: now[0])
    store.keep(Bounds(most_count=5))
    names = [store.add(example(number), "a") for number in range(8)]
    store.add(example(99), "a", held_out=True)
    assert [entry.name for entry in store.entries()][:5] == names[3:]
    assert store.stats().held_out == 1, "held-out examples are not counted among those"
    assert len(list((tmp_path / "own" / RAW).iterdir())) == 6
    store.keep(Bounds(most_days=3.0))
    for _ in range(4):
        now[0] += DAY_S
        store.trim()
    assert store.stats().by_label == {}, "they are four days old"
    size = len((tmp_path / "own" / RAW / (store.add(example(50), "a") + ".npy")).read_bytes())
    store.keep(Bounds(most_bytes=3 * size))
    last = [store.add(example(100 + number), "a") for number in range(5)]
    assert [entry.name for entry in store.entries()] == last[2:]


def test_a_clock_that_jumps_deletes_nothing(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    store = ExampleStore(tmp_path / "own", now_unix_s=lambda: now[0])
    store.keep(Bounds(most_days=30.0))
    store.add(example(1), "a")
    for number, jump_s in enumerate((-730 * DAY_S, 730 * DAY_S, 3650 * DAY_S), 2):
        now[0] += jump_s
        store.add(example(number), "a")
        assert store.trim() == 0
    assert len(store.entries()) == 4
    for _ in range(31):
        now[0] += DAY_S
        store.trim()
    assert store.entries() == []


def test_a_reservoir_keeps_each_that_ever_came_with_the_same_chance(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    store.keep(Bounds(most_count=20, reservoir=True))
    kept: Counter[int] = Counter()
    for number in range(1, 201):
        store.add(example(number, (3,)), "a")
        if number % 10 == 0:
            assert len(store.entries()) == min(20, number)
    for entry in store.entries():
        kept[(entry.sequence - 1) // 50] += 1
    # 5 of each quarter in the mean; hypergeometric, sd 1.8: within four of them.
    assert all(abs(kept[quarter] - 5) <= 7 for quarter in range(4))
    assert max(entry.sequence for entry in store.entries()) > 100
    assert min(entry.sequence for entry in store.entries()) < 100
    assert store.stats().seen == 200


def test_the_ranks_behind_the_reservoir_are_uniform() -> None:
    from dataclasses import replace

    from edge_runtime.data.store import _rank
    from protos.datafiles.formats.collected import Entry

    one = Entry("x", "x.npy", 1, "a", False, "", 1, 0.0, 0.0)
    ranks = np.array([_rank(replace(one, sequence=number)) for number in range(1, 4001)])
    counts = np.histogram(ranks, bins=20, range=(0, 1))[0]
    # Chi-squared with 19 degrees of freedom; 43.8 is the 99.9th percentile.
    assert ((counts - 200) ** 2 / 200).sum() < 43.8
    # The first come no better off than the last.
    assert abs(ranks[:2000].mean() - ranks[2000:].mean()) < 0.04


def test_the_inbox_is_taken_up_by_folders_of_labels(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(example(1), "cat")
    inbox = tmp_path / "own" / "inbox"
    for name, data in (
        ("cat/a.jpg", jpeg(5)),
        ("dog/b.jpg", jpeg(6)),
        ("c.jpg", jpeg(7)),
        ("dog/.hidden.jpg", jpeg(8)),
        ("dog/half.jpg.part", jpeg(9)),
        ("dog/readme.txt", b"what"),
        ("dog/broken.npy", b"no array"),
    ):
        (inbox / name).parent.mkdir(parents=True, exist_ok=True)
        (inbox / name).write_bytes(data)
    np.save(inbox / "dog" / "d.npy", example(10))
    assert store.take_inbox() == 4
    assert store.stats().by_label == {"cat": 2, "dog": 2}
    assert store.stats().unlabelled == 1
    assert (inbox / ".refused" / "broken.npy").exists()
    assert (inbox / "dog" / "half.jpg.part").exists()
    assert store.take_inbox() == 0


def test_what_is_still_being_written_stays_in_the_inbox_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(example(1), "cat")
    inbox = tmp_path / "own" / "inbox" / "cat"
    inbox.mkdir(parents=True)
    array = io.BytesIO()
    np.save(array, example(10))
    whole = {"a.jpg": jpeg(5), "b.npy": array.getvalue(), "c.jpg": jpeg(6)}
    for name, data in whole.items():
        (inbox / name).write_bytes(data[: len(data) // 2])
    (inbox / "d.png").touch()
    assert store.take_inbox() == 0
    assert len(list(inbox.iterdir())) == 4, "nothing is lost of it"
    for name in ("a.jpg", "b.npy"):
        (inbox / name).write_bytes(whole[name])
    assert store.take_inbox() == 2
    assert store.stats().by_label == {"cat": 3}
    monkeypatch.setattr("edge_runtime.data.store._UNFINISHED_S", 0.0)
    assert store.take_inbox() == 1, "a picture that nobody completes is taken as it is, and set aside when it is read"
    refused = tmp_path / "own" / "inbox" / ".refused"
    for label in ("cat", "dog"):
        (inbox.parent / label).mkdir(exist_ok=True)
        (inbox.parent / label / "x.npy").write_bytes(b"no array of " + label.encode())
    assert store.take_inbox() == 0
    kept = {path.read_bytes() for path in refused.iterdir()}
    assert {b"no array of cat", b"no array of dog"} <= kept, "one of a name does not take the place of another"


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "PNG", "BMP", "WEBP"])
def test_no_part_of_a_picture_is_taken_for_all_of_it(tmp_path: Path, kind: str) -> None:
    """A thumbnail in a JPEG ends as the picture does, and the end of a GIF is a byte that is everywhere in it."""
    pixels = np.random.default_rng(4).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    file = io.BytesIO()
    # APP1, where cameras put a thumbnail: a whole JPEG of its own.
    more = {"exif": b"Exif\0\0" + jpeg(7)} if kind == "JPEG" else {}
    Image.fromarray(pixels).save(file, kind, **more)
    whole = file.getvalue()
    store = ExampleStore(tmp_path / "own")
    store.add(example(1), "cat")
    path = tmp_path / "own" / "inbox" / "dog" / f"a.{kind.lower()}"
    path.parent.mkdir(parents=True)
    for length in np.linspace(1200, len(whole) - 60, 12).astype(int).tolist():
        path.write_bytes(whole[: length - (whole[length - 1] == 0x3B)])
        assert store.take_inbox() == 0, f"{length} of {len(whole)} bytes"
    path.write_bytes(whole + b"more of a camera" * 400 * (kind == "JPEG"))
    assert store.take_inbox() == 1
    assert store.take_inbox() == 0
    assert not store._unfinished, "what has gone is not remembered"


def test_a_file_that_changes_while_it_is_taken_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(example(1), "cat")
    path = tmp_path / "own" / "inbox" / "dog" / "now.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(jpeg(5))
    add = store.add

    def changed(*args: Any, **more: Any) -> str:
        name = add(*args, **more)
        path.with_suffix(".part").write_bytes(jpeg(6))
        path.with_suffix(".part").replace(path)
        return name

    with monkeypatch.context() as during:
        during.setattr(store, "add", changed)
        assert store.take_inbox() == 1
    assert path.exists()
    assert store.take_inbox() == 1
    assert store.stats().by_label == {"cat": 1, "dog": 2}


def test_a_file_that_lies_about_its_shape_is_set_aside_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(np.zeros((2, 2), np.uint8), "cat")
    inbox = tmp_path / "own" / "inbox"
    lying, good = inbox / "dog" / "a.npy", inbox / "dog" / "b.npy"
    lying.parent.mkdir(parents=True, exist_ok=True)
    with lying.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**20)})
        file.write(bytes(64))
    np.save(good, np.ones((2, 2), np.uint8))
    large = inbox / "dog" / "c.jpg"
    with large.open("wb") as file:
        file.write(b"\xff\xd8\xff")
        # Takes no room on the disk, and no memory as long as nobody reads it.
        file.truncate(2**42)
    tracemalloc.start()
    try:
        # The one that is larger than any example may be goes at once; the other may still be on its way.
        assert store.take_inbox() == 1
        assert [path.name for path in (inbox / ".refused").iterdir()] == ["c.jpg"]
        assert lying.exists()
        monkeypatch.setattr("edge_runtime.data.store._UNFINISHED_S", 0.0)
        assert store.take_inbox() == 0
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert sorted(path.name for path in (inbox / ".refused").iterdir()) == ["a.npy", "c.jpg"]
    assert len(store.entries()) == 2


def test_a_file_that_may_not_be_read_ends_nothing_and_is_named(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(example(1), "cat")
    inbox = tmp_path / "own" / "inbox" / "dog"
    inbox.mkdir(parents=True)
    (inbox / "a.jpg").write_bytes(jpeg(5))
    (inbox / "b.jpg").write_bytes(jpeg(6))
    (inbox / "a.jpg").chmod(0)
    if os.geteuid() == 0:
        # Root reads everything: nobody looks at it in a process of his own.
        for path in (tmp_path / "own", *(tmp_path / "own").rglob("*")):
            os.chown(path, 65534, 65534)
        os.chown(inbox / "a.jpg", 0, 0)
        before = [parent.stat().st_mode for parent in (tmp_path, *tmp_path.parents)]
        for parent in (tmp_path, *tmp_path.parents[:-1]):
            parent.chmod(parent.stat().st_mode | 0o111)
        try:
            os.seteuid(65534)
            taken = store.take_inbox()
        finally:
            os.seteuid(0)
            for parent, mode in zip((tmp_path, *tmp_path.parents), before, strict=True):
                parent.chmod(mode & 0o7777)
    else:
        taken = store.take_inbox()
    assert taken == 1
    assert store.stats().by_label == {"cat": 1, "dog": 1}
    assert [one.rpartition(": ")[2] for one in store.unread] == ["Permission denied"]
    assert (inbox / "a.jpg").exists()


_ADDING = """
import sys
import numpy as np
from pathlib import Path
from edge_runtime.data.store import ExampleStore
store = ExampleStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    name = store.add(np.random.default_rng(number).integers(0, 255, (8, 8, 1)).astype(np.uint8), "cat")
    print(name, flush=True)
"""


def test_a_process_that_is_killed_while_it_adds_leaves_a_store_that_is_whole(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", _ADDING, str(tmp_path / "own")], stdout=subprocess.PIPE)
        assert child.stdout is not None
        for line, _ in zip(child.stdout, range(4 + len(told)), strict=False):
            told.append(line.decode().strip())
        child.send_signal(signal.SIGKILL)
        child.communicate()
    there = {entry.name for entry in ExampleStore(tmp_path / "own").entries()}
    assert set(told) <= there, "what it said is added is there"
    assert len(there) <= len(set(told)) + 3
    index = tmp_path / "own" / INDEX
    index.write_bytes(index.read_bytes()[:-7])
    store = ExampleStore(tmp_path / "own")
    before = len(store.entries())
    store.add(example(9_999), "dog")
    assert len(store.entries()) == before + 1, "a torn line does not swallow the next"
    sequences = [entry.sequence for entry in store.entries()]
    assert len(set(sequences)) == len(sequences)


def test_what_a_power_cut_leaves_of_a_write_goes_with_the_next(tmp_path: Path) -> None:
    ExampleStore(tmp_path / "own").add(example(1), "cat")
    left = [tmp_path / "own" / RAW / ".0000000002-12345678.npy.ab12.part", tmp_path / "own" / ".clock.json.ab12.part"]
    for one in left:
        one.write_bytes(b"half")
    store = ExampleStore(tmp_path / "own")
    store.add(example(2), "cat")
    assert not any(path.exists() for path in left)
    assert store.stats().by_label == {"cat": 2}


def test_the_index_does_not_grow_without_end(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    store.keep(Bounds(most_count=3))
    for number in range(200):
        store.add(example(number, (2,)), "a")
    assert len((tmp_path / "own" / INDEX).read_text().splitlines()) < 120
    assert store.stats().seen == 200


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jpg").write_bytes(jpeg(1))
    np.savez(
        "many.npz", x=np.stack([example(n) for n in (5, 6, 7)]), y=np.array([0, 1, 1]),
        is_test=np.array([False, False, True]), class_names=np.array(["cat", "dog"]),
    )  # fmt: skip
    at = ["--store", "own"]
    assert main(["data", "add", *at, "a.jpg"]) == 0
    assert main(["data", "add", *at, "many.npz"]) == 0
    capsys.readouterr()
    assert main(["data", "list", *at, "--unlabelled", "--json"]) == 0
    (row,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["schema"], row["label"]) == ("edgejoule.stored-example/1", None)
    assert main(["data", "label", *at, "--label", "bird", row["name"]]) == 0
    assert main(["data", "keep", *at, "--count", "100", "--reservoir", "on"]) == 0
    assert "at most 100 examples, a fair sample" in capsys.readouterr().out
    assert main(["data", "stats", *at, "--json"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["by_label"] == {"bird": 1, "cat": 1, "dog": 1}
    assert (stats["held_out"], stats["bounds"]["most_count"]) == (1, 100)
    assert main(["data", "keep", *at, "--count", "-1"]) == 0
    assert main(["data", "drop", *at, row["name"]]) == 0
    assert main(["data", "list", *at]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) >= 3
    assert main(["data", "drop", *at, "nothing"]) != 0
    assert "no example is called 'nothing'" in capsys.readouterr().err
    monkeypatch.setenv("EDGEJOULE_DATA", str(tmp_path / "many.npz"))
    assert main(["data", "stats"]) != 0
    assert "is no store of examples" in capsys.readouterr().err
    assert main(["data", "stats", "--store", "many.npz"]) != 0
    assert "is no store of examples" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["stats"], ["list"], ["drop", "x"], ["label", "--label", "cat", "x"]])
def test_a_store_that_is_not_there_is_told_and_not_taken_for_an_empty_one(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "misspelt"
    assert main(["data", verb[0], "--store", str(folder), *verb[1:]]) != 0
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{folder}: no such store; check the path" in said.err
    assert not folder.exists()


def test_a_store_without_a_label_says_what_to_do(tmp_path: Path) -> None:
    store = ExampleStore(tmp_path / "own")
    store.add(jpeg(1), None)
    with pytest.raises(EmptyShardError, match="holds no labelled example"):
        dataset.load(tmp_path / "own", image_shape=(8, 8, 1))
    assert os.path.isdir(tmp_path / "own" / "inbox")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_what_root_adds_belongs_to_the_service_whose_folder_it_is(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_346)
    store = ExampleStore(tmp_path / "own")
    store.keep(Bounds(most_count=5))
    store.add(example(1), "a")
    assert {(path.stat().st_uid, path.stat().st_gid) for path in (tmp_path / "own").rglob("*")} == {(12_345, 12_346)}
