"""The machine on a pseudo-terminal: pyserial, pulling the cable, the bootloader, and the command line."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import serial
from machine_host import IMAGE

from firmware_tools.bridge.machine.bootloader import VARIABLE, find_optiboot
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.bridge.commands import Command, command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello, ResetCause
from protos.bridge.messages import Message, Samples, decode
from protos.errors import EdgejouleError, UsageError

HANG_S = 30.0
"""Longer than anything here takes; only a hang gets there."""


class Port:
    """An opened serial port and the messages that come from it."""

    def __init__(self, path: Path) -> None:
        self.serial = serial.Serial(str(path), 500_000, timeout=0.05, exclusive=True)
        self._parser = FrameParser()

    def until(self, wanted: Callable[[Message], bool], *, ask: Command | None = None) -> Message:
        end_s, asked_s = time.monotonic() + HANG_S, 0.0
        while time.monotonic() < end_s:
            if ask is not None and time.monotonic() - asked_s > 0.5:
                asked_s = time.monotonic()
                self.serial.write(encode_frame(command(ask)))
            for payload in self._parser.feed(self.serial.read(max(1, self.serial.in_waiting))):
                message = decode(payload)
                if wanted(message):
                    return message
        raise AssertionError("it never came")

    def hello(self) -> Hello:
        found = self.until(lambda message: isinstance(message, Hello), ask=Command.GET_HELLO)
        assert isinstance(found, Hello)
        return found

    def samples(self) -> Samples:
        found = self.until(lambda message: isinstance(message, Samples))
        assert isinstance(found, Samples)
        return found


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FirmwareMachine]]:
    with contextlib.ExitStack() as stack:

        def begin(hex: Path | None = IMAGE, *, reset_on_open: bool = False, **fields) -> FirmwareMachine:
            spec = MachineSpec(hex, (SensorSpec("constant:2.5"),), usb="frames", **fields)
            machine = FirmwareMachine.serve_pty(spec, tmp_path / "ttyINA", reset_on_open=reset_on_open)
            return stack.enter_context(machine)

        yield begin


@pytest.fixture
def open_port() -> Iterator[Callable[[FirmwareMachine], Port]]:
    with contextlib.ExitStack() as stack:

        def begin(machine: FirmwareMachine) -> Port:
            assert machine.link is not None
            port = Port(machine.link)
            stack.enter_context(port.serial)
            return port

        yield begin


def test_a_program_finds_a_streaming_bridge(serve, open_port):
    port = open_port(serve())
    assert port.hello().board == 1
    assert (port.samples().shunt == 1000).all()


def test_the_cable_is_pulled_and_put_back(serve, open_port):
    machine = serve()
    port = open_port(machine)
    boot = port.hello().boot
    before = os.readlink(machine.link)
    machine.unplug()
    assert not machine.link.is_symlink()
    with pytest.raises(OSError):
        port.samples()
    port.serial.close()
    with pytest.raises(serial.SerialException):
        open_port(machine)
    holder = os.openpty()  # takes the number that became free
    try:
        machine.replug()
        assert os.readlink(machine.link) != before
        again = open_port(machine)
        assert again.hello().boot == boot, "the bridge itself went on"
        assert (again.samples().shunt == 1000).all()
    finally:
        for fd in holder:
            os.close(fd)


def test_opening_resets_a_board_with_auto_reset(serve, open_port):
    machine = serve(reset_on_open=True)
    boots = []
    for _ in range(2):
        port = open_port(machine)
        hello = port.hello()
        assert hello.reset == ResetCause.EXTERNAL
        boots.append(hello.boot)
        port.serial.close()
    assert boots[0] != boots[1]


def test_what_nobody_reads_is_thrown_away_and_counted(serve):
    machine = serve()
    end_s = time.monotonic() + HANG_S
    while machine.status()["unread_bytes"] < 500:
        assert time.monotonic() < end_s
        time.sleep(0.02)
    assert machine.status()["ring_dropped"] == 0


def test_a_load_can_be_changed_while_it_runs(serve, open_port):
    machine = serve()
    port = open_port(machine)
    port.samples()
    machine.set_load("constant:5")
    port.until(lambda m: isinstance(m, Samples) and bool((m.shunt == 2000).all()))
    now_s = machine.now_s
    assert machine.true_energy_j(now_s - 0.01, now_s) == pytest.approx(0.05)
    assert machine.machine_s(time.monotonic()) == pytest.approx(machine.now_s, abs=10.0)
    with pytest.raises(UsageError):
        machine.step(1.0)


def test_a_file_in_the_way_is_not_replaced(tmp_path):
    link = tmp_path / "ttyINA"
    link.write_text("mine")
    with pytest.raises(UsageError, match="in the way"):
        FirmwareMachine.serve_pty(MachineSpec(IMAGE), link)
    assert link.read_text() == "mine"


@pytest.mark.processes
def test_avrdude_flashes_the_firmware_through_the_bootloader(serve, open_port, optiboot):
    if shutil.which("avrdude") is None:
        pytest.skip("avrdude is not installed: apt-get install avrdude")
    machine = serve(None, bootloader=optiboot, reset_on_open=True)
    flash = ["avrdude", "-p", "m328p", "-c", "arduino", "-P", str(machine.link), "-b", "115200", "-D"]
    done = subprocess.run([*flash, "-U", f"flash:w:{IMAGE}:i"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stderr
    port = open_port(machine)
    assert port.hello().board == 1
    assert (port.samples().shunt == 1000).all()


def test_a_bootloader_that_is_not_there_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing.hex"))
    with pytest.raises(EdgejouleError, match="no such file"):
        find_optiboot()
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(EdgejouleError, match="apt-get install arduino-core-avr"):
        find_optiboot(source=tmp_path / "optiboot.c")


COMMAND = [sys.executable, "-c", """
import argparse, sys
from firmware_tools.bridge.commands.machine import add_machine
from protos.errors import EdgejouleError
parser = argparse.ArgumentParser()
add_machine(parser.add_subparsers())
options = parser.parse_args()
try:
    sys.exit(options.run(options))
