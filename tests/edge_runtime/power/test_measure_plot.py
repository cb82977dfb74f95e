"""The picture of a measurement, and the bounded curve behind it."""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime import cli
from edge_runtime.measure.envelope import Envelope
from protos.energy.trace import PowerTrace

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
MEASURE = [sys.executable, "-m", "edge_runtime.cli", "measure"]


@given(
    st.lists(st.tuples(st.floats(1e-4, 0.5), st.floats(0, 0.2), st.floats(0, 10)), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_a_curve_has_the_joules_and_the_extremes_of_its_samples(rows, parts):
    pauses, lengths, power = (
        np.array([row[1] for row in rows]),
        np.array([row[0] for row in rows]),
        [r[2] for r in rows],
    )
    stop = 100.0 + np.cumsum(pauses + lengths)
    trace = PowerTrace.of(stop - lengths, stop, power)
    envelope = Envelope(columns=16)
    for part in np.array_split(np.arange(len(rows)), parts):
        envelope.add(PowerTrace.of(trace.start_s[part], trace.stop_s[part], trace.power_w[part]))
    times, least, mean, largest = envelope.curve()
    assert len(times) <= 16
    assert np.nanmax(largest) == max(power)
    assert np.nanmin(least) == min(power)
    known = np.isfinite(mean)
    assert (least[known] <= mean[known] + 1e-9).all()
    assert (mean[known] <= largest[known] + 1e-9).all()
    assert float(envelope._joules.sum()) == pytest.approx(float(lengths @ power), rel=1e-6, abs=1e-9)


def test_a_curve_without_samples_is_empty_and_gaps_stay_open():
    envelope = Envelope(columns=64)
    assert [len(part) for part in envelope.curve()] == [0, 0, 0, 0]
    envelope.add(PowerTrace.of([0.0, 1.0], [0.1, 1.1], [1.0, 2.0]))
    times, _, mean, _ = envelope.curve()
    assert np.isnan(mean[(times > 0.2) & (times < 0.9)]).all()


@needs_matplotlib
def test_a_picture_is_drawn_of_a_measurement_and_of_its_recording(plug_in, tmp_path):
    bridge = plug_in(load="square:2.0,5.0,0.1")
    live, again, record = tmp_path / "live.png", tmp_path / "again.png", tmp_path / "run.ejr"
    words = ["--sensor", f"serial:{bridge.spec.link}", "--baseline", "200ms", "--record", str(record)]
    command = [*MEASURE, *words, "--plot", str(live), "--", "sh", "-c", "echo '$x_1$' $$; sleep 0.3"]
    for arguments in (command, [*MEASURE, "--sensor", f"replay:{record}", "--plot", str(again)]):
        ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr == ""
    for path in (live, again):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", data[16:24]) == (1200, 600)


@needs_matplotlib
def test_the_picture_has_a_line_in_the_colour_of_the_curve_and_bands(plug_in, tmp_path):
    """Looked at as pixels: a curve, a coloured band for what was measured, a grey one for rest, a light ground."""
    from matplotlib.image import imread

    bridge = plug_in()
    path = tmp_path / "p.png"
    words = ["--sensor", f"serial:{bridge.spec.link}", "--baseline", "200ms", "--for", "400ms", "--plot", str(path)]
    subprocess.run([*MEASURE, *words], capture_output=True, timeout=60, check=True)
    pixels = (imread(path)[..., :3] * 255).round().astype(int)

    def share(colour: tuple[int, int, int], within: int = 3) -> float:
        return float((np.abs(pixels - np.array(colour)).max(axis=-1) <= within).mean())

    assert share((0x1F, 0x5F, 0xA8), 12) > 0.001
    assert 0.2 < share((0xFD, 0xF1, 0xD8)) < 0.6
    assert 0.2 < share((0xE9, 0xE9, 0xE9)) < 0.6
    assert share((255, 255, 255)) > 0.1


def test_without_matplotlib_the_error_comes_before_the_measurement_and_names_the_extra(monkeypatch, capsys, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    assert cli.main(["measure", "--sensor", "serial:none", "--for", "1s", "--plot", str(tmp_path / "p.png")]) == 2
    assert "pip install 'edgejoule[plot]'" in capsys.readouterr().err


def test_a_picture_that_has_no_folder_is_refused_at_once(capsys, tmp_path):
    assert cli.main(["measure", "--for", "1s", "--plot", str(tmp_path / "no" / "p.png")]) == 2
    assert "existing folder" in capsys.readouterr().err


def test_nothing_but_the_plot_imports_matplotlib():
    code = "import sys, edge_runtime.cli as c; c.main(['measure', '--for', '20ms']); print('matplotlib' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.splitlines()[-1] == "False"
