"""Finding a bootloader's drive, and copying onto it."""

from __future__ import annotations

import errno
import os

import pytest

from firmware_tools.bridge.images.flash import INFO, board_id, copy_image, find_drives
from firmware_tools.bridge.images.uf2 import pack
from protos.errors import DataError, SensorError, UsageError

TOLD = "UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n"


@pytest.fixture
def drive(tmp_path):
    folder = tmp_path / "RPI RP2"
    folder.mkdir()
    (folder / INFO).write_bytes(TOLD.encode())
    return folder


def test_drives_are_found_among_the_mounts(drive, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / INFO).write_text("Board-ID: SAMD21\n")
    escaped = str(drive).replace(" ", r"\040")
    table = tmp_path / "mounts"
    table.write_text(
        f"/dev/root / ext4 rw 0 0\n/dev/sdb1 {other} vfat rw 0 0\n/dev/sda1 {escaped} vfat rw 0 0\n"
        f"//server/share {escaped} cifs rw 0 0\n/dev/sdc1 {tmp_path / 'gone'} vfat rw 0 0\nodd\n"
    )
    assert find_drives(mounts=table) == [drive]
    assert find_drives("SAMD", mounts=table) == [other]
    with pytest.raises(DataError, match="--volume"):
        find_drives(mounts=tmp_path / "nothing")


def test_the_board_tells_what_it_is(drive, tmp_path):
    assert board_id(drive) == "RPI-RP2"
    assert board_id(tmp_path) is None
    (drive / INFO).write_bytes(b"\xff\xfe no id")
    assert board_id(drive) is None


def test_an_image_is_copied_whole(drive):
    image = pack(os.urandom(5000))
    assert copy_image(image, drive, "bridge.uf2").read_bytes() == image


def test_what_is_no_image_or_no_drive_is_not_copied(drive, tmp_path):
    with pytest.raises(DataError, match=r"bridge\.uf2"):
        copy_image(b"nonsense", drive, "bridge.uf2")
    assert [path.name for path in drive.iterdir()] == [INFO]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="BOOTSEL"):
        copy_image(pack(b"x"), empty, "bridge.uf2")
    assert not list(empty.iterdir())


def test_a_drive_that_goes_with_the_last_block_is_the_rule(drive, monkeypatch):
    def gone(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", gone)
    copy_image(pack(b"x"), drive, "bridge.uf2")


def test_a_drive_that_is_full_is_an_error(drive, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SensorError, match="after 512 of 512 bytes"):
        copy_image(pack(b"x"), drive, "bridge.uf2")
