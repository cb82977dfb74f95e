"""``monitor``, ``config``, ``calibrate`` and ``selftest`` as processes on real pseudo-terminals."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from client_worlds import IMAGE, NEEDS_MACHINE, sensor

from firmware_tools.bridge.calibrate.certificate import certificate_id
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge


def run(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "firmware_tools.cli", "bridge", *words]
    return subprocess.run(command, input=text or "", capture_output=True, text=True, timeout=120, check=False)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("firmware-tools: ")
    assert "Traceback" not in done.stderr
    return last


@pytest.fixture
def sim(tmp_path):
    """A simulated bridge in this process; its port."""
    bridge = SimulatedBridge(BridgeSpec(link=tmp_path / "tty", load="constant:2.5", seed=4, protocol=(1, 1)))
    with Bench([bridge]):
        yield str(tmp_path / "tty")


def test_config_shows_changes_and_reads_back(sim):
    before = json.loads(run("config", "--port", sim, "--json").stdout)
    assert (before["profile"], before["sensors"][0]["range_mv"]) == ("balanced", 80)
    done = run(
        "config", "--port", sim, "--profile", "energy", "--range", "160mV", "--uid", "0102030405060708", "--json"
    )  # fmt: skip
    after = json.loads(done.stdout)
    assert (after["uid"], after["profile"], after["sensors"][0]["range_mv"]) == ("0102030405060708", "energy", 160)
    assert after["sensors"][0]["limit_a"] == 8.0
    table = run("config", "--port", sim).stdout
    assert "160 mV" in table
    assert "energy" in table


def test_a_setting_that_is_half_blind_needs_force(sim):
    refused = run("config", "--port", sim, "--register", "0x099f")
    assert refused.returncode == 16
    assert "REFUSED" in one_line(refused)
    forced = run("config", "--port", sim, "--force-config", "0x099f", "--json")
    assert json.loads(forced.stdout)["sensors"][0]["config"] == 0x099F
    assert run("config", "--port", sim, "--register", "0x0007", "--json").returncode == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["config", "--range", "90mV"], 2),
        (["config", "--uid", "12"], 2),
        (["config", "--uid", "zz"], 2),
        (["config", "--register", "0x10000"], 2),
        (["config", "--sensor", "2"], 2),
        (["config", "--register", "0x0000"], 16),
        (["calibrate"], 2),
        (["calibrate", "--zero", "--seconds", "0"], 2),
        (["calibrate", "--zero", "--shunt-ohm", "0"], 2),
        (["calibrate", "--current", "fast"], 2),
        (["calibrate", "--current", "1A", "--power", "1W"], 2),
        (["calibrate", "--current", "1A", "--meter-error", "good"], 2),
        (["calibrate", "--zero", "--current", "1A"], 2),
        (["calibrate", "--zero", "--seconds", "1"], 3),
        (["calibrate", "--reference", "/nowhere.csv", "--seconds", "1"], 13),
        (["monitor", "--for", "-1"], 2),
        (["selftest", "--seconds", "0.1"], 2),
        (["selftest", "--seconds", "1", "--sensors", "2"], 3),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(sim, words, code):
    done = run(words[0], "--port", sim, *words[1:])
    assert done.returncode == code, done.stderr
    one_line(done)


@pytest.mark.parametrize("verb", ["config", "monitor", "selftest", "calibrate"])
def test_a_port_that_is_not_there_or_no_port_is_told(verb, tmp_path):
    more = ["--zero"] if verb == "calibrate" else []
    done = run(verb, "--port", str(tmp_path / "gone"), *more)
    assert done.returncode == 14
    assert "no such serial port" in one_line(done)
    (tmp_path / "file").write_text("x")
    assert "not a serial port" in one_line(run(verb, "--port", str(tmp_path / "file"), *more))


def test_selftest_passes_and_prints_a_table(sim):
    done = run("selftest", "--port", sim, "--seconds", "3")
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert {"handshake", "line", "clock", "rate", "sums", "calibration"} <= set(done.stdout.split())


def test_monitor_ends_by_itself_and_on_sigint(sim):
    done = run("monitor", "--port", sim, "--for", "2", "--json")
    assert done.returncode == 0
    assert all(abs(json.loads(line)["power_w"] - 2.5) < 0.1 for line in done.stdout.splitlines())
    command = [sys.executable, "-m", "firmware_tools.cli", "bridge", "monitor", "--port", sim]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == "firmware-tools: interrupted"


@NEEDS_MACHINE
def test_calibrate_then_selftest_of_the_real_firmware(tmp_path):
    link, paper = tmp_path / "tty", tmp_path / "certificate.json"
    spec = MachineSpec(IMAGE, (sensor(offset_v=2.5e-5, gain=0.009),), usb="frames")
    with FirmwareMachine.serve_pty(spec, link) as machine:
        failing = run("selftest", "--port", str(link), "--seconds", "2", "--json")
        assert failing.returncode == 3
        assert json.loads(failing.stdout)["passed"] is False
        assert "calibration" in one_line(failing)
        words = ["calibrate", "--port", str(link), "--seconds", "2", "--meter-error", "0.01%+0.1mA"]
        zero = run(*words, "--zero", "--shunt-ohm", "0.1")
        assert zero.returncode == 0, zero.stderr
        assert "counts as uncalibrated" in zero.stdout
        machine.set_load("constant:10+square:0,0.05,0.013")
        words += ["--current", "2.005A", "--meter", "bench meter 12", "--certificate", str(paper)]
        wrong = run(*words)
        assert wrong.returncode == 3
        assert "--shunt-ohm" in one_line(wrong)
        done = run(*words, "--shunt-ohm", "0.02")
        assert done.returncode == 0, done.stderr
        certificate = json.loads(paper.read_text())
        assert int(certificate["id"], 16) == certificate_id(certificate)
        assert certificate["reference"]["name"] == "bench meter 12"
        assert abs(certificate["after"]["offset_nv"] - 25_000) < 2 * certificate["uncertainty"]["offset_expanded_nv"]
        expected_ppm = (1 / 1.009 - 1) * 1e6
        assert abs(certificate["after"]["gain_ppm"] - expected_ppm) < certificate["uncertainty"]["gain_expanded_ppm"]
        assert certificate["id"] in done.stdout
        passed = run("selftest", "--port", str(link), "--seconds", "2")
        assert "PASS sensor 0  calibration" in passed.stdout


@NEEDS_MACHINE
def test_on_a_terminal_it_guides_step_by_step(tmp_path):
    link = tmp_path / "tty"
    with FirmwareMachine.serve_pty(MachineSpec(IMAGE, (sensor(gain=-0.01),), usb="frames"), link) as machine:
        ours, theirs = pty.openpty()
        command = [
            sys.executable, "-m", "firmware_tools.cli", "bridge", "calibrate", "--port", str(link), "--json",
            "--shunt-ohm", "0.02", "--seconds", "1", "--no-restart",
        ]  # fmt: skip
        with subprocess.Popen(command, stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, text=True) as process:
            os.close(theirs)
            said = b""

            def hear(words: bytes) -> None:
                nonlocal said
                while words not in said:
                    said += os.read(ours, 1000)
                said = b""

            hear(b"press Enter")
            os.write(ours, b"\n")
            hear(b"press Enter")
            machine.set_load("constant:10")
            os.write(ours, b"\n")
            hear(b"meter say")
            os.write(ours, b"2.000A\n")
            assert process.stdout is not None
            certificate = json.loads(process.stdout.read())
            assert process.wait(60) == 0
        os.close(ours)
    assert (
        abs(certificate["after"]["gain_ppm"] - (1 / 0.99 - 1) * 1e6) < certificate["uncertainty"]["gain_expanded_ppm"]
    )


def test_help_has_an_example():
    for verb in ("monitor", "config", "calibrate", "selftest"):
        done = run(verb, "--help")
        assert done.returncode == 0
        assert f"firmware-tools bridge {verb} --port" in done.stdout
