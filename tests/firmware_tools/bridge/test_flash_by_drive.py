"""``bridge flash --board rp2040``: a bridge that goes into its bootloader, whose drive is a folder here."""

from __future__ import annotations

import json

import pytest
from answering_port import AnsweringPort, hello, run

from firmware_tools.bridge.images.flash import INFO
from firmware_tools.bridge.images.uf2 import pack
from protos.bridge.commands import BOOTLOADER_KEY, Command
from protos.bridge.hello import Feature

NEW, OLD = b"new imag", b"old imag"
CAN = Feature.BOOTLOADER | Feature.CONFIG


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "bridge.uf2"
    path.write_bytes(pack(bytes(3000) + b"EJ-BUILD" + NEW))
    return path


@pytest.fixture
def drive(tmp_path):
    folder = tmp_path / "RPI-RP2"
    folder.mkdir()
    return folder


def boot(drive):
    (drive / INFO).write_text("UF2 Bootloader v3.0\nBoard-ID: RPI-RP2\n")


def test_a_running_bridge_is_sent_into_its_bootloader_and_flashed(tmp_path, image, drive):
    def says():
        return hello(board=2, features=CAN, build=NEW if (drive / image.name).exists() else OLD)

    def obey(kind, values):
        if (kind, values) == (Command.REBOOT, (BOOTLOADER_KEY,)):
            boot(drive)

    with AnsweringPort(tmp_path / "tty", says, obey) as port:
        done = run("flash", "--board", "rp2040", "--port", port.link, "--volume", drive, "--hex", image, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["before"]["build"], told["after"]["build"]) == (OLD.hex(), NEW.hex())
    assert told["written"]
    assert told["command"] == f"cp {image} {drive / image.name}"
    assert port.commands == [(Command.REBOOT, (BOOTLOADER_KEY,))]
    assert (drive / image.name).read_bytes() == image.read_bytes()


def test_a_board_in_its_bootloader_needs_no_port(image, drive):
    boot(drive)
    done = run("flash", "--board", "rp2040", "--volume", drive, "--hex", image)
    assert done.returncode == 0, done.stderr
    assert "not asked what it runs now" in done.stdout
    assert (drive / image.name).read_bytes() == image.read_bytes()


def test_a_dry_run_copies_nothing_and_sends_no_board_anywhere(tmp_path, image, drive):
    boot(drive)
    with AnsweringPort(tmp_path / "tty", lambda: hello(board=2, features=CAN, build=OLD)) as port:
        done = run("flash", "--board", "rp2040", "--port", port.link, "--volume", drive, "--hex", image, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"cp {image} {drive / image.name}" in done.stdout
    assert [path.name for path in drive.iterdir()] == [INFO]
    assert port.commands == []


def test_a_board_that_comes_back_with_its_old_image_is_a_mismatch(tmp_path, image, drive):
    boot(drive)
    with AnsweringPort(tmp_path / "tty", lambda: hello(board=2, build=OLD)) as port:
        done = run("flash", "--board", "rp2040", "--port", port.link, "--volume", drive, "--hex", image)
    assert done.returncode == 21
    assert f"the image is build {NEW.hex()}" in done.stderr


def test_a_hex_file_or_a_folder_is_not_copied(tmp_path, image, drive):
    done = run("flash", "--board", "rp2040", "--volume", drive, "--hex", image)
    assert done.returncode == 14
    assert "BOOTSEL" in done.stderr
    boot(drive)
    wrong = tmp_path / "bridge.hex"
    wrong.write_text(":00000001FF\n")
    assert run("flash", "--board", "rp2040", "--volume", drive, "--hex", wrong).returncode == 13
    assert [path.name for path in drive.iterdir()] == [INFO]