except EdgejouleError as error:
    sys.exit(f"{error.exit_code} {error}")
"""]  # fmt: skip


@pytest.mark.processes
def test_the_command_serves_until_its_input_ends(tmp_path, open_port):
    link, truth = tmp_path / "ttyINA", tmp_path / "truth.json"
    command_line = [
        *COMMAND, "machine", "--pty", link, "--truth", truth, "--json", "--commands",
        "--sensor", "address=0x42,load=burst:1,1,0,1,shunt-ohm=0.05",
    ]  # fmt: skip
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert json.loads(process.stdout.readline())["sensors"][0]["address"] == 0x42
        port = Port(link)
        assert [s.address for s in port.hello().sensors] == [0x42]
        process.stdin.write("load constant:2\nload constant:2\nstatus\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["slips"] >= 0
        port.until(lambda m: isinstance(m, Samples) and bool((m.shunt == 2000).all()))
        port.serial.close()
        process.stdin.close()
        assert process.wait(HANG_S) == 0
    told = json.loads(truth.read_text())
    assert told["to_s"] < told["sensors"][0]["energy_j"] < 2 * told["to_s"], "1 W, and then 2 W"
    assert not link.is_symlink()


@pytest.mark.processes
def test_the_command_ends_cleanly_when_interrupted(tmp_path):
    link = tmp_path / "ttyINA"
    with subprocess.Popen([*COMMAND, "machine", "--hex", IMAGE, "--pty", link], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.wait(HANG_S)
    assert not link.is_symlink()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hex", "nothing.hex"], "no such file"),
        (["--hex", str(IMAGE), "--load", "warm"], "unknown load"),
        (["--hex", str(IMAGE), "--sensor", "colour=3"], "unknown part"),
        (["--hex", str(IMAGE), "--sensor", "address=x"], "not a number"),
        (["--hex", str(IMAGE), "--fault", "gremlins"], "unknown fault"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, said):
    done = subprocess.run(
        [*COMMAND, "machine", "--pty", str(tmp_path / "tty"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "tty").is_symlink()
