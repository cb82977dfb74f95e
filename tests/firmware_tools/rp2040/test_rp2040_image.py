"""The RP2040 image: the same bytes from any folder, sealed for the boot ROM, and what the manifest says of it."""

from __future__ import annotations

import json
import shutil

import pytest

from firmware_tools.bridge.images import uf2
from firmware_tools.bridge.images.boot_stage import STAGE_BYTES, sealed
from firmware_tools.bridge.images.build import FIRMWARE, build, source_digest
from firmware_tools.bridge.images.manifest import image_of, verified_bytes
from firmware_tools.cli import main

needs_arm = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None,
    reason="needs arm-none-eabi-gcc (apt install gcc-arm-none-eabi binutils-arm-none-eabi)",
)
BOARD = "rp2040"


def flash():
    return uf2.unpack(verified_bytes(image_of(BOARD)))


def mpeg2(data):
    """CRC-32/MPEG-2 another way: the remainder of a long division of polynomials over GF(2)."""
    bits = int.from_bytes(data, "big") << 32 ^ 0xFFFFFFFF << 8 * len(data)
    for at in range(8 * len(data) + 31, 31, -1):
        if bits >> at & 1:
            bits ^= 0x104C11DB7 << at - 32
    return bits


def test_the_committed_image_is_that_of_these_sources():
    assert source_digest(BOARD).hex() == image_of(BOARD).sources


def test_the_boot_rom_would_take_the_image():
    address, image = flash()
    assert address == 0x1000_0000
    stage = image[:STAGE_BYTES]
    assert int.from_bytes(stage[-4:], "little") == mpeg2(stage[:-4])
    stack, start = (int.from_bytes(image[at : at + 4], "little") for at in (0x100, 0x104))
    assert stack == 0x2004_0000
    assert 0x1000_0100 < start < address + len(image)
    assert start & 1  # Thumb
    assert image[image.index(b"EJ-BUILD") + 8 :][:8].hex() == image_of(BOARD).build_id
    assert len(image) < (2 << 20) - 8192  # the record is in the last two sectors


def test_a_stage_is_sealed_once():
    assert sealed(bytes(300))[STAGE_BYTES - 4 : STAGE_BYTES] != bytes(4)
    for image in (bytes(STAGE_BYTES - 1), sealed(bytes(300))):
        with pytest.raises(ValueError, match="without room"):
            sealed(image)


@needs_arm
def test_check_builds_the_committed_image_again(capsys):
    assert main(["bridge", "build", "--board", BOARD, "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == image_of(BOARD).sha256


@needs_arm
def test_another_folder_gives_the_same_bytes(tmp_path):
    for name in ("core", "rp2040"):
        shutil.copytree(FIRMWARE / name, tmp_path / "elsewhere" / name)
    built = build(BOARD, root=tmp_path / "elsewhere")
    assert built.data == verified_bytes(image_of(BOARD))
    assert len(flash()[1]) - 256 < built.flash_bytes < built.ram_bytes < 128 << 10
