"""A folder of photographs on a small board: each decoded once in its life, a few at a time; damaged ones left out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from peer_coordinator import order
from PIL import Image

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.round.inputs.examples import ChangedDataError
from edge_runtime.round.inputs.image_table import ImageTable
from edge_runtime.round.work import work
from protos.datafiles.formats import pixels
from protos.datafiles.formats.pixels import Opener
from protos.errors import DataError
from protos.model.bundle import Bundle

Open = Callable[[], Device]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    random = np.random.default_rng(3)
    for number in range(24):
        split = "test" if number >= 18 else "train"
        path = root / split / str(number % 3) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 60, (64, 64), np.uint8)
        pixels[8 * (2 * (number % 3) + 1) :][:8] += 150
        Image.fromarray(pixels).save(path, quality=95)
    return root


@pytest.fixture
def opened(settings: Callable[..., Settings], folder: Path) -> Iterator[Open]:
    devices: list[Device] = []

    def open_device() -> Device:
        for device in devices:
            device.close()
        devices.append(Device(settings(data=str(folder), sensor="none")))
        return devices[-1]

    yield open_device
    for each_device in devices:
        each_device.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that were decoded, in their order."""
    names: list[str] = []
    read = Opener.read

    def noted(self: Opener, path: Path) -> Any:
        names.append(path.name)
        return read(self, path)

    monkeypatch.setattr(Opener, "read", noted)
    return names


