"""A report says what `status --json` says, to the last digit, in a page that nothing in a run can break."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from live.played_run import EVIL, fleet_of, played

from coordinator.cli import main
from coordinator.operator.client import Operator
from coordinator.operator.status import DeviceRound, RoundStatus, RunStatus
from coordinator.report.charts import Bar, Line, bars, lines, thinned
from coordinator.report.making import make
from coordinator.report.page import page
from coordinator.report.record import gather
from coordinator.report.tables import MANY
from coordinator.report.words import sum_of
from coordinator.store import reading
from coordinator.store.database import Database, sqlite_url
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import UsageError
from protos.orders import StopReason, Strain

Fleet = Callable[..., Any]
_NUMBER = re.compile(r"^-?[\d.]+(e[+-]?\d+)?$")


class _Look(HTMLParser):
    """Checks that tags nest, and gathers what a page would load, run, and show."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.shown: list[str] = []
        self.cells: dict[str, list[list[str]]] = {}
        self._caption = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "hr"):
            self.open.append(tag)
        if tag == "tr":
            self.cells.setdefault(self._caption, []).append([])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self._caption = ""

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] == "style":
            return
        if self.open[-1] == "caption":
            self._caption = data
        elif self.open[-1] in ("td", "th"):
            self.cells[self._caption][-1].append(data)
        self.shown.append(data)


