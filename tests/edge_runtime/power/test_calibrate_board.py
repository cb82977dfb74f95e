"""A row of watts fitted to a sensor in sysfs whose board draws what its busy cores take; the file that comes of it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_machine import hwmon_tree

from edge_runtime import calibrate_board, cli
from edge_runtime.calibrate_board import Stretch, fit, spinning
from edge_runtime.power.sensor_factory import open_meter
from protos.energy.board_file import read_board, write_board
from protos.energy.boards import BOARDS, board
from protos.errors import DataError, SensorError, StoreError, UsageError

IDLE_W, CORE_W, SUPPLY_V = 2.1, 1.05, 5.0


class Board:
    """What the kernel shows of a board: its sensor, and the ticks of its cores."""

    def __init__(self, folder: Path, follows: bool = True) -> None:
        self.sensor, self.proc, self._follows = hwmon_tree(folder / "sys"), folder / "proc", follows
        self.proc.mkdir()
        self._ticks, self._cores = [0, 0], os.cpu_count() or 1
        self.work(0)

    def work(self, cores: int) -> None:
        """So many cores are busy from now on; the ticks that pass meanwhile are told at once."""
        watts = IDLE_W + (CORE_W * cores if self._follows else 0.0)
        # In place: a file of sysfs is never empty.
        with (self.sensor / "curr1_input").open("r+") as file:
            file.write(f"{round(1000 * watts / SUPPLY_V):06d}\n")
        self._busy = cores

    def tick(self) -> None:
        self._ticks[0] += 100 * self._busy
        self._ticks[1] += 100 * (self._cores - self._busy)
        (self.proc / "stat").write_text(f"cpu {self._ticks[0]} 0 0 {self._ticks[1]} 0 0 0 0\n")

    @contextlib.contextmanager
    def load(self, cores: int) -> Iterator[None]:
        self.work(cores)
        yield
        self.work(0)


def calibrated(simulated: Board, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    read = calibrate_board.busy_ticks

    def looked(proc: Path) -> tuple[int, int]:
        simulated.tick()
        return read(proc)

    monkeypatch.setattr(calibrate_board, "busy_ticks", looked)
    words = ["calibrate-board", "--sensor", f"hwmon:{simulated.sensor}?shunt=0.02", "--name", "mine", "--for", "300ms",
             "-o", str(folder / "mine.toml"), *more]  # fmt: skip
    return calibrate_board.run(cli.parser().parse_args(words), load=simulated.load, proc=simulated.proc)


def test_a_metered_run_gives_a_row_that_estimates_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrated(Board(tmp_path), tmp_path, monkeypatch, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["idle_w"] == pytest.approx(IDLE_W, abs=0.02)
    assert said["core_w"] == pytest.approx(CORE_W, abs=0.02)
    row = board(str(tmp_path / "mine.toml"))
    assert (row.name, row.cores, row.idle.kind) == ("mine", os.cpu_count(), "dc")
    assert row.power_w(1.0) == pytest.approx(IDLE_W + CORE_W, abs=0.04)
    assert "calibrate-board with hwmon" in row.core.source
    meter = open_meter(f"estimate:{tmp_path / 'mine.toml'}")
    assert (meter.identity.method, meter.identity.sensor) == ("estimated", "estimate:mine")
    # What is there is not written over.
    with pytest.raises(StoreError, match="is there already"):
        calibrated(Board(tmp_path / "again"), tmp_path, monkeypatch)


def test_a_sensor_that_does_not_see_this_board_gives_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SensorError, match="watts do not follow work"):
        calibrated(Board(tmp_path, follows=False), tmp_path, monkeypatch)
    assert not (tmp_path / "mine.toml").exists()


@pytest.mark.parametrize("spec", ["none", "estimate:pi4", "rapl"])
def test_what_does_not_measure_the_board_is_refused(spec: str, tmp_path: Path) -> None:
    words = ["calibrate-board", "--sensor", spec, "--name", "x", "-o", str(tmp_path / "x.toml")]
    with pytest.raises(UsageError, match="--sensor"):
        calibrate_board.run(cli.parser().parse_args(words))


def test_the_work_is_that_of_processes_that_are_gone_afterwards() -> None:
    def cpu_ticks(process: int) -> int:
        """Of user and system, proc(5); the name before them stands in brackets."""
        return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:13]))

    with spinning(2) as workers:
        assert len(set(workers)) == 2
        assert os.getpid() not in workers
        # Well beyond what starting an interpreter takes.
        give_up = time.monotonic() + 60.0
        while min(map(cpu_ticks, workers)) < os.sysconf("SC_CLK_TCK"):
            assert time.monotonic() < give_up
            time.sleep(0.05)
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_the_half_width_has_the_fit_and_the_sensor_in_it() -> None:
    exact = [Stretch(float(at), IDLE_W + CORE_W * at, 0.01 * (IDLE_W + CORE_W * at)) for at in range(5)]
    found = fit(exact)
    assert found.idle_half_w == pytest.approx(0.01 * IDLE_W)
    assert found.core_half_w == pytest.approx(0.01 * CORE_W)
    noisy = [Stretch(stretch.busy, stretch.power_w + 0.05 * (-1) ** at, 0.0) for at, stretch in enumerate(exact)]
    assert fit(noisy).core_half_w > 0.02  # type: ignore[operator]
    unbounded = fit([*exact[:4], Stretch(4.0, IDLE_W + CORE_W * 4, None)])
    assert (unbounded.idle_half_w, unbounded.core_half_w) == (None, None)


@pytest.mark.parametrize("name", BOARDS)
def test_every_row_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    write_board(tmp_path / "row.toml", BOARDS[name])
    assert read_board(tmp_path / "row.toml") == BOARDS[name]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("cores = 4", "cores = 0"), "0 is no int from 1 to 1024"),
        (("[idle]", "[idle_w]"), "a board has no 'idle_w'"),
        (('kind = "dc"', 'kind = "guessed"'), "no kind is called 'guessed'"),
        (("value = 2.1", "value = -2.1"), "-2.1 is no float"),
        (("[core]", "[radio]"), "[core] is missing"),
        (("name = ", "name : "), "not TOML"),
    ],
)
def test_a_file_that_is_no_row_says_where(change: tuple[str, str], why: str, tmp_path: Path) -> None:
    path = tmp_path / "row.toml"
    write_board(path, BOARDS["pi4"])
    assert change[0] in path.read_text()
    path.write_text(path.read_text().replace(*change, 1))
    with pytest.raises(DataError) as raised:
        read_board(path)
    assert why in str(raised.value)
