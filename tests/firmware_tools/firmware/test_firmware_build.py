"""The firmware of the board: the same bytes from any folder, and what the manifest says of them."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from firmware_tools.bridge.images import build as building
from firmware_tools.bridge.images.build import FIRMWARE, build, check, source_digest
from firmware_tools.bridge.images.manifest import Image, image_of, read_manifest, verified_bytes, write_manifest
from firmware_tools.cli import main
from protos.bridge.hello import PROTOCOL
from protos.errors import CheckFailed, EdgejouleError, IntegrityError, ModelError, UsageError

needs_avr = pytest.mark.skipif(
    shutil.which("avr-gcc") is None, reason="needs avr-gcc (apt install gcc-avr avr-libc binutils-avr)"
)
BOARD = "atmega328p"


def copied(tmp_path):
    root = tmp_path / "another" / "folder"
    for name in ("core", "avr"):
        shutil.copytree(FIRMWARE / name, root / name)
    return root


def test_the_committed_image_is_the_one_of_the_manifest():
    image = image_of(BOARD)
    data = verified_bytes(image)
    assert hashlib.sha256(data).hexdigest() == image.sha256
    assert image.protocol == "{}.{}".format(*PROTOCOL)
    flash = b"".join(bytes.fromhex(line[9:-2]) for line in data.decode().splitlines()[:-1])
    assert len(flash) <= 32_256  # the flash less the 512 bytes of Optiboot
    assert flash[flash.index(b"EJ-BUILD") + 8 :][:8].hex() == image.build_id


def test_the_committed_image_comes_from_these_sources():
    assert source_digest(BOARD).hex() == image_of(BOARD).sources


@needs_avr
def test_check_builds_the_committed_image_again(capsys):
    assert main(["bridge", "build", "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == image_of(BOARD).sha256


@needs_avr
def test_another_folder_gives_the_same_bytes(tmp_path):
    assert build(BOARD, root=copied(tmp_path)).data == verified_bytes(image_of(BOARD))


@needs_avr
def test_changed_sources_give_another_identity_and_the_flag_for_it(tmp_path):
    root = copied(tmp_path)
    with (root / "core" / "dither.c").open("a") as file:
        file.write("/* changed */\n")
    built = build(BOARD, root=root)
    assert built.changed
    assert built.image.build_id != image_of(BOARD).build_id
    assert built.image.sources != image_of(BOARD).sources


@needs_avr
def test_the_image_leaves_room_for_the_stack():
    assert build(BOARD).ram_bytes <= 2048 - 220


@needs_avr
def test_an_image_can_be_built_elsewhere_with_a_manifest_of_its_own(tmp_path, capsys):
    assert main(["bridge", "build", "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert not said["changed"]
    assert verified_bytes(image_of(BOARD, tmp_path / "out"), tmp_path / "out") == verified_bytes(image_of(BOARD))


@needs_avr
def test_sources_that_do_not_compile_are_one_line(tmp_path):
    root = copied(tmp_path)
    (root / "core" / "dither.c").write_text("int f(void) { return }\n")
    with pytest.raises(EdgejouleError, match=r"avr-gcc: core/dither\.c:1:\d+: error") as caught:
        build(BOARD, root=root)
    assert "\n" not in str(caught.value)


def test_a_missing_compiler_is_said_with_the_command_that_installs_it(monkeypatch, capsys):
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    assert main(["bridge", "build", "--out", "/nowhere"]) == 1
    said = capsys.readouterr().err
    assert "avr-gcc is not installed; apt install gcc-avr avr-libc binutils-avr" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--board", "esp8266"], ["--check", "--out", "x"]])
def test_what_cannot_be_asked_is_refused(arguments, capsys):
    assert main(["bridge", "build", *arguments]) == 2
    assert capsys.readouterr().err.startswith("firmware-tools: ")


def test_a_changed_image_or_manifest_is_refused(tmp_path):
    image = image_of(BOARD)
    write_manifest({BOARD: image}, tmp_path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        verified_bytes(image, tmp_path)
    (tmp_path / image.file).write_bytes(b":00000001FF\n")
    with pytest.raises(IntegrityError, match="is not the file of the manifest"):
        verified_bytes(image, tmp_path)
    assert read_manifest(tmp_path) == {BOARD: image}
    with pytest.raises(UsageError, match="no image for board 'rp2040'"):
        image_of("rp2040", tmp_path)
    for text in ("{", "[]", '{"a": {"b": 1}}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ModelError):
            read_manifest(tmp_path)
    assert read_manifest(tmp_path / "nowhere") == {}


@needs_avr
def test_check_names_what_differs(monkeypatch):
    image = image_of(BOARD)
    fields = {name: getattr(image, name) for name in Image.__slots__}
    monkeypatch.setattr(building, "read_manifest", lambda: {BOARD: Image(**fields | {"sources": "00"})})
    with pytest.raises(CheckFailed, match="the sources have changed"):
        check(BOARD)
    monkeypatch.setattr(building, "read_manifest", lambda: {BOARD: Image(**fields | {"toolchain": {"avr-gcc": "7"}})})
    with pytest.raises(CheckFailed, match="use the tools of the manifest"):
        check(BOARD)