def looked(text: str) -> _Look:
    found = _Look()
    found.feed(text)
    found.close()
    assert not found.open
    return found


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def status_of(address: str, run_id: str, capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["status", run_id, "--json", "--coordinator", address]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_report_has_the_figures_of_status_and_nothing_in_a_run_can_break_it(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path)
    out = tmp_path / "report.html"
    assert main(["report", run_id, "-o", str(out), "--json", "--coordinator", address]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "edgejoule.report/1"
    assert [Path(path).name for path in said["files"]] == [
        "report.html", "report.rounds.csv", "report.devices.csv", "report.energy.csv"
    ]  # fmt: skip
    status = status_of(address, run_id, capsys)

    # Each record of energy, as it stands there.
    energy = {(int(row["round"]), row["device"], row["phase"]): row for row in rows(tmp_path / "report.energy.csv")}
    asked = 0
    for this_round in status["rounds"]:
        for work in this_round["devices"]:
            for phase, record in work["energy"].items():
                row = energy[this_round["round"], work["device_id"], phase]
                for key in ("energy_j", "uncertainty_j", "covered_s", "uncovered_s"):
                    assert (float(row[key]) if row[key] else None) == record[key]
                assert row["flags"].split() == record["flags"]
                asked += 1
    assert asked == len(energy) == 3 * (5 + 5 + 1)
    # Sums of rounds and devices.
    for row, this_round in zip(rows(tmp_path / "report.rounds.csv"), status["rounds"], strict=True):
        known = [
            record["energy_j"]
            for work in this_round["devices"]
            for phase, record in work["energy"].items()
            if phase != "idle" and record["energy_j"] is not None
        ]
        assert (int(row["bytes_up"]), int(row["bytes_down"])) == (this_round["bytes_up"], this_round["bytes_down"])
        assert math.isclose(float(row["spent_j"] or 0), sum(known), rel_tol=1e-12)
        assert int(row["spent_unknown_phases"]) == (1 if this_round["round"] else 0)
        assert (row["accepted"], row["rejected"]) == [("0", "0"), ("3", "0"), ("2", "1"), ("3", "0")][
            this_round["round"]
        ]
    for row in rows(tmp_path / "report.devices.csv"):
        mine = [
            work
            for this_round in status["rounds"]
            for work in this_round["devices"]
            if work["device_id"] == row["device"]
        ]
        if row["device"] == "pi-c":
            assert row["spent_j"] == ""
            assert {work["spent_j"] for work in mine} == {None}, "unknown is never 0"
            continue
        assert math.isclose(float(row["spent_j"]), sum(work["spent_j"] for work in mine), rel_tol=1e-12)
        assert float(row["mean_weight"]) == pytest.approx(sum(work["weight"] for work in mine) / 3)
        # One sensor: its half widths are added.
        assert math.isclose(float(row["spent_uncertainty_j"]), float(row["spent_j"]) / 20, rel_tol=1e-9)

    text = out.read_text()
    found = looked(text)
    assert found.tags.isdisjoint({"script", "iframe", "link", "object", "embed", "form", "img", "base"})
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert not [value for name, value in found.attributes if name in ("src", "href") and not str(value).startswith("#")]
    assert "url(" not in text
    assert "@import" not in text
    assert EVIL in "".join(found.shown)
    assert "<script" not in text
    shown = " ".join(found.shown)
    # What a reader must find.
    for word in ("measured", "unknown", "wrong_plan", "clipped", "no limit", status["plan_id"], status["bundle_id"]):
        assert (word in shown) is (word != "no limit"), word
    assert 'codec = "float32"' in shown, "the plan itself"
    assert "coordinator start plan.toml --wait" in shown
    assert "63.0" in shown, "the hottest temperature"
    table = found.cells["Joules by device and phase over all rounds; ± half the 95 % interval"]
    by_device = {row[0]: row for row in table[1:]}
    assert by_device["pi-c"][1] == "?"
    assert by_device["pi-b"][1] == sum_of(_record(address, run_id).devices[1].spent)
    assert [row[0] for row in found.cells["Reports that were refused, by reason"]] == ["reason", "wrong_plan"]


def _record(address: str, run_id: str) -> Any:
    with Operator(address) as operator:
        return gather(operator.pages(run_id))


def test_nothing_is_overwritten_and_nothing_is_half_written(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=1)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "report.energy.csv").write_text("mine")
    arguments = ["report", run_id, "-o", str(folder / "report.html"), "--coordinator", address]
    assert main(arguments) == UsageError.exit_code
    assert "report.energy.csv: is there already; choose another -o, or add --again" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["report.energy.csv"]
    assert main([*arguments, "--again"]) == 0
    assert len(list(folder.iterdir())) == 4
    for wrong, why in (([run_id, run_id], "is named twice"), ([run_id, "nobody"], "nobody")):
        capsys.readouterr()
        assert main(["report", *wrong, "-o", str(folder / "other.html"), "--coordinator", address]) != 0
        assert why in capsys.readouterr().err
    assert main(["report", run_id, "-o", str(folder), "--coordinator", address]) == UsageError.exit_code
    assert main(["report", run_id, "-o", str(folder / "no" / "x.html"), "--coordinator", address]) != 0
    assert len(list(folder.iterdir())) == 4, "no file, and no part of one, is left"


def test_runs_that_go_on_that_failed_and_that_never_began_are_told_as_they_are(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        first = operator.start_run(tools.plan(plain_bundle, rounds=3, devices=3), tmp_path)
        waiting = operator.start_run(tools.plan(plain_bundle, rounds=3, devices=3), tmp_path)
        devices = fleet_of(address, fleet)
        for device in devices:
            device.order(round=1)
        report = make(operator, [first, waiting], tmp_path / "now.html", version="0", command="x")
        shown = " ".join(looked((tmp_path / "now.html").read_text()).shown)
        assert shown.count("This run is not over") == 2
        assert "No device was asked to do anything." in shown
        assert "0 of 3 reports" in shown, "what it is doing, in the coordinator's words"
        assert report.records[0].rounds[1].outcomes == {"ordered": 3}
        operator.stop_run(waiting)
        operator.stop_run(first)
        make(operator, [first, waiting], tmp_path / "now.html", version="0", command="x", again=True)
        shown = " ".join(looked((tmp_path / "now.html").read_text()).shown)
        assert shown.count("This run stopped") == 2
        assert "No joules are known" not in shown, "nothing was reported, which is not the same"


def test_a_run_whose_joules_nobody_knows_has_no_curve_by_joule() -> None:
    record = gather([long_run(3, 2, energy_j=None)])
    shown = " ".join(looked(page([record], made_unix_s=0, version="0", command="x", files=[])).shown)
    assert "No joules are known: no device that took part had a meter. There is no curve by joule." in shown
    assert "by joule" not in shown.replace("curve by joule", "").replace("error bars", "")


def test_figures_that_are_unknown_make_a_bound_and_never_a_zero() -> None:
    known = PhaseEnergy(Phase.TRAIN, 2.0, 1.0, 0.0, "measured", "a", None)
    unknown = PhaseEnergy(Phase.SEND, None, 0.0, 1.0, "unknown", "", None)
    record = gather([RunStatus("r", "r", "finished", "", "p", "b", 1, (round_of(1, 1, (known, unknown)),), 0.0, 1.0)])
    (device,) = record.devices
    assert device.spent.energy_j is None
    assert device.spent.at_least_j == 2.0
    assert device.spent.uncertainty_j is None, "a record that does not say how wrong it is bounds nothing"
    assert sum_of(device.spent) == "≥ 2 (1 unknown)"
    assert device.spent.mean_w is None
    text = page([record], made_unix_s=0, version="0", command="x", files=[])
    assert "do not say how wrong" in text
    assert "bound from below" in text


def test_the_plan_and_what_happened_are_asked_once_and_an_old_coordinator_is_no_trouble(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=1)
    with Operator(address) as operator:
        details = operator.details(run_id)
        assert details.plan_toml.startswith("[run]")
        assert details.plan_directory == str(tmp_path)
        assert details.software_version
        (status,) = operator.status(run_id)
        record = gather(operator.pages(run_id))
    assert record.details is None
    assert status.rounds[1].devices[2].refusals == ()
    text = page([record], made_unix_s=0, version="0", command="x", files=[])
    assert "too old to tell the plan" in text


def long_run(rounds: int, devices: int, *, energy_j: float | None = 3.0) -> RunStatus:
    return next(iter(long_pages(rounds, devices, rounds, energy_j=energy_j)))


def round_of(number: int, devices: int, energy: tuple[PhaseEnergy, ...]) -> RoundStatus:
    asked = tuple(
        DeviceRound(
            device_id=f"device-{index:03d}",
            outcome=("accepted", "accepted", "accepted", "late", "missing")[(index * 7 + number) % 5],
            steps_planned=10,
            steps_done=10,
            stop_reason=StopReason.COMPLETED,
            budget_j=5.0,
            weight=1 / devices,
            bytes_up=1000,
            bytes_down=2000,
            energy=energy,
            examples=40 + index,
            loss=1.0,
            embedded=0,
            strain=Strain(hottest_c=50.0 + number % 7),
        )
        for index in range(devices)
    )
    return RoundStatus(
        number, "closed", 1 - 1 / (number + 1), 1 / (number + 1), asked, number, number + 1.0, f"h{number}"
    )


def long_pages(rounds: int, devices: int, page_rounds: int, *, energy_j: float | None = 3.0) -> Iterator[RunStatus]:
    method: Any = "unknown" if energy_j is None else "measured"
    parts = (Phase.EMBED, Phase.TRAIN, Phase.ENCODE, Phase.SEND)
    energy = tuple(
        PhaseEnergy(phase, energy_j, 1.0, 0.0, method, "" if energy_j is None else "s", energy_j and 0.1)
        for phase in parts
    )
    for first in range(1, rounds + 1, page_rounds):
        made = tuple(round_of(number, devices, energy) for number in range(first, min(rounds + 1, first + page_rounds)))
        yield RunStatus("run-long", "long", "finished", "", "plan", "bundle", rounds, made, 0.0, 9.0)


def test_a_long_run_of_many_devices_is_read_in_pages_and_its_page_stays_small() -> None:
    held = []

    def told(run: RunStatus, this_round: RoundStatus) -> None:
        held.append(sum(len(each.devices) for each in run.rounds))

    record = gather(long_pages(1000, 100, 10), on_round=told)
    assert len(held) == 1000
    assert max(held) == 1000, "never more than a page at once"
    assert math.isclose(record.spent.known_j, 1000 * 100 * 12.0)
    text = page([record], made_unix_s=0, version="0", command="x", files=[])
    assert len(text.encode()) < 700_000
    assert text.count("<details>") >= 3, f"tables of more than {MANY} rows are folded"
    looked(text)


def test_a_thinned_line_keeps_its_peaks_and_its_ends() -> None:
    values: list[float | None] = [0.0] * 5000
    values[1234], values[3210], values[4000] = 9.0, -4.0, None
    line = thinned(Line("x", [float(at) for at in range(5000)], values))
    assert len(line.x) <= 405
    known = [y for y in line.y if y is not None]
    assert (max(known), min(known), line.x[0], line.x[-1]) == (9.0, -4.0, 0.0, 4999.0)


def test_charts_without_a_figure_are_left_out_and_their_paths_are_finite() -> None:
    assert lines([Line("x", [1.0, 2.0], [None, None])], title="t", x_label="x", y_label="y") is None
    assert bars([], ["a"], title="t", x_label="x") is None
    for values in ([0.0, 0.0], [5.0, 5.0], [1e-9, 1e9], [-3.0, None]):
        made = lines([Line("x", [1.0, 2.0], values)], title="t", x_label="x", y_label="y")
        assert made is not None
        assert not re.search(r"nan|inf", made.text)
    drawn = bars([Bar(EVIL, [0.0, 0.0], None, "?"), Bar("b", [1.0, 2.0], 0.5, "3")], ["a", "b"], title="t", x_label="J")
    assert drawn is not None
    assert "<script" not in drawn.text
    assert not re.search(r"nan|inf", drawn.text)


def test_text_that_a_spreadsheet_would_run_is_kept_from_it(tmp_path: Path) -> None:
    from coordinator.report.csv_files import RowWriter

    with (tmp_path / "x.csv").open("wb") as file:
        writer = RowWriter(file, ["a", "b"])
        writer.write(["=cmd|' /C calc'!A0", -1.5])
        writer.done()
    assert (tmp_path / "x.csv").read_text() == "a,b\n'=cmd|' /C calc'!A0,-1.5\n"


def test_the_picture_is_a_png_beside_the_page(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="needs the plot extra")
    run_id = played(address, plain_bundle, fleet, tools, tmp_path, rounds=2, name="a_$name$")
    assert main(["report", run_id, "-o", str(tmp_path / "r.html"), "--png", "--coordinator", address]) == 0
    assert (tmp_path / "r.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "r.png" in (tmp_path / "r.html").read_text()


def test_a_page_of_rounds_reads_no_row_of_later_ones(tmp_path: Path) -> None:
    """Else a long run costs the square of its length."""
    from stored_runs import accept, report_of, started

    from coordinator.budgets.order_line import OrderLine
    from coordinator.store import runs

    database = Database(sqlite_url(tmp_path / "store.db"))
    try:
        started(database)
        accept(database, report_of("a"))
        with database.writing() as connection:
            runs.open_round(connection, "run-1", 2, 1, [OrderLine("a", 5, None)], "")
            from sqlalchemy import text

            connection.execute(
                text(
                    "INSERT INTO energy SELECT run_id, 2, device_id, phase, energy_j, covered_s, uncovered_s, method, "
                    "sensor, uncertainty_j, flags FROM energy"
                )
            )
        with database.reading() as connection:
            assert {key[0] for key in reading._energies(connection, "run-1", reading.Part(1, 1))} == {1}
            assert {key[0] for key in reading._energies(connection, "run-1", reading.Part(1, 2))} == {1, 2}
    finally:
        database.close()
