"""The real avrdude, the real bootloader, the real firmware: an empty board is flashed, checked and read back."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from answering_port import run

from firmware_tools.bridge.images.build import FIRMWARE, build, intel_hex
from firmware_tools.bridge.images.chosen_image import read_intel_hex
from firmware_tools.bridge.images.manifest import IMAGES, Image, image_of, verified_bytes, write_manifest
from firmware_tools.bridge.machine.bootloader import find_optiboot
from firmware_tools.bridge.machine.build import APT, missing
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.errors import EdgejouleError

pytestmark = pytest.mark.processes

IMAGE = image_of("atmega328p")


@pytest.fixture(scope="module")
def optiboot():
    if what := missing():
        pytest.skip(f"{what}: {APT}")
    if shutil.which("avrdude") is None:
        pytest.skip("avrdude is not installed: apt-get install avrdude")
    try:
        return find_optiboot()
    except EdgejouleError as error:
        pytest.skip(str(error))


@pytest.fixture
def serve(tmp_path, optiboot):
    machines = []

    def begin(hex=None, bootloader=optiboot):
        spec = MachineSpec(hex, (SensorSpec("constant:2.5"),), bootloader=bootloader)
        machines.append(FirmwareMachine.serve_pty(spec, tmp_path / "ttyINA", reset_on_open=True))
        return machines[-1].link

    yield begin
    for machine in machines:
        machine.close()


def test_an_empty_board_becomes_a_bridge_and_can_be_checked(serve, tmp_path):
    port = serve()
    dry = run("flash", "--port", port, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "nobody says HELLO" in dry.stdout
    done = run("flash", "--port", port, "--json", "--log", tmp_path / "log")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["written"]
    assert told["before"] is None, "the dry run wrote nothing"
    assert told["after"]["build"] == IMAGE.build_id
    assert told["command"] == f"avrdude -p m328p -c arduino -P {port} -b 115200 -D -U flash:w:{told['image']}:i"
    assert "bytes of flash verified" in (tmp_path / "log").read_text()

    again = run("flash", "--port", port)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout

    assert run("verify", "--port", port, "--read").returncode == 0
    changed = bytearray(read_intel_hex(verified_bytes(IMAGE), where="x"))
    changed[-1] ^= 1
    (tmp_path / "changed.hex").write_bytes(intel_hex(bytes(changed)))
    words = ("verify", "--port", port, "--hex", tmp_path / "changed.hex")
    assert run(*words).returncode == 0, "its build id is the same: only the flash itself tells"
    done = run(*words, "--read")
    assert done.returncode == 21
    assert "avrdude: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_older_image_needs_force_and_is_then_written(serve, tmp_path):
    older = bytearray(read_intel_hex(verified_bytes(IMAGE), where="x"))
    at = older.index(b"EJ-BUILD") + 8
    older[at : at + 8] = b"an older"
    path = tmp_path / "older.hex"
    path.write_bytes(intel_hex(bytes(older)))
    fields = {name: getattr(IMAGE, name) for name in Image.__slots__}
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = Image(**fields | {"file": path.name, "sha256": sha256, "build_id": b"an older".hex(), "firmware": "0.1.0"})
    write_manifest({"atmega328p": entry}, tmp_path)
    port = serve(IMAGES / IMAGE.file)
    words = ("flash", "--port", port, "--hex", path)
    refused = run(*words)
    assert refused.returncode == 16
    assert f"runs firmware {IMAGE.firmware}, newer than 0.1.0" in refused.stderr
    assert run(*words, "--force").returncode == 0
    assert run("verify", "--port", port).returncode == 21


def test_a_build_of_changed_sources_is_not_replaced_unasked(serve, tmp_path):
    if shutil.which("avr-gcc") is None:
        pytest.skip("needs avr-gcc (apt install gcc-avr avr-libc binutils-avr)")
    root = tmp_path / "firmware"
    for name in ("core", "avr"):
        shutil.copytree(FIRMWARE / name, root / name)
    with (root / "core" / "dither.c").open("a") as file:
        file.write("/* changed */\n")
    path = tmp_path / "changed.hex"
    path.write_bytes(build("atmega328p", root=root).data)
    port = serve(path)
    done = run("flash", "--port", port)
    assert done.returncode == 16
    assert "changed sources" in done.stderr
