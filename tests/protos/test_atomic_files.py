"""Files are written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from protos.atomic import write_whole, written_beside


def test_a_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"before")
    with write_whole(path) as file:
        file.write(b"after")
        file.flush()
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"before")

    def fail() -> None:
        with write_whole(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["model.bin"]


def test_the_mode_is_that_of_an_ordinary_new_file(tmp_path: Path) -> None:
    with write_whole(tmp_path / "whole") as file:
        file.write(b"x")
    (tmp_path / "plain").write_bytes(b"x")
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_whole(tmp_path / "gone" / "file"):
        pass


def test_all_bytes_are_forced_to_disk_under_another_name_and_the_name_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, forced, force = tmp_path / "model.bin", [], os.fsync

    def seen(number: int) -> None:
        here = os.fstat(number)
        forced.append((here.st_size if stat.S_ISREG(here.st_mode) else "folder", path.exists()))
        force(number)

    monkeypatch.setattr(os, "fsync", seen)
    with write_whole(path) as file:
        file.write(b"x" * 100)
    assert forced == [(100, False), ("folder", True)]


def test_what_a_library_writes_by_itself_appears_whole_also_when_two_write_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.jls"
    with written_beside(path) as first, written_beside(path) as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
        assert not path.exists()
    assert path.read_bytes() == b"first"

    def fail() -> None:
        with written_beside(path) as made:
            made.write_bytes(b"half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fail()
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["run.jls"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
