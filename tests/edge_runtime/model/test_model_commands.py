"""`edge-runtime predict` and `edge-runtime bench`, as a user runs them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_rig import at_work, trained
from peer_coordinator import PeerCoordinator
from PIL import Image
from running_daemon import RunningDaemon
from striped_data import write_data

from edge_runtime.api import Meter
from edge_runtime.cli import main
from edge_runtime.health.condition import Condition
from edge_runtime.health.throttling import Bits, Throttling
from edge_runtime.model.bench import bench
from protos.errors import DataError
from protos.model.bundle import Bundle
from protos.update import trees

Start = Callable[..., RunningDaemon]


@pytest.fixture
def state(tmp_path: Path, bundle: Bundle) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    at_work(folder, bundle, trained(bundle, tmp_path))
    return folder


def stripes(path: Path, row: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((64, 64), np.uint8)
    pixels[8 * row : 8 * row + 8] = 190
    Image.fromarray(pixels).save(path)
    return path


def rows_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_images_folders_files_and_stdin_are_predicted(
    state: Path, tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = bundle.manifest.classes
    one = stripes(tmp_path / "photos" / "a.png", 3)
    stripes(tmp_path / "photos" / "deeper" / "b.png", 5)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    where = ["--state", str(state)]
    assert main(["predict", str(one), *where]) == 0
    assert capsys.readouterr().out.startswith(f"{one}: {names[1]} ")
    assert main(["predict", str(tmp_path / "photos"), "--json", "--top", "3", *where]) == 0
    first, second = rows_of(capsys.readouterr().out)
    assert (first["schema"], first["source"]) == ("edgejoule.prediction/1", str(one))
    assert first["version"] == trees.version(trained(bundle, tmp_path))
    assert [len(row["top"]) for row in (first, second)] == [3, 3]
    assert second["top"][0]["class"] == names[2]
    data = write_data(tmp_path / "more.npz", 9)
    assert main(["predict", str(data), "--json", *where]) == 0
    assert [row["top"][0]["class"] for row in rows_of(capsys.readouterr().out)] == [names[i % 3] for i in range(9)]
    with np.load(data) as held:
        np.savez(tmp_path / "bare.npz", x=held["x"][:2])
    assert main(["predict", str(tmp_path / "bare.npz"), *where]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(one.read_bytes())))
    assert main(["predict", "-", *where]) == 0
    assert capsys.readouterr().out.startswith(f"-: {names[1]} ")


def test_one_bad_file_of_a_folder_is_said_and_the_others_are_predicted(
    state: Path, tmp_path: Path, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    names, photos = bundle.manifest.classes, tmp_path / "photos"
    for name, row in (("a.png", 3), ("c.png", 5)):
        stripes(photos / name, row)
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / "empty.jpg").touch()
    assert main(["predict", str(photos), "--json", "--state", str(state)]) == DataError.exit_code
    told = capsys.readouterr()
    assert [row["top"][0]["class"] for row in rows_of(told.out)] == [names[1], names[2]]
    for name in ("b.png", "empty.jpg"):
        assert f"{photos / name}: cannot be read as an image" in told.err
    assert f"{photos}: 2 of 4 could not be predicted" in told.err
    # Also where a folder and files are named one by one.
    assert main(["predict", str(tmp_path / "gone.png"), str(photos / "c.png"), "--state", str(state)]) != 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{photos / 'c.png'}: {names[2]} ")
    assert "no such file or folder" in told.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["missing.png"], "no such file or folder"),
        (["empty"], "holds nothing to predict"),
        (["text.png"], "text.png: cannot be read as an image"),
        (["other.npz"], "has no `x`"),
        (["a.png", "--top", "0"], "0 classes cannot be shown"),
    ],
)
def test_what_cannot_be_predicted_is_said_in_one_line(
    words: list[str],
    said: str,
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    assert main(["predict", *words, "--state", str(state)]) != 0
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) <= 2


def test_without_a_model_the_way_on_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["predict", "x.png"], ["bench", "--seconds", "1"]):
        assert main([*command, "--state", str(tmp_path)]) != 0
        assert "no model is at work here yet" in capsys.readouterr().err


def test_joules_of_a_prediction_come_from_the_sensor_or_from_the_daemon_that_has_it(
    state: Path,
    tmp_path: Path,
    peer: PeerCoordinator,
    started: Start,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = stripes(tmp_path / "a.png", 1)
    monkeypatch.setenv("EDGEJOULE_SENSOR", "estimate:pi4")
    asked = ["predict", str(one), "--energy", "--json", "--state", str(state)]
    assert main(asked) == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["energy"]["method"] == "estimated"
    assert row["energy"]["energy_j"] > 0
    running = started(peer, state=state)
    peer.until(lambda: bool(peer.holdings))
    # Were the daemon not asked, this sensor would be.
    monkeypatch.setenv("EDGEJOULE_SENSOR", "serial:/dev/nothing-there")
    assert main(asked) == 0
    (row,) = rows_of(capsys.readouterr().out)
    assert row["energy"]["energy_j"] > 0
    running.stop()


def test_a_bench_of_the_real_model(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--seconds", "0.6", "--sensor", "estimate:pi4", "--json", "--state", str(state)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "edgejoule.bench/1"
    assert found["predictions"] > 10
    assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["method"] == "estimated"
    assert found["energy_j"] is not None
    assert main(["bench", "--seconds", "0.3", "--sensor", "none", "--state", str(state)]) == 0
    assert "joules each    ?, beyond the board at rest; unknown" in capsys.readouterr().out


def test_idle_is_subtracted_and_a_slow_board_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    cpu = [0.0]
    monkeypatch.setattr("edge_runtime.power.clock.SystemClock.monotonic", lambda self: clock[0])
    monkeypatch.setattr("edge_runtime.power.clock.SystemClock.process_time", lambda self: cpu[0])

    def predict() -> None:
        clock[0] += 0.01
        cpu[0] += 0.01

    def rest(seconds: float) -> None:
        clock[0] += seconds

    seen = iter([Condition(50.0), Condition(61.0), Condition(62.0, throttling=Throttling(Bits.THROTTLED))])
    last = Condition(58.0)
    with Meter("estimate:pi4") as meter:
        found = bench(predict, meter, lambda: next(seen, last), 2.0, now_s=lambda: clock[0], rest=rest)
        told = found.as_dict("head-1")
    # The model's own watts: one busy core, beyond the board at rest, for 10 ms.
    from protos.energy.boards import board

    busy_w = board("pi4").power_w(1.0) - board("pi4").power_w(0.0)
    assert told["predictions"] == 200
    assert told["p50_ms"] == pytest.approx(10.0)
    assert told["energy_j"] == pytest.approx(busy_w * 0.01, rel=0.01)
    assert told["gross_j"] == pytest.approx(board("pi4").power_w(1.0) * 0.01, rel=0.01)
    low, high = told["interval_j"]
    assert low < told["energy_j"] < high
    assert (told["throttled"], told["flags"]) == (True, [])
    assert told["temperature_c"] == {"before": 50.0, "after": 58.0, "highest": 62.0}
