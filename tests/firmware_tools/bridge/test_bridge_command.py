"""``firmware-tools bridge``: real processes, real pseudo-terminals."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import serial

from firmware_tools.bridge.client.wiretap import decode_capture
from firmware_tools.bridge.commands.all import add_commands
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from protos.bridge.commands import Command, command
from protos.bridge.framing import encode_frame
from protos.bridge.hello import PROTOCOL
from protos.errors import DataError, SensorError, UsageError

RUN = """
import argparse, sys
from firmware_tools.bridge.commands.all import add_commands
parser = argparse.ArgumentParser()
add_commands(parser.add_subparsers(required=True))
args = parser.parse_args()
sys.exit(args.run(args))
"""


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    args = parser.parse_args(["bridge", *words])
    code: int = args.run(args)
    return code


@pytest.fixture
def started():
    """Start ``bridge sim`` as a process; returns it once its links are announced."""
    processes = []

    def start(*words: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, "bridge", "sim", "--json", *words], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        assert "bridges" in json.loads(process.stdout.readline())
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_several_bridges_stream_and_end_cleanly(started, tmp_path, number):
    links = [tmp_path / name for name in ("a", "b")]
    pid_file, truth = tmp_path / "pid", tmp_path / "truth.json"
    pid_file.write_text(str(os.getpid()))
    process = started(
        "--bridge", f"board=pi4,pid-file={pid_file},link={links[0]}",
        "--bridge", f"board=pi5,load=square:1,2,0.1,link={links[1]},seed=9",
        "--truth", str(truth),
    )  # fmt: skip
    for link in links:
        with serial.Serial(str(link), timeout=5, exclusive=True) as port:
            port.write(encode_frame(command(Command.GET_HELLO)))
            data = b""
            while not {"hello", "samples"} <= {message["type"] for message in decode_capture(data)[0]}:
                chunk = port.read(200)
                assert chunk, "the simulator fell silent"
                data += chunk
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert not any(link.is_symlink() for link in links)
    reports = json.loads(truth.read_text())["bridges"]
    assert [report["board"] for report in reports] == ["pi4", "pi5"]
    first, second = reports
    assert first["energy_j"] >= 2.10 * (first["to_monotonic_s"] - first["from_monotonic_s"]) * 0.999
    assert second["energy_j"] == pytest.approx(1.5 * (second["to_monotonic_s"] - second["from_monotonic_s"]), abs=0.06)


def test_the_simulator_ends_with_the_process_that_started_it(tmp_path):
    link = tmp_path / "tty"
    script = (
        "import subprocess, sys, time\n"
        f"run = [sys.executable, '-c', {RUN!r}, 'bridge', 'sim', '--link', {str(link)!r}, '--die-with-parent']\n"
        "child = subprocess.Popen(run, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert link.is_symlink()
        parent.kill()
    end = time.monotonic() + 20
    while link.is_symlink() and time.monotonic() < end:
        time.sleep(0.02)
    assert not link.is_symlink(), f"simulator {child} outlived its parent"


def test_info_prints_who_answers(tmp_path, capsys):
    with Bench([SimulatedBridge(BridgeSpec(link=tmp_path / "tty", load="idle", seed=3))]):
        assert call("info", "--port", str(tmp_path / "tty"), "--json") == 0
        fields = json.loads(capsys.readouterr().out)
    assert fields["type"] == "hello"
    assert fields["protocol"] == list(PROTOCOL)
    assert fields["reset"] == ["POWER_ON"]
    assert fields["sensors"][0]["calibration"]["shunt_uohm"] == 20_000
    with pytest.raises(SensorError, match="no such serial port"):
        call("info", "--port", str(tmp_path / "gone"))


def test_info_gives_up_on_a_silent_port():
    master, slave = os.openpty()
    try:
        with pytest.raises(SensorError, match="no bridge answered"):
            call("info", "--port", os.ttyname(slave), "--wait", "0.2")
    finally:
        os.close(master)
        os.close(slave)


def test_decode_prints_messages_and_counts_what_it_dropped(tmp_path, capsys):
    bridge = SimulatedBridge(BridgeSpec(link=tmp_path / "tty", load="constant:2", seed=3))
    now_s = bridge.started_s
    stream = b"".join(bridge.device.advance(now_s + number / 100) for number in range(300))
    bridge.unplug()
    capture = tmp_path / "capture.bin"
    capture.write_bytes(b"junk" + stream + encode_frame(b"\x77new type"))
    assert call("decode", str(capture), "--json") == 0
    printed = capsys.readouterr()
    kinds = [json.loads(line)["type"] for line in printed.out.splitlines()]
    assert kinds[0] == "hello"
    assert kinds[-1] == "unknown"
    assert kinds.count("samples") > 30
    assert "4 bytes before the first frame" in printed.err
    with pytest.raises(DataError, match="cannot be read"):
        call("decode", str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "words",
    [
        ["sim"],
        ["sim", "--link", "x", "--board", "pi9"],
        ["sim", "--link", "x", "--load", "cpu"],
        ["sim", "--link", "x", "--sensor-profile", "fast"],
        ["sim", "--link", "x", "--shunt-ohm", "0"],
        ["sim", "--link", "x", "--drop", "2"],
        ["sim", "--bridge", "board=pi4"],
        ["sim", "--bridge", "link=a,link2=b"],
        ["sim", "--bridge", "link=a,pid=seven"],
        ["sim", "--bridge", "nonsense"],
        ["sim", "--bridge", "link=a", "--bridge", "link=a"],
    ],
)
def test_a_mistake_in_the_options_is_told_and_leaves_no_link(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        call(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_link_is_not_overwritten(tmp_path):
    (tmp_path / "tty").write_text("precious")
    with pytest.raises(UsageError, match="in the way"):
        call("sim", "--link", str(tmp_path / "tty"))
    assert (tmp_path / "tty").read_text() == "precious"
