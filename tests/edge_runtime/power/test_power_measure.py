"""`edge-runtime measure` as a process: a simulated bridge on a real terminal, real commands, real signals."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from edge_runtime import cli
from edge_runtime.measure.display import sparkline
from protos.durations import duration_s
from protos.errors import UsageError

MEASURE = [sys.executable, "-m", "edge_runtime.cli", "measure"]
# Says that it is up, counts the interrupts that reach it, and leaves with their number.
COUNTER = """
import signal, sys, time
count = 0
def note(*_):
    global count
    count += 1
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
print("up", flush=True)
while not count:
    signal.pause()
for _ in range(10):
    time.sleep(0.03)
sys.exit(10 + count)
"""
KEYS = {
    "schema", "energy_j", "uncertainty_j", "coverage_factor", "worst_case_j", "mean_w", "peak_w", "duration_s",
    "covered_s", "uncovered_s", "coverage", "method", "sensor", "calibration_id", "quality", "flags", "budget",
    "baseline", "ended_by", "command", "exit_code",
}  # fmt: skip
# A program on a terminal of its own: makes its stdin the controlling terminal, then becomes the words that follow.
ON_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MEASURE, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_period_gives_the_joules_of_the_load_with_everything_one_must_know(plug_in):
    bridge = plug_in(seed=4)
    ended = run("--sensor", f"serial:{bridge.spec.link}", "--for", "500ms", "--json")
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    assert figures.keys() == KEYS
    assert figures["duration_s"] >= 0.5
    assert figures["energy_j"] == pytest.approx(4.0 * figures["covered_s"], abs=figures["uncertainty_j"] * 1.5)
    assert figures["mean_w"] == pytest.approx(4.0, rel=0.01)
    assert figures["peak_w"] == pytest.approx(4.0, rel=0.02)
    assert 0 < figures["uncertainty_j"] < 0.05 * figures["energy_j"]
    assert figures["coverage"] >= 0.99
    assert (figures["method"], figures["quality"], figures["flags"]) == ("measured", "calibrated", [])
    assert (figures["ended_by"], figures["command"], figures["exit_code"]) == ("time", None, None)
    assert ended.stderr == ""


def test_the_peak_is_that_of_the_load_and_the_mean_lies_below(plug_in):
    bridge = plug_in(load="square:2.0,6.0,0.2", profile="transient")
    ended = run("--sensor", f"serial:{bridge.spec.link}", "--for", "1s", "--json")
    figures = json.loads(ended.stdout)
    assert figures["peak_w"] == pytest.approx(6.0, rel=0.02)
    assert 2.5 < figures["mean_w"] < 5.5


def test_a_command_runs_once_and_its_exit_code_is_passed_on(plug_in, tmp_path):
    bridge, out = plug_in(), tmp_path / "joules.json"
    code = "import sys, time; print('worked'); time.sleep(0.2); sys.exit(7)"
    ended = run("--sensor", f"serial:{bridge.spec.link}", "--json", str(out), "--", sys.executable, "-c", code)
    assert ended.returncode == 7
    assert ended.stdout.splitlines()[0] == "worked"
    assert "ended with 7" in ended.stdout
    figures = json.loads(out.read_text())
    assert figures["exit_code"] == 7
    assert figures["ended_by"] == "command"
    assert figures["command"] == [sys.executable, "-c", code]
    assert figures["duration_s"] >= 0.2
    assert figures["mean_w"] == pytest.approx(4.0, rel=0.02)


def test_with_json_on_stdout_nothing_else_is_there(plug_in):
    bridge = plug_in()
    ended = run("--sensor", f"serial:{bridge.spec.link}", "--json", "--", "sh", "-c", "echo noise -- more")
    assert json.loads(ended.stdout)["command"] == ["sh", "-c", "echo noise -- more"]
    assert ended.stderr == "noise -- more\n"


def test_a_command_that_dies_of_a_signal_gives_128_and_its_number():
    ended = run("--json", "--", "sh", "-c", "kill -KILL $$")
    assert ended.returncode == 128 + signal.SIGKILL
    assert json.loads(ended.stdout)["exit_code"] == 128 + signal.SIGKILL


def test_without_a_sensor_the_energy_is_unknown_and_not_zero():
    ended = run("--for", "50ms", "--json")
    figures = json.loads(ended.stdout)
    assert [figures[key] for key in ("energy_j", "mean_w", "peak_w", "uncertainty_j")] == [None] * 4
    assert (figures["method"], figures["flags"]) == ("unknown", ["no-sensor"])
    assert figures["duration_s"] >= 0.05
    plain = run("--for", "50ms")
    assert "energy    ? J" in plain.stdout
    assert "mean      ? W" in plain.stdout


def test_an_estimate_measures_a_period_and_refuses_a_command(capsys):
    figures = json.loads(run("--sensor", "estimate:pi4", "--for", "100ms", "--json").stdout)
    assert figures["method"] == "estimated"
    assert figures["energy_j"] > 0
    assert figures["peak_w"] is None
    assert cli.main(["measure", "--sensor", "estimate:pi4", "--", "true"]) == UsageError.exit_code
    assert "this process alone" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--for", "0s"],
        ["--for=-1s"],
        ["--for", "nan"],
        ["--for", "1 fortnight"],
        ["--for", "9999999h"],
        ["--for", "1s", "--", "true"],
        ["--for", "1s", "--json", "no/such/folder/out.json"],
        ["--sensor", "magic", "--for", "1s"],
        ["--", "no-such-program-anywhere"],
        ["--", "/"],
        ["--", ""],
    ],
)
def test_a_mistake_is_one_line_with_exit_code_2(options, capsys):
    code = cli.main(["measure", *options])
    assert code == 2
    seen = capsys.readouterr()
    lines = [line for line in seen.err.splitlines() if "no sensor" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("edge-runtime: ")
    assert seen.out == ""


def test_a_port_that_is_not_there_starts_no_command(tmp_path):
    ended = run("--sensor", f"serial:{tmp_path}/none", "--", "touch", str(tmp_path / "ran"))
    assert ended.returncode == 14
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_open_period_and_gives_its_figures(number, plug_in, until):
    bridge = plug_in()
    process = subprocess.Popen(
        [*MEASURE, "--sensor", f"serial:{bridge.spec.link}", "--json"], stdout=subprocess.PIPE, text=True
    )
    until(lambda: bridge.attached)
    time.sleep(1.0)  # past the handshake; what comes earlier is taken from the queue as well
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    figures = json.loads(text)
    assert figures["ended_by"] == "interrupt"
    assert figures["mean_w"] == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_this_process_alone_reaches_the_command_once(number, tmp_path):
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [*MEASURE, "--json", str(out), "--", sys.executable, "-c", COUNTER], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 11
    assert json.loads(out.read_text())["ended_by"] == "command"


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, words: list[str], **streams: int) -> None:
        self.master, slave = pty.openpty()
        own = {"stdin": slave, "stdout": slave, "stderr": slave} | streams
        environ = {**os.environ, "TERM": "xterm"}
        command = [sys.executable, "-c", ON_TERMINAL, *words]
        self.process = subprocess.Popen(command, start_new_session=True, env=environ, **own)
        os.close(slave)
        self.seen = b""

    def read_until(self, wanted: bytes) -> None:
        end = time.monotonic() + 60
        while wanted not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 4096)

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        os.close(self.master)
        return code


def test_ctrl_c_on_a_terminal_reaches_the_command_once():
    terminal = Terminal([*MEASURE, "--", sys.executable, "-c", COUNTER])
    terminal.read_until(b"up\r\n")
    os.write(terminal.master, b"\x03")
    terminal.read_until(b"ended with")
    assert terminal.end() == 11


def test_a_terminal_shows_a_live_line_and_leaves_it_empty(plug_in):
    bridge = plug_in()
    terminal = Terminal([*MEASURE, "--sensor", f"serial:{bridge.spec.link}", "--json"], stdout=(pipe := os.pipe())[1])
    os.close(pipe[1])
    terminal.read_until(b" W ")
    os.write(terminal.master, b"\x03")
    with os.fdopen(pipe[0]) as stdout:
        figures = json.loads(stdout.read())
    assert figures["ended_by"] == "interrupt"
    assert figures["mean_w"] == pytest.approx(4.0, rel=0.02)
    while select.select([terminal.master], [], [], 0.1)[0]:
        try:
            terminal.seen += os.read(terminal.master, 4096)
        except OSError:
            break
    assert terminal.end() == 0
    assert "█" in terminal.seen.decode()
    assert terminal.seen.endswith(b"\r\x1b[K")


def test_lengths_of_time_are_read_with_their_unit():
    written = ("30s", "2m", "500ms", "1h", "1.5s", "3")
    assert [duration_s(text, "--for") for text in written] == [30, 120, 0.5, 3600, 1.5, 3]


def test_a_plot_has_gaps_where_nothing_is_known_and_survives_zeros():
    assert sparkline([None, 0.0, 0.0]) == " ▁▁"
    assert sparkline([-1.0, 1.0]) == "▁█"
    assert sparkline([]) == ""
