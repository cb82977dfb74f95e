"""``bridge flash`` and ``verify``: what is not flashed, and why; nothing here is written to any board."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from answering_port import AnsweringPort, hello, run

from firmware_tools.bridge.images.build import intel_hex
from firmware_tools.bridge.images.chosen_image import wanted_image
from firmware_tools.bridge.images.manifest import IMAGES, image_of, read_manifest, verified_bytes, write_manifest

IMAGE = image_of("atmega328p")
BUILD = bytes.fromhex(IMAGE.build_id)
OTHER = bytes(range(8))
COMMITTED = tuple(map(int, IMAGE.firmware.split(".")))
NEWER = (COMMITTED[0], COMMITTED[1] + 1, 0)


@pytest.fixture
def avrdude(tmp_path):
    """An environment whose avrdude says yes, writes nothing, and notes its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program, notes = folder / "avrdude", tmp_path / "avrdude.txt"
    program.write_text(f'#!/bin/sh\necho "$@" >> {notes}\necho "avrdude: ${{AVRDUDE_SAYS:-verified}}" >&2\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}, notes


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (hello(build=OTHER, firmware=NEWER), "newer than"),
        (hello(build=OTHER, flags=1), "changed sources"),
        (hello(protocol=(2, 0)), "speaks protocol 2"),
    ],
)
def test_newer_or_changed_firmware_is_replaced_by_force_only(tmp_path, avrdude, runs, said):
    env, notes = avrdude
    with AnsweringPort(tmp_path / "tty", lambda: runs) as port:
        done = run("flash", "--port", port.link, env=env)
        assert done.returncode == 16, done.stderr
        assert said in done.stderr
        assert "--force" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not notes.exists()
        forced = run("flash", "--port", port.link, "--force", "--dry-run", "--json", env=env)
    assert forced.returncode == 0, forced.stderr
    told = json.loads(forced.stdout)
    assert told["written"] is False
    assert told["command"].startswith("avrdude -p m328p -c arduino -P ")
    assert not notes.exists(), "a dry run starts nothing"


@pytest.mark.parametrize("board", [2, 0x80])
def test_another_kind_of_board_is_not_flashed_even_by_force(tmp_path, avrdude, board):
    env, notes = avrdude
    with AnsweringPort(tmp_path / "tty", lambda: hello(board=board, build=OTHER)) as port:
        done = run("flash", "--port", port.link, "--force", env=env)
    assert done.returncode == 16
    assert "is no atmega328p" in done.stderr
    assert not notes.exists()


def test_a_board_that_runs_this_build_is_left_alone(tmp_path, avrdude):
    env, notes = avrdude
    with AnsweringPort(tmp_path / "tty", lambda: hello(build=BUILD, firmware=COMMITTED)) as port:
        done = run("flash", "--port", port.link, env=env)
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert not notes.exists()


def test_a_write_that_was_verified_is_not_enough(tmp_path, avrdude):
    env, notes = avrdude
    with AnsweringPort(tmp_path / "tty", lambda: hello(build=OTHER, firmware=(0, 1, 0))) as port:
        done = run("flash", "--port", port.link, "--old-bootloader", "--log", tmp_path / "log", env=env)
    assert done.returncode == 21
    assert f"runs firmware 0.1.0, build {OTHER.hex()}, the image is build {IMAGE.build_id}" in done.stderr
    assert notes.read_text() == f"-p m328p -c arduino -P {port.link} -b 57600 -D -U flash:w:{IMAGES / IMAGE.file}:i\n"
    assert (tmp_path / "log").read_text() == "avrdude: verified\n"


def test_a_board_that_falls_silent_after_the_write_is_said(tmp_path, avrdude):
    env, notes = avrdude
    with AnsweringPort(tmp_path / "tty", lambda: None if notes.exists() else hello(build=OTHER)) as port:
        done = run("flash", "--port", port.link, "--wait", "0.5", env=env)
    assert done.returncode == 21
    assert "does not say HELLO" in done.stderr


