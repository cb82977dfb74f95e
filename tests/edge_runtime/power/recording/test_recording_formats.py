"""Recordings in the formats of other instruments keep their joules, say what is missing, and are read by the real
programs where these are installed."""

from __future__ import annotations

import contextlib
import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import cli
from edge_runtime.measure.measure_opening import opened
from edge_runtime.power.recording.export import Row, rows
from edge_runtime.power.recording.formats import grid, ppk2
from edge_runtime.power.recording.reader import Recording
from protos import extras


def sample(start_s: float, stop_s: float, power_w: float) -> Row:
    return Row(start_s, stop_s, power_w, (), "")


@pytest.fixture
def recorded(plug_in, tmp_path):
    """A recording of a real terminal, and the joules that it has from its beginning on."""
    bridge = plug_in(load="square:2.0,5.0,0.1", profile="transient")
    path = tmp_path / "run.ejr"
    with opened(f"serial:{bridge.spec.link}", record=path) as meter:
        meter.begin("one")
        time.sleep(0.2)
        meter.end()
    return path, sum((row.stop_s - max(0.0, row.start_s)) * row.power_w for row in rows(path) if row.stop_s > 0)


def test_a_grid_keeps_energy_and_has_nothing_where_nothing_was_measured() -> None:
    table = [sample(-0.5, 0.25, 4.0), sample(0.25, 1.0, 8.0), sample(2.0, 3.4, 1.0), sample(3.4, 3.5, 6.0)]
    made = np.concatenate(list(grid.cells(table, 1)))
    # 0.25 s of 4 W and 0.75 s of 8 W; a gap; whole; 0.4 s of 1 W and 0.1 s of 6 W in half a covered second.
    np.testing.assert_allclose(made, [7.0, np.nan, 1.0, 2.0])


@pytest.mark.parametrize("rate_hz", [50, 997, 100_000])
def test_a_long_table_on_a_grid_comes_in_pieces_without_a_hole(rate_hz: int) -> None:
    draw = np.random.default_rng(3)
    edges = np.cumsum(draw.uniform(0.002, 0.3, 400))
    table = [sample(a, b, p) for a, b, p in zip(edges[:-1], edges[1:], draw.uniform(1, 9, 399), strict=True)]
    pieces = list(grid.cells(iter(table), rate_hz))
    assert all(len(piece) <= grid.CELLS for piece in pieces)
    made = np.concatenate(pieces)
    assert len(made) == int(np.ceil(edges[-1] * rate_hz))
    inner = made[int(np.ceil(edges[0] * rate_hz)) : -1]
    assert not np.isnan(inner).any()
    joules = sum((row.stop_s - row.start_s) * row.power_w for row in table)
    assert inner.sum() / rate_hz == pytest.approx(joules, abs=2 * 9 / rate_hz)


def test_a_ppk2_session_has_the_apps_members_and_the_joules_at_the_voltage(recorded, tmp_path: Path, capsys) -> None:
    path, joules = recorded
    out = tmp_path / "run.ppk2"
    command = ["recording", "export", str(path), "--ppk2", "-o", str(out)]
    assert cli.main([*command, "--volts", "5", "--rate", "10000"]) == 0
    with zipfile.ZipFile(out) as archive:
        assert set(archive.namelist()) == {"session.raw", "metadata.json", "minimap.raw"}
        raw = np.frombuffer(archive.read("session.raw"), np.dtype([("ua", "<f4"), ("bits", "<u2")]))
        about, small = json.loads(archive.read("metadata.json")), json.loads(archive.read("minimap.raw"))
    assert about["formatVersion"] == 2
    assert about["metadata"]["samplesPerSecond"] == 10_000
    assert about["metadata"]["startSystemTime"] == pytest.approx(time.time() * 1000, abs=600_000)
    assert set(raw["bits"].tolist()) == {0x5555}
    # Half a cell at each end may be lost.
    assert raw["ua"].astype(float).sum() / 1e4 * 1e-6 * 5 == pytest.approx(joules, abs=2 * 5.0 / 1e4)
    assert small["data"]["length"] == len(small["data"]["min"]) <= 10_000
    assert max(row["y"] for row in small["data"]["max"]) == pytest.approx(raw["ua"].max() * 1000)
    assert cli.main(command) == 2
    assert "add --volts V" in capsys.readouterr().err


