"""Measuring with the board at rest before and after: gross, net, and what signals and settings do to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from edge_runtime import cli, config
from edge_runtime.measure.measurement import Measurement
from edge_runtime.measure.period import MeasuredPeriod
from edge_runtime.measure.report import document, lines, net
from edge_runtime.power.meters.meter import MeterIdentity
from protos.energy.trace import Phase, PhaseEnergy
from protos.energy.uncertainty import UncertaintyTerm

MEASURE = [sys.executable, "-m", "edge_runtime.cli", "measure"]
IDENTITY = MeterIdentity("measured", "bench", "1", "calibrated")


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MEASURE, *arguments], capture_output=True, text=True, timeout=60, check=False, **options)


def period(
    name: str, start_s: float, stop_s: float, watts: float | None, *, covered: float = 1.0, bounded: bool = True
):
    seconds = stop_s - start_s
    energy_j = None if watts is None else watts * seconds * covered
    budget = (UncertaintyTerm("offset", 0.01 * seconds), UncertaintyTerm("noise", 0.002, "random")) if bounded else ()
    energy = PhaseEnergy(Phase.TRAIN, energy_j, seconds * covered, seconds * (1 - covered), "measured", "bench",
                         0.1 if bounded else None, (), budget)  # fmt: skip
    return MeasuredPeriod(name, start_s, stop_s, energy, watts)


def result(main, before=None, after=None) -> Measurement:
    return Measurement(main, IDENTITY, "time", None, None, before, after)


def test_idle_that_drifts_is_taken_off_along_a_straight_line():
    measured = result(period("m", 10, 20, 5.0), period("b", 0, 10, 1.0), period("a", 20, 30, 3.0))
    left = net(measured)
    assert left is not None
    assert left.idle_j == pytest.approx(20.0)
    assert left.energy_j == pytest.approx(30.0)
    figures = document(measured)["baseline"]
    assert figures["net_j"] == left.energy_j
    # The zero of the chain is in both and goes out; what is left is the drift, and noise.
    assert figures["budget"]["offset"] == pytest.approx(0.0, abs=1e-12)
    assert figures["budget"]["baseline"] > 0
    assert figures["net_uncertainty_j"] > 0
    assert any(line.startswith("net       30 J") for line in lines(measured))


def test_a_signal_that_cut_the_second_reading_leaves_the_first():
    measured = result(period("m", 10, 20, 5.0), period("b", 0, 10, 1.0))
    figures = document(measured)["baseline"]
    assert figures["net_j"] == pytest.approx(40.0)
    assert figures["after"] is None
    assert figures["flags"] == ["one-baseline"]


@pytest.mark.parametrize("unknown", ["main", "before", "after"])
def test_what_is_unknown_in_one_period_makes_the_net_unknown(unknown):
    watts = dict.fromkeys(("main", "before", "after"), 2.0) | {unknown: None}
    measured = result(
        period("m", 10, 20, watts["main"]), period("b", 0, 10, watts["before"]), period("a", 20, 30, watts["after"])
    )
    figures = document(measured)["baseline"]
    assert (figures["net_j"], figures["net_uncertainty_j"]) == (None, None)
    assert any(line.startswith("net       ? J ± ? J") for line in lines(measured))


def test_a_period_that_cannot_be_bounded_leaves_the_net_unbounded():
    figures = document(result(period("m", 10, 20, 5.0, bounded=False), period("b", 0, 10, 1.0)))["baseline"]
    assert figures["net_j"] == pytest.approx(40.0)
    assert (figures["net_uncertainty_j"], figures["net_worst_case_j"], figures["budget"]) == (None, None, {})


def test_where_nothing_was_seen_no_idle_is_taken_off():
    figures = document(result(period("m", 10, 20, 5.0, covered=0.95), period("b", 0, 10, 1.0)))["baseline"]
    assert figures["net_j"] == pytest.approx(9.5 * 4.0)


def test_a_steady_load_has_nothing_left(plug_in):
    bridge = plug_in()
    ended = run("--sensor", f"serial:{bridge.spec.link}", "--baseline", "500ms", "--json", "--", "sleep", "0.3")
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout)
    rest = figures["baseline"]
    assert abs(rest["net_j"]) <= 2 * rest["net_uncertainty_j"]
    assert rest["net_uncertainty_j"] < 0.02 * figures["energy_j"]
    assert rest["before"]["mean_w"] == pytest.approx(4.0, rel=0.01)
    assert rest["after"]["duration_s"] >= 0.5


def test_a_signal_in_the_first_reading_ends_everything_and_starts_no_command(plug_in, tmp_path, until):
    bridge = plug_in()
    words = ["--sensor", f"serial:{bridge.spec.link}", "--baseline", "60s", "--", "touch", str(tmp_path / "ran")]
    process = subprocess.Popen([*MEASURE, *words], stdout=subprocess.PIPE, text=True)
    until(lambda: bridge.attached)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert (process.returncode, text) == (130, "")
    assert not (tmp_path / "ran").exists()


def test_after_sigterm_there_is_no_second_reading(plug_in, tmp_path):
    bridge, out = plug_in(), tmp_path / "out.json"
    words = ["--sensor", f"serial:{bridge.spec.link}", "--baseline", "300ms", "--json", str(out)]
    process = subprocess.Popen(
        [*MEASURE, *words, "--", "sh", "-c", "echo up; exec sleep 60"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert json.loads(out.read_text())["baseline"]["after"] is None


def test_a_command_that_ignores_sigterm_is_killed_by_a_second(tmp_path):
    code = "import signal, time; signal.signal(15, lambda *_: print('heard', flush=True)); print('up', flush=True)\n"
    code += "while True: time.sleep(1)"
    out = tmp_path / "out.json"
    process = subprocess.Popen(
        [*MEASURE, "--json", str(out), "--", sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "heard\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL


def test_the_sensor_comes_from_the_settings_of_the_device_when_none_is_named(plug_in, tmp_path):
    bridge = plug_in()
    settings = tmp_path / "device.toml"
    settings.write_text(f'sensor = "serial:{bridge.spec.link}"\n')
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EDGEJOULE_")}
    for words, variables in ((["--config", str(settings)], {}), ([], {"EDGEJOULE_CONFIG": str(settings)})):
        ended = run(*words, "--for", "200ms", "--json", env=environ | variables)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["sensor"] == f"ina219:{bridge.spec.link}#0"
    ended = run("--config", str(settings), "--for", "50ms", "--json", env=environ | {"EDGEJOULE_SENSOR": "none"})
    assert json.loads(ended.stdout)["method"] == "unknown"


def test_the_usual_place_of_the_settings_is_looked_at(tmp_path, monkeypatch, capsys):
    (tmp_path / "device.toml").write_text('sensor = "estimate:pi4"\n')
    monkeypatch.setattr(config, "SERVICE_CONFIG", tmp_path / "device.toml")
    monkeypatch.delenv("EDGEJOULE_SENSOR", raising=False)
    assert cli.main(["measure", "--for", "50ms", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "estimated"


@pytest.mark.parametrize("option", ["--record", "--plot", "--baseline"])
@pytest.mark.parametrize("sensor", ["none", "estimate:pi4"])
def test_what_needs_samples_is_refused_where_there_are_none(option, sensor, tmp_path, capsys):
    value = "1s" if option == "--baseline" else str(tmp_path / "file")
    assert cli.main(["measure", "--sensor", sensor, option, value, "--for", "50ms"]) == 2
    assert "there are none" in capsys.readouterr().err
    assert not (tmp_path / "file").exists()
