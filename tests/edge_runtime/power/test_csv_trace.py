"""Tables of other instruments: their headers and units, gaps, windows, and files that are not what they say."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import cli
from edge_runtime.measure.instruments import csv_trace
from edge_runtime.measure.instruments.csv_trace import integrate_csv
from edge_runtime.measure.instruments.energy_runner import Window
from protos.errors import DataError


def table(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "supply_v"),
    [
        ("time_s,power_w\n0,2\n1,4\n2,6\n", None),
        ("time_s,volts,amps\n0,2,1\n1,2,2\n2,2,3\n", None),
        ("Timestamp(ms),Current(uA),D0-D7\n0,400000,01\n1000,800000,00\n2000,1200000,00\n", 5.0),
        ('"Timestamp [s]","Main current [A]","Main voltage [V]"\n0,0.5,4\n1,1,4\n2,1.5,4\n', None),
        ("﻿Zeit;ms\nTime (us);Power (mW)\n0;2000\n1000000;4000\n2000000;6000\n", None),
        ("# from a bench\n\ntime\tcurrent [mA]\tvoltage [V]\tpower [W]\n0\t1\t1\t2\n1\t1\t1\t4\n2\t1\t1\t6\n\n", None),
        ("start_s,stop_s,power_w,flags,period\n0,1,2,,\n1,2,4,clipped,x\n2,3,6,,\n", None),
    ],
)
def test_headers_of_many_instruments_give_the_same_joules(text, supply_v, tmp_path):
    replay = integrate_csv(table(tmp_path / "t.csv", text), [Window(1, 0.5, 2.5)], supply_v=supply_v)
    assert replay.total_j == pytest.approx(12.0)
    assert replay.duration_s == pytest.approx(3.0)
    assert replay.peak_w == pytest.approx(6.0)
    assert replay.samples == 3
    assert replay.windows[0].energy_j == pytest.approx(1.0 + 4.0 + 3.0)


def test_nothing_is_interpolated_into_a_gap(tmp_path):
    rows = "".join(f"{t},1\n" for t in [0, 1, 2, 3, 20, 21, 22])
    replay = integrate_csv(table(tmp_path / "t.csv", "time_s,power_w\n" + rows), [Window(1, 0, 4), Window(2, 0, 20)])
    assert replay.total_j == pytest.approx(3 + 3 + 3)
    assert replay.windows[0].energy_j == pytest.approx(4.0)
    assert (replay.windows[1].energy_j, replay.windows[1].coverage) == (None, pytest.approx(0.3))


@given(
    st.lists(st.tuples(st.floats(1e-3, 2), st.floats(-5, 50)), min_size=2, max_size=60),
    st.lists(st.floats(0, 100), min_size=2, max_size=6, unique=True),
    st.integers(1, 9),
)
def test_windows_side_by_side_add_up_however_the_table_is_cut_into_blocks(tmp_path_factory, rows, stamps, lines):
    start = np.cumsum([row[0] for row in rows]) - rows[0][0]
    stop = np.append(start[1:], start[-1] + 1)
    text = "start_s,stop_s,power_w\n"
    text += "".join(
        f"{a!r},{b!r},{w!r}\n" for a, b, w in zip(start.tolist(), stop.tolist(), (r[1] for r in rows), strict=True)
    )
    path = table(tmp_path_factory.mktemp("csv") / "t.csv", text)
    stamps = sorted({*stamps, float(stop[-1]), 0.0})
    windows = [Window(n, a, b) for n, (a, b) in enumerate(itertools.pairwise(stamps), 1)]
    usual = csv_trace._BLOCK_LINES
    try:
        csv_trace._BLOCK_LINES = lines
        replay = integrate_csv(path, windows)
    finally:
        csv_trace._BLOCK_LINES = usual
    assert replay.total_j == pytest.approx(float((stop - start) @ [row[1] for row in rows]), rel=1e-9, abs=1e-9)
    inside = [row for row in replay.windows if row.window.stop_s <= stop[-1]]
    assert sum(row.energy_j or 0.0 for row in inside) == pytest.approx(replay.total_j, rel=1e-9, abs=1e-8)


def test_overlapping_samples_count_once(tmp_path):
    text = "start_s,stop_s,power_w\n0,2,1\n1,3,5\n1.5,1.8,9\n3,4,1\n"
    replay = integrate_csv(table(tmp_path / "t.csv", text))
    assert replay.total_j == pytest.approx(2 + 5 + 0 + 1)
    assert replay.duration_s == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line that names its columns"),
        ("1,2\n3,4\n", "no line that names its columns"),
        ("a,b\n1,2\n", "no line that names its columns"),
        ("volts,amps\n1,2\n", "no column of time"),
        ("time_s,volts\n1,2\n", "none of power or current"),
        ("time_s,amps\n1,2\n", "no voltage"),
        ("time_s,power_w\n", "fewer than two samples"),
        ("time_s,power_w\n1,2\n", "fewer than two samples"),
        ("time_s,power_w\n1,2\n1,2\n", "fewer than two samples"),
        ("time_s,power_w\n1,2\n2,x\n", "line 3, column 2: 'x' is no number"),
        ("time_s,power_w\n1,2\n2\n", "line 3, column 2: '' is no number"),
        ("time_s,power_w\n1,2\n2,nan\n", "line 3, column 2: 'nan' is no number"),
        ("time_s,power_w\n1,2\n2,1e999\n", "line 3"),
        ("time_s,power_w\n1,2\n\n0.5,2\n", "goes back in time at 0.5 s"),
        ("start_s,stop_s,power_w\n1,2,3\n0,1,3\n", "goes back in time"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_line(text, said, tmp_path, capsys):
    path = table(tmp_path / "t.csv", text)
    assert cli.main(["measure", "--sensor", f"replay:{path}", "--format", "csv"]) == DataError.exit_code
    seen = capsys.readouterr()
    assert said in seen.err
    assert seen.err.count("\n") == 1
    assert seen.out == ""


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_integrated(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes(b"time_s,power_w\n" + data)
    try:
        integrate_csv(path)
    except DataError:
        return


def test_the_command_integrates_a_table_with_windows_and_volts(tmp_path, capsys):
    path = table(tmp_path / "t.csv", "Timestamp(ms),Current(uA)\n" + "".join(f"{t},1000\n" for t in range(1000)))
    windows = table(tmp_path / "w.json", '{"windows": [{"start_s": 0.1, "stop_s": 0.3, "inferences": 10}]}')
    words = ["measure", "--sensor", f"replay:{path}", "--format", "csv", "--volts", "3.3", "--windows", str(windows)]
    assert cli.main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["format"] == "csv"
    assert figures["total_j"] == pytest.approx(3.3e-3)
    assert figures["windows"][0]["energy_j"] == pytest.approx(0.2 * 3.3e-3)
    assert figures["windows"][0]["per_inference_j"] == pytest.approx(0.02 * 3.3e-3)
    assert figures["uncertainty_j"] is None


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        integrate_csv(tmp_path / "none.csv")