def test_a_session_without_gaps_tells_how_many_samples_stand_for_one() -> None:
    made = io.BytesIO()
    found = ppk2.write(
        made, [sample(0, 1, 5.0), sample(3, 4, 5.0)], rate_hz=10, volts=5.0, begun_utc="2026-01-05T06:00:00+00:00"
    )
    assert found == (40, 20)
    with zipfile.ZipFile(made) as archive:
        assert json.loads(archive.read("metadata.json"))["metadata"]["startSystemTime"] == 1_767_592_800_000


def test_the_small_map_of_a_long_session_stays_small_and_keeps_peaks() -> None:
    made = io.BytesIO()
    table = [sample(0, 5, 1.0), sample(5, 5.01, 50.0), sample(5.01, 9, 1.0)]
    ppk2.write(made, table, rate_hz=5000, volts=5.0, begun_utc="2026-01-05T06:00:00+00:00")
    with zipfile.ZipFile(made) as archive:
        small = json.loads(archive.read("minimap.raw"))
    assert small["data"]["length"] < 10_000
    assert small["numberOfTimesToFold"] == 8
    assert max(row["y"] for row in small["data"]["max"]) == pytest.approx(10e9)
    # In the middle of the eight samples of 200 us that each stands for.
    assert [row["x"] for row in small["data"]["min"][:2]] == [3.5 * 200, 11.5 * 200]


def test_oml_is_read_by_the_programs_of_iot_lab(recorded, tmp_path: Path) -> None:
    path, _ = recorded
    out = tmp_path / "run.oml"
    assert cli.main(["recording", "export", str(path), "--oml", "-o", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[8] == ""
    assert lines[6].endswith("timestamp_s:uint32 timestamp_us:uint32 power:double voltage:double current:double")
    consum = pytest.importorskip("oml_plot_tools.consum", reason="needs oml-plot-tools, of no extra")
    found = consum.oml_load(str(out))
    table = list(rows(path))
    np.testing.assert_allclose(found["power"], [row.power_w for row in table], rtol=1e-8)
    np.testing.assert_allclose(np.diff(found["timestamp"]), np.diff([row.start_s for row in table]), atol=2e-6)
    assert np.isnan(found["voltage"]).all()


def test_jls_is_read_by_its_own_library_with_the_joules_and_the_time(recorded, tmp_path: Path) -> None:
    pyjls = pytest.importorskip("pyjls", reason="needs pyjls: the extra jls")
    path, joules = recorded
    out = tmp_path / "run.jls"
    assert cli.main(["recording", "export", str(path), "--jls", "--rate", "5000", "-o", str(out)]) == 0
    with contextlib.closing(pyjls.Reader(str(out))) as reader:
        signal = reader.signal_lookup("power")
        assert (signal.units, signal.sample_rate) == ("W", 5000)
        watts = reader.fsr(signal.signal_id, 0, signal.length)
        utc = pyjls.jls_to_utc(reader.sample_id_to_timestamp(signal.signal_id, 0))
    assert float(np.nansum(watts.astype(float))) / 5000 == pytest.approx(joules, abs=2 * 5.0 / 5000)
    header = Recording(path).header
    assert np.datetime64(header.begun_utc.replace("+00:00", "")).astype("datetime64[ms]").astype(int) / 1e3 == (
        pytest.approx(utc, abs=0.002)
    )
    assert [each_path.name for each_path in tmp_path.glob(".*.part")] == []


def test_without_its_library_jls_names_the_extra(recorded, tmp_path: Path, capsys, monkeypatch) -> None:
    path, _ = recorded
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["recording", "export", str(path), "--jls", "-o", str(tmp_path / "run.jls")]) == 2
    assert "pyjls is not installed" in (said := capsys.readouterr().err)
    assert "edgejoule[jls]" in said


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--csv", "--volts", "5"], "--volts is of .ppk2 alone"),
        (["--oml", "--rate", "50", "-o", "x"], "--rate is of .ppk2 and JLS alone"),
        (["--oml"], "is no text for a terminal; give -o FILE"),
        (["--ppk2", "--volts", "5", "--rate", "0", "-o", "x"], "0 is no rate"),
    ],
)
def test_options_that_mean_nothing_are_refused(recorded, options: list[str], what: str, capsys) -> None:
    assert cli.main(["recording", "export", str(recorded[0]), *options]) == 2
    assert what in capsys.readouterr().err
