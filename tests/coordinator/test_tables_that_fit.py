"""Tables on terminals of 80 and 120 columns: no figure and no name is cut, and the newest rounds stay in sight."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.lab.live import layout, screen
from coordinator.operator import tables
from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceRound, RoundStatus, RunStatus
from coordinator.operator.tables import ago, blocks, lines, when, width_of
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import MeterCard, StopReason

WIDTHS = (80, 120)
ROOT = Path(__file__).resolve().parents[2]


def on_terminal(columns: int, height: int, *command: str | Path) -> str:
    """What a program shows on a terminal of this size."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", height, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdin=its, stdout=its, stderr=its,
        env={**environment, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
    )  # fmt: skip
    os.close(its)
    said = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        assert ready, said
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert child.wait() == 0, said
    return said.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def cells_of(name: str) -> list[str]:
    return [f"{name}-{index}-{'x' * index}" for index in range(8)]


@pytest.mark.parametrize("columns", [*WIDTHS, 40, 20])
def test_every_cell_is_whole_and_every_block_begins_with_the_first_column(columns: int) -> None:
    header = [f"head {index}" for index in range(8)]
    rows = [cells_of("pi-garage-north"), cells_of("pi-garage-south")]
    shown = blocks(header, rows, columns)
    text = [line for block in shown for line in lines(*block)]
    for row in rows:
        for cell in row:
            assert any(re.search(rf"(^|  ){re.escape(cell)}(  |$)", line) for line in text), cell
    for block_header, block_rows, _ in shown:
        assert block_header[0] == "head 0"
        assert [row[0] for row in block_rows] == [row[0] for row in rows]
    if columns >= 80:
        assert max(map(width_of, text)) <= columns


@pytest.mark.parametrize("columns", WIDTHS)
def test_lines_that_are_said_together_stay_lines_and_keep_what_they_are_set_in_by(columns: int) -> None:
    text = "weights    0.000 from the plan\n           0.286 from examples " + "word " * 30
    shown = on_terminal(columns, 24, "-c", f"from coordinator.operator.tables import say; say({text!r})").splitlines()
    assert shown[0] == "weights    0.000 from the plan"
    assert all(line.startswith(" " * 11) and line[11] != " " and len(line) <= columns for line in shown[1:])
    assert " ".join(shown[1:]).split() == text.partition("\n")[2].split()


def test_words_in_a_last_column_are_wrapped_and_names_in_it_are_not() -> None:
    reason = "waits for the devices pi-garage-north-of-the-house and pi-garage-south-of-the-house, which were not heard"
    ((header, rows, widths),) = blocks(["run", "state", "reason"], [["run-1", "waiting", reason]], 60)
    shown = lines(header, rows, widths)
    assert max(map(width_of, shown)) <= 60
    assert " ".join(" ".join(shown[1:]).split()) == f"run-1 waiting {reason}"
    assert any("pi-garage-north-of-the-house" in line for line in shown)


def test_a_figure_and_its_deviation_stay_together_and_an_empty_column_takes_no_room() -> None:
    price = "0.000473 ± 0.000731"
    shown = blocks(["device", "J a step", "reason"], [["pi-" + "x" * 30, price, ""]], 60)
    assert [block[0] for block in shown] == [["device", "J a step"]]
    for columns in range(20, 70):
        made = [
            line for block in blocks(["device", "J a step"], [["x" * 30, price]], columns) for line in lines(*block)
        ]
        assert any(line.endswith(price) for line in made)


def test_in_a_pipe_a_table_is_one_however_wide() -> None:
    assert len(blocks(["a"] * 30, [["x" * 20] * 30], None)) == 1


def test_what_a_pipe_leads_to_has_the_width_that_columns_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    header, rows = cells_of("head"), [cells_of("row")]
    tables.show(header, rows)
    whole = capsys.readouterr().out.splitlines()
    assert len(whole) == 2
    monkeypatch.setenv("COLUMNS", "60")
    tables.show(header, rows)
    stacked = capsys.readouterr().out
    assert max(map(len, stacked.splitlines())) <= 60
    assert {*stacked.split()} == {*header, *rows[0]}
    assert "\x1b" not in stacked, "colours are for terminals"
    monkeypatch.setenv("COLUMNS", "")
    tables.show(header, rows)
    assert capsys.readouterr().out.splitlines() == whole


def test_wide_letters_take_two_columns() -> None:
    block = blocks(["device", "J"], [["猫の家", "1"], ["pi", "2"]], 80)[0]
    assert [width_of(line) for line in lines(*block)] == [9, 9, 9]


def test_ages_are_said_as_people_do_and_become_dates() -> None:
    now = 1_800_000_000.0
    said = [ago(now - age, now) for age in (-5, 0, 99, 100, 3599, 3600, 86_399)]
    assert said == ["0 s ago", "0 s ago", "99 s ago", "2 min ago", "60 min ago", "1 h ago", "24 h ago"]
    assert ago(now - 86_400, now) == when(now - 86_400)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", when(now))