def test_what_avrdude_compared_and_found_different_is_a_mismatch(tmp_path, avrdude):
    env, _ = avrdude
    env["AVRDUDE_SAYS"] = "verification mismatch at 0x0010"
    with AnsweringPort(tmp_path / "tty", lambda: hello(build=BUILD)) as port:
        done = run("verify", "--port", port.link, "--read", env=env)
    assert done.returncode == 21
    assert "verification mismatch at 0x0010" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_flash_that_is_stopped_leaves_no_avrdude_behind(tmp_path, avrdude, number, code):
    env, _ = avrdude
    pid_file = tmp_path / "pid"
    script = f"#!/bin/sh\necho $$ > {pid_file}.part\nmv {pid_file}.part {pid_file}\nexec sleep 100\n"
    (tmp_path / "bin" / "avrdude").write_text(script)
    line = [sys.executable, "-m", "firmware_tools.cli", "bridge", "flash", "--port", str(tmp_path / "tty")]
    with (
        AnsweringPort(tmp_path / "tty", lambda: hello(build=OTHER)),
        subprocess.Popen(line, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process,
    ):
        while not pid_file.exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in said
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


def test_missing_avrdude_is_one_line_with_the_command_that_installs_it(tmp_path):
    done = run("flash", "--port", tmp_path / "tty", env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr == "firmware-tools: avrdude: avrdude is not installed; apt install avrdude\n"


def test_verify_compares_what_runs_with_the_image(tmp_path):
    runs = hello(build=BUILD)
    with AnsweringPort(tmp_path / "tty", lambda: runs) as port:
        done = run("verify", "--port", port.link, "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["build_id"], told["running"]["build"]) == (IMAGE.build_id, IMAGE.build_id)
        runs = hello(build=OTHER)
        done = run("verify", "--port", port.link)
    assert done.returncode == 21
    assert f"firmware-tools bridge flash --board atmega328p --port {port.link}" in done.stderr


def test_a_port_that_is_not_there_is_not_found(tmp_path, avrdude):
    env, notes = avrdude
    for verb in ("flash", "verify"):
        done = run(verb, "--port", tmp_path / "gone", env=env)
        assert done.returncode == 14
        assert "no such serial port" in done.stderr
    assert not notes.exists()


@pytest.mark.parametrize("board", sorted(read_manifest()))
def test_every_committed_image_can_be_read_and_says_who_it_is(board):
    wanted, entry = wanted_image(board), image_of(board)
    assert (wanted.build_id, wanted.firmware) == (entry.build_id, entry.firmware)
    assert wanted.data == verified_bytes(entry)


def _image(tmp_path, data):
    path = tmp_path / IMAGE.file
    path.write_bytes(data)
    return path


def test_images_that_are_not_what_they_should_be_are_refused(tmp_path, avrdude):
    env, _ = avrdude
    flash = ("flash", "--port", tmp_path / "tty", "--hex")
    cases = [
        (intel_hex(b"another program"), 13, "no firmware of the bridge"),
        (intel_hex(b"EJ-BUILD1234567"), 13, "no firmware of the bridge"),
        (b":00000001FE\n", 13, "wrong checksum"),
        (b"", 13, "no end record"),
    ]
    for data, code, said in cases:
        done = run(*flash, _image(tmp_path, data), env=env)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert run(*flash, tmp_path / "nothing.hex", env=env).returncode == 13
    write_manifest({"atmega328p": IMAGE}, tmp_path)
    done = run(*flash, _image(tmp_path, verified_bytes(IMAGE) + b"\n"), env=env)
    assert done.returncode == 7, "it is named in the manifest beside it, with another hash"


@pytest.mark.parametrize(
    "words",
    [
        ["flash"],
        ["flash", "--port", "x", "--volume", "y"],
        ["flash", "--board", "esp32", "--port", "x"],
        ["verify", "--board", "rp2040", "--port", "x", "--read"],
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(words):
    done = run(*words)
    assert done.returncode == 2
