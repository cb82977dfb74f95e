"""Loads and switches that commands or people move: what they are told, what the truth is, what goes wrong."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from hw_tests.bench.diary import Diary
from hw_tests.bench.load import CommandLoad, FixedLoad, ManualLoad
from hw_tests.bench.power import CommandPower
from hw_tests.environment.keys import read_section
from protos.errors import ConfigError, EdgejouleError, UsageError


@pytest.fixture
def told(tmp_path):
    """A command that writes down its arguments, and what it was told so far."""
    script, file = tmp_path / "note.sh", tmp_path / "told.txt"
    file.touch()
    script.write_text(f'#!/bin/sh\necho "$@" >> "{file}"\n')
    return f"sh {script}", lambda: file.read_text().splitlines()


def load(**values):
    return read_section("load", {"kind": "command", **values}, "test")


def test_an_electronic_load_is_told_watts_and_the_truth_knows_what_it_does_not_know(told):
    command, lines = told
    waited = []
    section = load(
        constant=f"{command} set {{watts}}", square=f"{command} square {{low_w}} {{high_w}} {{period_s}}",
        off=f"{command} off", steps_w=[1, 2.5], uncertainty_relative=0.01, settle_s=0.7,
    )  # fmt: skip
    diary = Diary()
    one = CommandLoad(section, diary, sleep=waited.append)
    assert one.steps_w == (1.0, 2.5)
    one.constant(2.5)
    truth = one.truth(10.0, 14.0)
    assert (truth.energy_j, truth.uncertainty_j) == pytest.approx((10.0, 0.1))
    one.square(1.0, 5.0, 0.2)
    truth = one.truth(10.0, 14.0)
    # Mean of 3 W; where in its period it was at either end is not known: 4 W * 0.2 s / 4.
    assert (truth.energy_j, truth.uncertainty_j) == pytest.approx((12.0, 0.12 + 0.2))
    one.off()
    assert one.truth(0.0, 9.0).energy_j == 0
    assert lines() == ["set 2.5", "square 1 5 0.2", "off"]
    assert waited == [0.7, 0.7, 0.7]
    assert len(diary.lines) == 3
    assert "load constant: sh" in diary.lines[0]


def test_a_load_without_a_command_to_end_is_set_to_nothing(told):
    command, lines = told
    CommandLoad(load(constant=f"{command} {{watts}}", steps_w=[1]), Diary(), sleep=lambda _: None).off()
    assert lines() == ["0"]


@pytest.mark.parametrize(
    ("command", "kind", "said"),
    [
        ("false", EdgejouleError, "left with 1: it said nothing"),
        ("sh -c 'echo broken >&2; exit 3'", EdgejouleError, "left with 3: broken"),
        ("no-such-program-here", ConfigError, "does not start"),
        ("set {volts}", ConfigError, r"cannot be used .*known here: \{watts\}"),
        ("set 'open", ConfigError, "cannot be used"),
        ("sleep 60", EdgejouleError, "did not end in 0.2 s"),
    ],
)
def test_a_command_that_fails_is_one_line(command, kind, said):
    one = CommandLoad(load(constant=command, steps_w=[1], timeout_s=0.2), Diary(), sleep=lambda _: None)
    with pytest.raises(kind, match=said) as error:
        one.constant(1.0)
    assert "\n" not in str(error.value)


def test_a_fixed_load_is_what_the_meter_read():
    reference = {"instrument": "a meter", "power_w": 2.513, "uncertainty_w": 0.004}
    one = FixedLoad(read_section("reference", reference, "test"))
    assert one.steps_w == (2.513,)
    one.constant(2.513)
    truth = one.truth(1.0, 3.0)
    assert (truth.energy_j, truth.uncertainty_j) == pytest.approx((5.026, 0.008))
    with pytest.raises(UsageError, match="cannot draw 3 W"):
        one.constant(3.0)
    with pytest.raises(UsageError, match="cannot alternate"):
        one.square(1, 2, 0.1)


def test_a_person_is_asked_once_for_each_power():
    asked = []
    section = read_section("load", {"kind": "manual", "steps_w": [2], "uncertainty_relative": 0.02}, "test")
    one = ManualLoad(section, Diary(), ask=asked.append)
    one.constant(2.0)
    one.constant(2.0)
    assert asked == ["set the load to 2 W, then press Enter"]
    assert one.truth(0.0, 3.0).uncertainty_j == pytest.approx(0.12)
    one.off()
    assert len(asked) == 2


ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from hw_tests.bench.load import ask_on_terminal
from protos.errors import EdgejouleError
try:
    ask_on_terminal("set the load to 2 W")
    print("confirmed")
except EdgejouleError as error:
    print(error)
"""
ASKING = [sys.executable, "-c", ASK, str(Path(__file__).resolve().parents[2])]


@pytest.mark.processes
def test_the_question_goes_to_the_terminal_and_waits_for_enter():
    master, slave = os.openpty()
    words = {"stdin": slave, "stdout": subprocess.PIPE, "start_new_session": True, "text": True}
    # Its controlling terminal, as a shell's; standard output is not.
    with subprocess.Popen(ASKING, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), **words) as process:
        os.close(slave)
        seen = b""
        while b"2 W" not in seen:
            seen += os.read(master, 100)
        assert process.poll() is None
        os.write(master, b"\n")
        assert process.communicate(timeout=60)[0] == "confirmed\n"
    os.close(master)


@pytest.mark.processes
def test_without_a_terminal_nobody_can_be_asked():
    done = subprocess.run(
        ASKING,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("load: nobody is there to set the load; run it on a terminal")


def test_a_switch_is_moved_in_order_and_its_state_is_known_only_when_it_is(told):
    command, lines = told
    waited = []
    values = {"on": f"{command} on", "off": f"{command} off", "off_s": 3}
    switch = CommandPower(read_section("power", values, "test"), Diary(), sleep=waited.append)
    assert switch.is_on is None
    switch.cycle()
    assert (lines(), waited, switch.is_on) == (["off", "on"], [3.0], True)
    own = CommandPower(read_section("power", {**values, "cycle": f"{command} cycle"}, "test"), Diary())
    own.cycle()
    assert (lines()[2:], own.is_on) == (["cycle"], True)
    broken = CommandPower(read_section("power", {**values, "off": "false"}, "test"), Diary())
    broken.on()
    with pytest.raises(EdgejouleError, match="power off: false"):
        broken.off()
    assert broken.is_on is None, "nobody knows"
