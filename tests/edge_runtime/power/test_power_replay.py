"""Recordings in the MLPerf Tiny format: golden figures, synthetic ones, and files that are not what they say."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from reference_data import part_of

from edge_runtime import cli
from edge_runtime.measure.instruments.energy_runner import Window, integrate_trace, read_windows
from protos.errors import DataError

RUNS = ("pynq_z2_ic_cnv", "pynq_z2_kws", "stm32l4r5_ad", "stm32l4r5_ic", "stm32l4r5_kws", "stm32u575_ic")


@pytest.fixture(scope="session")
def runs(reference: Path) -> Path:
    return part_of(reference, "power_traces", "mlperf_tiny_1khz")


def write_trace(path: Path, microjoules, rate_hz: float = 1000.0) -> Path:
    path.write_bytes(struct.pack("<Bf", 0xF1, rate_hz) + np.asarray(microjoules, "<f4").tobytes())
    return path


@pytest.mark.reference_data
@pytest.mark.parametrize("run", RUNS)
def test_the_windows_of_a_submission_have_the_joules_that_its_submitter_published(run, runs, tmp_path, capsys):
    folder, out = runs / run, tmp_path / "out.json"
    arguments = ["measure", "--sensor", f"replay:{folder}/trace1-energy.bin", "--format", "mlperf-tiny"]
    assert cli.main([*arguments, "--windows", f"{folder}/trace1-timestamps.json", "--json", str(out)]) == 0
    assert capsys.readouterr().out
    document = json.loads(out.read_text())
    text = (folder / "results.txt").read_text()
    published = re.findall(r"data for window (\d+) .*\n.*Energy\s*:\s*([\d.]+) uJ\n.*Power\s*:\s*([\d.]+) uW", text)
    assert len(published) == 5
    windows = {row["number"]: row for row in document["windows"]}
    for number, microjoules, microwatts in published:
        assert windows[int(number)]["energy_j"] == pytest.approx(float(microjoules) * 1e-6, rel=1.5e-4)
        assert windows[int(number)]["mean_w"] == pytest.approx(float(microwatts) * 1e-6, rel=1.5e-4)
    size = (folder / "trace1-energy.bin").stat().st_size
    assert document["rate_hz"] == 1000.0
    assert document["duration_s"] == (size - 5) / 4 / 1000.0
    samples = np.frombuffer((folder / "trace1-energy.bin").read_bytes()[5:], "<f4")
    assert document["total_j"] == pytest.approx(float(samples.astype(np.float64).sum()) * 1e-6, rel=1e-12)


def test_joules_per_inference_come_from_counts_in_the_windows_file(tmp_path):
    trace = write_trace(tmp_path / "t.bin", [2000.0] * 1000)
    (tmp_path / "w.json").write_text('{"windows": [{"start_s": 0.1, "stop_s": 0.6, "inferences": 50}]}')
    (row,) = integrate_trace(trace, read_windows(tmp_path / "w.json")).windows
    assert row.energy_j == pytest.approx(1.0)
    assert row.mean_w == pytest.approx(2.0)
    assert row.per_inference_j == pytest.approx(0.02)


def test_an_edge_inside_a_sample_divides_it_at_constant_power(tmp_path):
    trace = write_trace(tmp_path / "t.bin", [1e6, 3e6], rate_hz=1.0)
    replay = integrate_trace(trace, [Window(1, 0.25, 1.5), Window(2, 0.0, 2.0)])
    assert [row.energy_j for row in replay.windows] == [0.75 + 1.5, 4.0]
    assert (replay.total_j, replay.duration_s, replay.peak_w) == (4.0, 2.0, 3.0)


def test_windows_side_by_side_add_up_to_the_whole_over_many_blocks(tmp_path):
    rng = np.random.default_rng(7)
    trace = write_trace(tmp_path / "t.bin", rng.uniform(0, 5000, 200_000))
    stamps = np.sort(rng.uniform(0, 200, 400))
    stamps[0], stamps[-1] = 0.0, 200.0
    (tmp_path / "w.json").write_text(json.dumps(stamps.tolist()))
    replay = integrate_trace(trace, read_windows(tmp_path / "w.json"))
    parts = [row.energy_j if row.energy_j is not None else np.nan for row in replay.windows]
    assert sum(parts) == pytest.approx(replay.total_j, rel=1e-12)


def test_a_window_that_the_recording_does_not_cover_has_no_figure(tmp_path):
    trace = write_trace(tmp_path / "t.bin", [1000.0] * 1000)
    rows = integrate_trace(trace, [Window(1, 0.5, 1.02), Window(2, 0.5, 2.0), Window(3, 5.0, 6.0)]).windows
    assert rows[0].energy_j == pytest.approx(0.5)
    assert rows[0].flags == ("degraded",)
    assert [(row.energy_j, row.mean_w) for row in rows[1:]] == [(None, None), (None, None)]
    assert rows[2].coverage == 0.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no MLPerf Tiny"),
        (b"\xf1\0\0", "no MLPerf Tiny"),
        (b"\x00" * 64, "no MLPerf Tiny"),
        (struct.pack("<Bf", 0xF1, 1000.0), "no sample"),
        (struct.pack("<Bff", 0xF1, 1000.0, 1.0) + b"\0\0", "before the end of a sample"),
        (struct.pack("<Bff", 0xF1, 0.0, 1.0), "samples a second"),
        (struct.pack("<Bff", 0xF1, -5.0, 1.0), "samples a second"),
        (struct.pack("<Bff", 0xF1, float("nan"), 1.0), "samples a second"),
        (struct.pack("<Bff", 0xF1, float("inf"), 1.0), "samples a second"),
        (struct.pack("<Bfff", 0xF1, 1000.0, 1.0, float("nan")), "sample 1 is no number"),
        (struct.pack("<Bff", 0xF1, 1000.0, float("inf")), "sample 0 is no number"),
    ],
)
def test_a_file_that_is_no_whole_trace_is_refused_in_one_line(content, said, tmp_path, capsys):
    path = tmp_path / "t.bin"
    path.write_bytes(content)
    out = tmp_path / "out.json"
    code = cli.main(["measure", "--sensor", f"replay:{path}", "--format", "mlperf-tiny", "--json", str(out)])
    assert code == DataError.exit_code
    seen = capsys.readouterr()
    assert said in seen.err
    assert seen.err.count("\n") == 1
    assert not seen.out
    assert not out.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "[1]",
        "[2, 1]",
        "[1, 1]",
        "[0, NaN]",
        "[-1, 2]",
        '["0", "1"]',
        "[0, true]",
        "[0, 1e999]",
        '{"windows": 3}',
        '{"windows": [4]}',
        '{"windows": [{"start_s": 0}]}',
        '{"windows": [{"start_s": 0, "stop_s": 1, "inferences": 0}]}',
        "[" * 100_000,
    ],
)
def test_windows_that_are_none_are_refused(text, tmp_path):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(DataError):
        read_windows(tmp_path / "w.json")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            integrate_trace(path)
        with pytest.raises(DataError, match="cannot be read"):
            read_windows(path)


@pytest.mark.parametrize(
    "options",
    [
        ["--sensor", "replay:t.bin", "--format", "wav"],
        ["--sensor", "replay:t.bin", "--windows", "w.json"],
        ["--sensor", "replay:t.bin", "--volts", "5"],
        ["--sensor", "replay:t.csv", "--format", "csv", "--volts", "0"],
        ["--sensor", "replay:t.csv", "--format", "csv", "--volts", "nan"],
        ["--sensor", "replay:t.bin", "--record", "r.ejr"],
        ["--sensor", "replay:t.bin", "--baseline", "1s"],
        ["--sensor", "replay:t.bin", "--format", "mlperf-tiny", "--volts", "5"],
        ["--sensor", "replay:t.bin", "--format", "mlperf-tiny", "--for", "1s"],
        ["--sensor", "replay:t.bin", "--format", "mlperf-tiny", "--", "true"],
        ["--sensor", "none", "--format", "mlperf-tiny", "--for", "1s"],
        ["--sensor", "none", "--windows", "w.json", "--for", "1s"],
    ],
)
def test_options_that_do_not_go_together_are_a_mistake_of_usage(options, capsys):
    assert cli.main(["measure", *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
