"""A whole session on a bench: power on and off, measurements written, the first failure kept, one session at a time.

The bench is a "real" one to the plugin: a port, a switch that a command moves, a fixed load with a reference reading.
Behind the port runs the bridge's firmware in the simulated machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from hw_tests.bench.lock import BenchLock, lock_path

pytestmark = pytest.mark.processes


@pytest.fixture
def environment(environment_file, port, switch, bench_name):
    return environment_file(port=port, switch=switch[0], name=bench_name)


def test_a_session_measures_writes_and_switches_off(inner, pytester, environment, switch, bench_name):
    done = inner(
        """
        def test_joules(bench, meter, load, measure):
            load.constant(load.steps_w[0])
            reading = meter().phase("constant", bench.duration_s("phase_s"))
            measure("error", reading.error, "1", limit=bench.tolerance("constant_relative"), uncertainty=0.0004)
            measure("samples", 7, "1")
        """,
        "--hw-env", environment, "--junitxml", "junit.xml",
    )  # fmt: skip
    done.assert_outcomes(passed=1)
    assert switch[1].read_text().split() == ["on", "off"]
    document = json.loads((pytester.path / "artifacts" / "measurements.json").read_text())
    assert document["schema"] == 1
    session = document["session"]
    assert (session["bench"], session["simulated"], session["exit_status"]) == (bench_name, False, 0)
    assert session["bridge"]["calibrations"] == ["00000009"]
    assert len(session["bridge"]["build"]) == 16
    assert session["host"]["kernel"] == os.uname().release
    error, samples = document["measurements"]
    assert (error["test"], error["name"], error["unit"]) == ("test_inner.py::test_joules", "error", "1")
    assert (error["limit"], error["uncertainty"], error["passed"]) == (0.5, 0.0004, True)
    assert abs(error["value"]) < 0.5
    assert (samples["value"], samples["limit"], samples["passed"]) == (7.0, None, None)
    alone = json.loads((pytester.path / "artifacts" / "tests" / "test_inner.test_joules.json").read_text())
    assert alone["measurements"] == document["measurements"]
    assert not (pytester.path / "artifacts" / "first-failure").exists()
    found = ElementTree.parse(pytester.path / "junit.xml").findall(".//testcase/properties/property")
    assert {one.get("name") for one in found} == {"error [1]", "samples [1]"}
    done.stdout.fnmatch_lines(
        ["*2 measurements, 0 beyond their limits*", "test_inner.test_joules", "  error *+-0.0004 *within 0.5"]
    )


def test_the_first_failure_is_kept_and_power_goes_off_whatever_happened(inner, pytester, environment, switch):
    source = """
        import pytest
        def test_good(bench, measure): measure("x", 1, "s", limit=2)
        def test_beyond(bench, meter, measure):
            live = meter()
            measure("too much", 3, "s", limit=2)
            live.phase("all the same", 0.3)
            measure("afterwards", 1, "s", limit=2)
        def test_worse(bench):
            raise RuntimeError("another failure")
        """
    done = inner(source, "--hw-env", environment)
    done.assert_outcomes(passed=1, failed=2)
    done.stdout.fnmatch_lines(["*too much is 3 s, within 2 allowed*", "*3 measurements, 1 beyond their limits*"])
    assert switch[1].read_text().split() == ["on", "off"]
    kept = pytester.path / "artifacts" / "first-failure"
    assert "test_beyond" in (kept / "test.txt").read_text()
    assert "too much is 3 s" in (kept / "test.txt").read_text()
    assert len((kept / "last-bytes.bin").read_bytes()) > 200
    assert all(json.loads(line) for line in (kept / "last-bytes.jsonl").read_text().splitlines())
    assert "HELLO" in (kept / "bench.log").read_text()
    assert json.loads((kept / "state.json").read_text())["power_is_on"] is True
    (recording,) = kept.glob("*.ejr")
    words = [sys.executable, "-m", "edge_runtime.cli", "recording", "info", str(recording), "--json"]
    read = subprocess.run(words, capture_output=True, text=True, check=False)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout)["samples"] > 20
    rows = json.loads((pytester.path / "artifacts" / "measurements.json").read_text())["measurements"]
    assert [row["passed"] for row in rows] == [True, False, True], "what comes behind a failure is measured as well"
    inner(source, "--hw-env", environment, "--hw-keep").assert_outcomes(passed=1, failed=2)
    assert switch[1].read_text().split() == ["on", "off", "on"], "left on, as was asked"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(inner, pytester, environment, switch, number):
    done = inner(
        f"""
        import os, time
        def test_long(bench):
            os.kill(os.getpid(), {int(number)})
            time.sleep(60)
        """,
        "--hw-env", environment,
    )  # fmt: skip
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert switch[1].read_text().split() == ["on", "off"]


def test_a_second_interrupt_does_not_keep_the_power_on(inner, pytester, environment_file, port, bench_name, tmp_path):
    """Somebody presses Ctrl-C again while the command that switches off is running."""
    told, script = tmp_path / "told.txt", tmp_path / "off.sh"
    script.write_text(f'kill -INT $PPID; kill -TERM $PPID; sleep 0.2; echo off >> "{told}"\n')
    path = environment_file(("off: true off", f"off: sh {script}"), port=port, name=bench_name)
    done = inner("import os, signal\ndef test_a(bench): os.kill(os.getpid(), signal.SIGINT)", "--hw-env", path)
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert told.read_text() == "off\n"


def test_a_second_session_is_told_who_has_the_bench(inner, environment, bench_name, switch):
    with BenchLock(lock_path(bench_name), what=bench_name):
        done = inner("def test_a(bench): pass", "--hw-env", environment)
        assert done.ret == 16
        assert f"bench {bench_name} is in use by" in done.stdout.str() + done.stderr.str()
        assert f"process {os.getpid()}" in done.stdout.str() + done.stderr.str()
        assert inner("def test_a(bench): pass", "--hw-env", environment, "--hw-wait", "0.5").ret == 17
    assert switch[1].read_text() == "", "a bench of somebody else is not switched"


def test_a_bench_that_does_not_answer_is_one_line_and_is_switched_off(
    inner, environment_file, switch, tmp_path, bench_name
):
    path = environment_file(("ready_s: 5", "ready_s: 0.2"), port=str(tmp_path / "ttyNOBODY"), switch=switch[0],
                            name=bench_name)  # fmt: skip
    done = inner("def test_a(bench): pass", "--hw-env", path)
    assert done.ret == 14
    assert "no such port, after 0.2 s" in done.stdout.str() + done.stderr.str()
    assert switch[1].read_text().split() == ["on", "off"]


def test_another_bridge_than_the_one_of_the_file_is_refused(inner, environment_file, port, switch, bench_name):
    path = environment_file(("shunt_ohm: 0.02", "shunt_ohm: 0.1"), port=port, switch=switch[0], name=bench_name)
    done = inner("def test_a(bench): pass", "--hw-env", path)
    assert done.ret == 21
    assert "its calibration has a shunt of 0.02 ohm, the environment 0.1" in done.stdout.str() + done.stderr.str()
    assert switch[1].read_text().split() == ["on", "off"]


def test_a_switch_that_fails_fails_the_session(inner, environment_file, port, bench_name):
    path = environment_file(("off: true off", "off: /bin/false"), port=port, name=bench_name)
    done = inner("def test_a(bench): pass", "--hw-env", path)
    done.assert_outcomes(passed=1, errors=1)
    assert "power off: /bin/false: left with 1" in done.stdout.str()


def test_an_electronic_load_ends_drawing_before_the_power_goes_off(inner, environment_file, port, switch, bench_name):
    command, told = switch
    load = f"{{kind: command, constant: '{command} {{watts}}', off: {command} none, steps_w: [2.5], settle_s: 0.05}}"
    path = environment_file(("{kind: fixed}", load), port=port, switch=command, name=bench_name)
    inner("def test_a(bench, load): load.constant(2.5)", "--hw-env", path).assert_outcomes(passed=1)
    assert told.read_text().split() == ["on", "2.5", "none", "off"]
    inner("def test_a(bench): pass", "--hw-env", path).assert_outcomes(passed=1)
    assert told.read_text().split()[4:] == ["on", "off"], "what was not touched is left alone"


def test_a_switch_that_does_not_start_is_one_line_and_says_that_the_supply_may_be_on(
    inner, environment_file, port, bench_name
):
    path = environment_file(port=port, name=bench_name, switch="/no/such/switch")
    done = inner("def test_a(bench): pass", "--hw-env", path)
    assert done.ret == 4
    said = done.stdout.str() + done.stderr.str()
    assert "power on: /no/such/switch on: does not start" in said
    assert "the supply may still be on" in said
    assert "Traceback" not in said


def test_what_one_test_has_broken_the_next_one_does_not_find(inner, pytester):
    done = inner(
        """
        def test_breaks(bench):
            bench.hello()
            bench.fault("to-host-drop", 1.0)
            bench.unplug()
            assert False, "and does not tidy up"
        def test_finds_it_whole(bench, bridge):
            assert bridge.hello(30).sensors
        """,
        "--hw-sim",
    )
    done.assert_outcomes(passed=1, failed=1)
    state = json.loads((pytester.path / "artifacts" / "first-failure" / "state.json").read_text())
    assert state["machine"]["tx_dropped"] >= 0
    assert state["load"] == "constant:0"


def test_a_machine_that_dies_is_a_failure_that_is_kept(inner, pytester):
    done = inner("def test_a(bench): bench.machine.kill(); bench.hello()", "--hw-sim")
    done.assert_outcomes(failed=1)
    assert "it was closed" in (pytester.path / "artifacts" / "first-failure" / "state.json").read_text()