@pytest.mark.parametrize("columns", WIDTHS)
def test_devices_and_runs_are_whole_on_a_terminal(
    columns: int, address: str, plain_bundle: Path, fleet: Callable[..., Any], tools: Any, tmp_path: Path
) -> None:
    names = ["pi-garage-north-window", "pi-garage-south-window"]
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2), tmp_path)
        devices = [
            fleet(address, name, board="raspberry pi 4 model b", meter=MeterCard("measured", f"ina219:usb-{name}#0"))
            for name in names
        ]
        for device in devices:
            device.join()
        for device in devices:
            device.send(device.answer(device.order(), 1.0))
        tools.finished(operator, run_id)
        budgets = operator.budgets(run_id)
    command = ["-m", "coordinator.cli"]
    for words, wanted in (
        (["devices"], [*names, *(f"ina219:usb-{name}#0" for name in names), "raspberry pi 4 model b", "spent J"]),
        (["status", run_id], [run_id, *names, "embed J", "0.5", "bytes down"]),
        (["status"], [run_id, "finished"]),
        (["budgets", run_id], [*names, *(f"{budget.spent_j:.3g}" for budget in budgets), "J a kB up", "uncertain J"]),
    ):
        shown = plain(on_terminal(columns, 24, *command, *words, "--coordinator", address))
        assert max(map(width_of, shown.splitlines())) <= columns, shown
        for cell in wanted:
            assert cell in shown, (cell, shown)
        assert "…" not in shown


@pytest.mark.parametrize("columns", WIDTHS)
def test_certificates_and_places_with_long_names_are_whole_on_a_terminal(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    state, host = tmp_path / "state", "coordinator.horticulture.example"
    made = subprocess.run(
        [sys.executable, "-m", "coordinator.cli", "init", "--state", str(state), "--name", host],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    (credentials,) = state.rglob("*admin*.json")
    command = ["-m", "coordinator.cli"]
    on_terminal(columns, 24, *command, "login", str(credentials), "--name", "greenhouse-at-the-institute")
    for words, wanted in (
        (["identities", "--state", str(state)], ["role", "serial", "operator", "admin", "good"]),
        (["login"], ["* greenhouse-at-the-institute", "operator", f"{host}:50461"]),
    ):
        shown = plain(on_terminal(columns, 24, *command, *words))
        assert max(map(width_of, shown.splitlines())) <= columns, shown
        for cell in wanted:
            assert cell in shown, (cell, shown)


def one_round(number: int, devices: Sequence[str]) -> RoundStatus:
    energy = tuple(PhaseEnergy(phase, 0.123456, 1.0, 0.0, "measured", "s", 0.1) for phase in Phase)
    done = tuple(
        DeviceRound(name, "accepted", 2400, 590, StopReason.BUDGET, 1.0, 0.25, 5000, 9000, energy, 10, 1.0, 0)
        for name in devices
    )
    state = RoundStatus(number, "closed", 0.8123, 1.234567, done, 0.0, 1.0, "head-1")
    return state if number else replace(state, devices=())


def run_of(rounds: int, devices: Sequence[str]) -> RunStatus:
    made = tuple(one_round(number, devices) for number in range(rounds + 1))
    return RunStatus("run-1", "digits", "running", "", "plan-1", "b", 200, made, 0.0, None)


@pytest.mark.parametrize("columns", [*WIDTHS, 60, 48])
@pytest.mark.parametrize("count", [4, 6, 12])
def test_the_live_table_drops_columns_and_cuts_no_figure(columns: int, count: int) -> None:
    devices = [f"device-{index}" for index in range(1, count + 1)]
    shown = layout(run_of(5, devices).rounds, devices, columns)
    assert max(map(width_of, shown)) <= columns
    for line in shown[2:]:
        assert "81.23 %" in line
        assert "1.235" in line
        assert re.search(r"#1 590/2400, #2 590/2400 and \d+ more$|\d+ of \d+$", line)


def test_the_live_table_keeps_the_newest_rounds_in_sight() -> None:
    devices = ["device-1", "device-2"]
    shown = screen(run_of(100, devices), "a title", devices, 80, 24)
    assert len(shown) <= 24
    assert shown[-2].split()[0] == "100"
    assert shown[2] == "... 82 rounds before"
    assert len(screen(run_of(100, devices), "a title", devices, 80, None)) == 101 + 3


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_live_table_on_a_terminal_ends_as_the_whole_table(columns: int, tmp_path: Path) -> None:
    script = tmp_path / "shown.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_tables_that_fit import run_of\n"
        "from coordinator.lab.live import LiveTable\n"
        "devices = ['device-1', 'device-2', 'device-3', 'device-4']\n"
        "with LiveTable(devices, 'a fleet') as table:\n"
        "    for number in range(1, 41):\n"
        "        table.update(run_of(number, devices))\n"
    )
    shown = on_terminal(columns, 24, script)
    last = plain(shown[shown.rindex("a fleet") :])
    assert [line.split()[0] for line in last.splitlines()[2:-1]] == [str(number) for number in range(41)]
    assert max(map(width_of, plain(shown).splitlines())) <= columns


def test_the_words_of_this_room_are_right() -> None:
    import doctest

    assert doctest.testmod(tables).failed == 0
