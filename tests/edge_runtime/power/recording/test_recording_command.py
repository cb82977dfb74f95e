"""`edge-runtime recording` and the recorded side of `measure`: what people see, and what goes into other programs."""

from __future__ import annotations

import csv
import io
import itertools
import json
import subprocess
import sys
import time

import pytest

from edge_runtime import cli
from edge_runtime.measure.instruments.csv_trace import integrate_csv
from edge_runtime.measure.measure_opening import opened
from edge_runtime.power.recording.entries import Note
from edge_runtime.power.recording.export import rows
from protos.errors import DataError


@pytest.fixture
def recorded(plug_in, tmp_path):
    """A recording of a real terminal with two periods, and what they came to."""
    bridge = plug_in(load="square:2.0,5.0,0.1", profile="transient")
    path = tmp_path / "run.ejr"
    with opened(f"serial:{bridge.spec.link}", record=path) as meter:
        periods = []
        for name in ("one", "two"):
            meter.begin(name)
            time.sleep(0.2)
            periods.append(meter.end())
    return path, periods


def test_info_says_who_measured_what_and_how_much(recorded, capsys):
    path, _ = recorded
    assert cli.main(["recording", "info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "ina219:" in text
    assert "damage    none" in text
    assert cli.main(["recording", "info", str(path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["size_bytes"] == path.stat().st_size
    assert figures["samples"] > 300
    assert figures["length_s"] > 0.4
    assert figures["header"]["identity"]["method"] == "measured"
    assert figures["header"]["schema"] == "edgejoule.recording/1"
    assert not any(figures["damage"].values())


def test_info_tells_what_is_missing_from_a_cut_file(recorded, capsys):
    path, _ = recorded
    path.write_bytes(path.read_bytes()[:-3])
    assert cli.main(["recording", "info", str(path)]) == 0
    assert "bytes at the end belong to no whole block" in capsys.readouterr().out


def test_an_export_has_every_sample_once_with_its_period_and_the_joules_of_the_measurement(recorded, capsys, tmp_path):
    path, periods = recorded
    assert cli.main(["recording", "export", str(path)]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(table[0]) == ["start_s", "stop_s", "power_w", "flags", "period"]
    assert {row["period"] for row in table} == {"", "one", "two"}
    for period in periods:
        joules = sum(
            (float(row["stop_s"]) - float(row["start_s"])) * float(row["power_w"])
            for row in table
            if row["period"] == period.name
        )
        assert joules == pytest.approx(period.energy.energy_j, abs=2 * 5.0 / 1470)
    out = tmp_path / "out.csv"
    assert cli.main(["recording", "export", str(path), "--csv", "-o", str(out)]) == 0
    assert len(out.read_text().splitlines()) == len(table) + 1
    total = sum((float(row["stop_s"]) - float(row["start_s"])) * float(row["power_w"]) for row in table)
    assert integrate_csv(out).total_j == pytest.approx(total, rel=1e-6)
    assert cli.main(["recording", "export", str(path), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == len(table)
    assert lines[5]["power_w"] == pytest.approx(float(table[5]["power_w"]))
    assert lines[5]["flags"] == []


def test_a_long_recording_is_exported_in_order_without_being_held_at_once(bridge_events, write_file, monkeypatch):
    from edge_runtime.power.recording import export

    events = bridge_events(10.0)
    path = write_file(*[events[at : at + 64] for at in range(0, len(events), 64)])
    whole = list(rows(path))
    monkeypatch.setattr(export, "ReplaySensor", _small)
    parts = list(rows(path))
    assert abs(len(parts) - len(whole)) <= 0.002 * len(whole)
    assert all(left.start_s <= right.start_s for left, right in itertools.pairwise(parts))
    joules = [sum((row.stop_s - row.start_s) * row.power_w for row in table) for table in (parts, whole)]
    assert joules[0] == pytest.approx(joules[1], rel=2e-3)


def _small(path):
    from edge_runtime.power.recording.replay_sensor import ReplaySensor

    return ReplaySensor(path, capacity=512)


@pytest.mark.parametrize("words", [["info"], ["export"], ["export", "--json"]])
def test_what_is_no_recording_is_refused_in_one_line(words, tmp_path, capsys):
    path = tmp_path / "x.ejr"
    for content in (None, b"", b"time_s,power_w\n0,1\n"):
        if content is not None:
            path.write_bytes(content)
        assert cli.main(["recording", *words, str(path)]) == DataError.exit_code
        seen = capsys.readouterr()
        assert seen.err.count("\n") == 1
        assert seen.out == ""


def test_an_export_that_fails_leaves_no_file(tmp_path, write_file, capsys):
    path = write_file([Note(1.0, "x")])
    assert cli.main(["recording", "export", str(path), "-o", str(tmp_path / "no" / "out.csv")]) == 15
    assert "cannot be written" in capsys.readouterr().err
    assert cli.main(["recording", "export", str(path), "-o", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text() == "start_s,stop_s,power_w,flags,period\n"


def test_a_reader_that_goes_away_is_no_traceback(bridge_events, write_file):
    events = bridge_events(20.0)
    path = write_file(events)
    shell = f"{sys.executable} -m edge_runtime.cli recording export {path} | head -1"
    ended = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.startswith("start_s")
    assert ended.stderr == ""


def test_a_file_that_is_there_is_refused_before_the_command_runs(plug_in, tmp_path, capsys):
    bridge = plug_in()
    (tmp_path / "run.ejr").write_bytes(b"precious")
    words = ["--sensor", f"serial:{bridge.spec.link}", "--record", str(tmp_path / "run.ejr")]
    assert cli.main(["measure", *words, "--", "touch", str(tmp_path / "ran")]) == 15
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "run.ejr").read_bytes() == b"precious"
    assert not (tmp_path / "ran").exists()