def test_each_image_is_decoded_once_in_its_life_also_over_restarts_and_when_data_grow(
    opened: Open, folder: Path, bundle: Bundle, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = opened()
    assert (device.summary.train_count, device.summary.test_count) == (18, 6)
    assert decoded == [], "a folder is only listed before a bundle says what size they are to have"
    bench = device.take_up(bundle)
    paid: list[int] = []
    worked = bench.reserve.worked

    def noted(energy: Any, embedded: int, *rest: Any, **more: Any) -> None:
        paid.append(embedded)
        worked(energy, embedded, *rest, **more)

    monkeypatch.setattr(bench.reserve, "worked", noted)
    report = work(order(bundle, evaluate=True), bench, lambda: False)
    assert paid == [24], "the joules of the phase are those of held-out examples, too"
    assert (report.embedded, report.steps_done) == (18, 12)
    assert report.evaluation is not None
    assert report.evaluation.examples == 6
    assert sorted(decoded) == sorted(f"{number}.jpg" for number in range(24))
    decoded.clear()
    # A restart, and once more with two images more.
    again = opened()
    assert work(order(bundle, 2), again.take_up(bundle), lambda: False).embedded == 0
    assert decoded == []
    for number in (30, 31):
        (folder / "train" / "0" / f"{number}.jpg").write_bytes((folder / "train" / "0" / "0.jpg").read_bytes())
        Image.fromarray(np.full((50, 70), number, np.uint8)).save(folder / "train" / "0" / f"{number}.jpg")
    assert again.data_changed()
    again.forget_data()
    report = work(order(bundle, 3), again.take_up(bundle), lambda: False)
    assert (report.examples, report.embedded) == (20, 2)
    assert sorted(decoded) == ["30.jpg", "31.jpg"]


def test_an_image_that_is_damaged_behind_its_header_is_set_aside_by_one_more_look(
    opened: Open, folder: Path, bundle: Bundle, decoded: list[str]
) -> None:
    for name in ("train/1/1.jpg", "train/2/5.jpg"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    (folder / "train" / "0" / "3.jpg").write_text("no image")
    device = opened()
    device.examples._bad_share = 0.5
    bench = device.take_up(bundle)
    if bench.summary.train_count == 17:
        # Not seen while a sample was looked at: found while embedding.
        with pytest.raises(ChangedDataError, match="2 images cannot be decoded"):
            work(order(bundle), bench, lambda: False)
        device.forget_data()
        bench = device.take_up(bundle)
    assert bench.summary.train_count == 15
    assert "3 of 24 examples set aside" in bench.summary.complaint
    report = work(order(bundle), bench, lambda: False)
    assert report.examples == 15
    counts = [decoded.count(f"{number}.jpg") for number in range(18) if number not in (1, 3, 5)]
    assert max(counts) <= 2
    # A file that is repaired counts again.
    (folder / "train" / "1" / "1.jpg").write_bytes((folder / "train" / "1" / "4.jpg").read_bytes())
    assert device.data_changed()
    device.forget_data()
    assert device.take_up(bundle).summary.train_count == 16


def test_what_a_power_cut_tears_from_the_table_costs_a_decoding(tmp_path: Path) -> None:
    table = ImageTable(tmp_path / "images.lines")
    for number in range(5):
        table.keep_look(f"f{number}|9|1", "ok")
        table.keep_key(f"f{number}|9|1", (8, 8, 1), bytes([number]) * 16)
    table.sync()
    path = tmp_path / "images.lines"
    path.write_bytes(path.read_bytes()[:-10] + b"\n\xff\n[1]\n")
    found = ImageTable(path)
    assert [found.key_of(f"f{number}|9|1", (8, 8, 1)) is None for number in range(5)] == [False] * 4 + [True]
    assert found.look_of("f4|9|1") == "ok"
    assert found.key_of("f0|9|1", (4, 4, 1)) is None
    assert found.look_of("f0|10|1") is None, "a file that changed is another"
    # What nobody asks for any more goes, when that is most of it.
    small = ImageTable(path)
    small._lines = 10_000
    small.look_of("f0|9|1")
    small.keep_look("new|1|1", "ok")
    small.look_of("new|1|1")
    small.sync()
    assert len(path.read_text().splitlines()) == 3


def test_a_photograph_keeps_its_look_when_it_is_decoded_small(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    small = random.integers(0, 255, (12, 16, 3), np.uint8)
    Image.fromarray(small).resize((1600, 1200), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    exact = Opener((48, 48, 3), tmp_path)
    plain = Opener((48, 48, 3), tmp_path)
    plain._reader._draft = False
    difference = exact.read(tmp_path / "a.jpg").astype(int) - plain.read(tmp_path / "a.jpg")
    assert np.abs(difference).mean() < 2.0
    assert np.abs(difference).max() < 30


def test_a_picture_that_the_machine_has_no_memory_for_is_bad_and_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "_most_bytes", lambda: 128e6)
    opener = Opener((48, 48, 3), tmp_path)
    Image.new("L", (4500, 4500), 90).save(tmp_path / "large.png")
    Image.new("L", (4500, 4500), 90).save(tmp_path / "large.jpg")
    Image.new("L", (4500, 4500), 90).save(tmp_path / "waves.jpg", progressive=True)
    Image.new("L", (3900, 3900), 90).save(tmp_path / "good.png")
    assert opener.look(tmp_path / "large.png").startswith("bad: ")
    with pytest.raises(DataError, match=r"20 million pixels take 162 MB to decode, and this machine may give 128 MB"):
        opener.read(tmp_path / "large.png")
    for name in ("large.jpg", "waves.jpg", "good.png"):
        assert opener.look(tmp_path / name) == "ok"
        assert (opener.read(tmp_path / name) == 90).all()
    monkeypatch.setattr(pixels, "_most_bytes", lambda: 100e6)
    assert opener.look(tmp_path / "waves.jpg").startswith("bad: "), "its coefficients are held whole"
    assert opener.look(tmp_path / "large.jpg") == "ok"


def test_what_the_system_keeps_on_a_disk_is_not_looked_at(opened: Open, folder: Path) -> None:
    device = opened()
    assert not device.data_changed()
    # Of a disk that is mounted there: nobody but root may look into it.
    (folder / "lost+found").mkdir(mode=0o700)
    (folder / "lost+found" / "#12.jpg").write_bytes(b"lost")
    if os.geteuid() != 0:
        (folder / "lost+found").chmod(0)
    assert not device.data_changed()
    (folder / "lost+found").chmod(0o700)
    (folder / "train" / "0" / "new.jpg").write_bytes((folder / "train" / "0" / "0.jpg").read_bytes())
    assert device.data_changed()


_READ = """
import resource, sys
from pathlib import Path
from edge_runtime.round.inputs.examples import LocalExamples
from protos.model.bundle import open_bundle
folder, state, bundle = Path(sys.argv[1]), Path(sys.argv[2]), open_bundle(sys.argv[3])
(state / "examples").mkdir(parents=True)
data = LocalExamples(str(folder), None, state / "examples")
rows = data.raw(bundle, data.summary(bundle))
for start in range(0, len(rows), 8):
    rows[start : start + 8]
print(len(rows), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_photographs(tmp_path: Path, bundle_path: Path) -> None:
    original = tmp_path / "original.jpg"
    pixels = np.zeros((3000, 4000, 3), np.uint8)
    pixels[400:800] = 180
    Image.fromarray(pixels).save(original)

    def rss_kb(count: int) -> int:
        folder = tmp_path / f"photos-{count}"
        for number in range(count):
            path = folder / str(number % 3) / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(original, path)
        command = [sys.executable, "-c", _READ, str(folder), str(tmp_path / f"state-{count}"), str(bundle_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        read, used = done.stdout.split()
        assert int(read) == count
        return int(used)

    few, many = rss_kb(12), rss_kb(96)
    assert many < few + 3000, "eight times as many photographs of 12 megapixels, three megabytes more at most"
