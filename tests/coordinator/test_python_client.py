"""``coordinator.api``: a typed client over real gRPC, and what came of a run as rows."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import api, cli
from coordinator.api import Operator, load_outcome
from protos.energy.trace import Phase
from protos.errors import DataError, PlanError, UnknownRunError, UnreachableError, WaitExpired

Fleet = Callable[..., Any]


@pytest.fixture
def plan(plain_bundle: Path, tools: Any, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(tools.plan(plain_bundle.name, rounds=2, devices=2, quorum=1.0))
    return path


def test_a_program_starts_a_run_follows_it_and_reads_it_as_rows(
    address: str, fleet: Fleet, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devices = [fleet(address, name, train_examples=count) for name, count in (("a", 40), ("b", 8))]
    for device in devices:
        device.join()
    closed: list[int] = []
    with Operator(address) as operator:
        run_id = operator.start(plan)
        with pytest.raises(WaitExpired):
            operator.wait(run_id, 0.0)
        for number in (1, 2):
            reports = [device.answer(device.order(round=number), 0.5) for device in devices]
            for device, report in zip(devices, reports, strict=True):
                device.send(report)
        run = operator.wait("test", on_round=lambda one: closed.append(one.round))
        outcome = operator.outcome(run_id)
        assert [each_run.run_id for each_run in operator.runs()] == [run_id]
        assert {device.device_id for device in operator.devices()} == {"a", "b"}
        assert {budget.device_id for budget in operator.budgets(run_id)} == {"a", "b"}
    assert (run.state, closed) == ("finished", [0, 1, 2])
    assert outcome.run["state"] == "finished"
    assert [row["round"] for row in outcome.rounds] == [0, 1, 2]
    assert [(row["round"], row["device_id"]) for row in outcome.devices] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    expected = [
        (this_round.round, device.device_id, str(record.phase), record.energy_j)
        for this_round in run.rounds
        for device in this_round.devices
        for record in sorted(device.energy, key=lambda record: list(Phase).index(record.phase))
    ]
    assert [(r["round"], r["device_id"], r["phase"], r["energy_j"]) for r in outcome.phases] == expected
    for row, status in zip(
        outcome.devices, (device for this_round in run.rounds for device in this_round.devices), strict=True
    ):
        assert row["energy_j"] == pytest.approx(status.spent_j)
        assert row["send_known"] is any(record.phase is Phase.SEND for record in status.energy)
    # What the command prints is the same run.
    assert cli.main(["status", run_id, "--json", "--coordinator", address]) == 0
    file = tmp_path / "status.json"
    file.write_text(capsys.readouterr().out)
    assert load_outcome(file) == outcome
    script = str(Path(__file__).parents[2] / "examples/outcome_to_csv.py")
    done = subprocess.run([sys.executable, script, address, run_id], capture_output=True, text=True, check=True)
    assert [row["energy_j"] for row in csv.DictReader(io.StringIO(done.stdout))] == [
        str(row["energy_j"]) for row in outcome.devices
    ]
    # Rows are flat: a table can be written with nothing but the standard library.
    for rows in (outcome.rounds, outcome.devices, outcome.phases):
        assert len({tuple(row) for row in rows}) == 1
        assert all(value is None or isinstance(value, str | int | float) for row in rows for value in row.values())
        csv.DictWriter(io.StringIO(), list(rows[0])).writerows(rows)


def test_an_unknown_joule_makes_no_sum(tools: Any) -> None:
    phase = {"covered_s": 1.0, "uncovered_s": 0.0, "coverage": 1.0, "method": "measured", "sensor": "s", "flags": []}
    device = {
        "outcome": "accepted", "stop_reason": None, "steps_planned": 1, "steps_done": 1, "examples": 1, "embedded": 0,
        "weight": 1.0, "budget_j": None, "bytes_up": 1, "bytes_down": 1,
    }  # fmt: skip
    known = phase | {"energy_j": 2.0, "uncertainty_j": 0.1}
    unknown = phase | {"energy_j": None, "uncertainty_j": None, "method": "unknown", "flags": ["degraded", "clipped"]}
    one = {"round": 1, "accuracy": None, "loss": None, "bytes_up": 1, "bytes_down": 1, "devices": {"a": device}}
    document = {"run_id": "r", "state": "finished", "reason": "", "rounds": [one | {"energy": {"a": {"train": known}}}]}
    assert load_outcome(document).run["energy_j"] == 2.0
    document["rounds"] = [one | {"energy": {"a": {"train": known, "encode": unknown, "idle": unknown}}}]
    outcome = load_outcome(document)
    assert (outcome.run["energy_j"], outcome.devices[0]["energy_j"]) == (None, None)
    assert [row["flags"] for row in outcome.phases if row["phase"] == "encode"] == ["degraded clipped"]
    document["rounds"] = [one | {"energy": {"a": {"train": known, "idle": unknown}}}]
    assert load_outcome(document).run["energy_j"] == 2.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"run_id": "r", "rounds": [1]}', "[" * 100_000])
def test_what_is_no_outcome_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "outcome.json"
    file.write_text(text)
    for source in (file, tmp_path):
        with pytest.raises(DataError, match=r"outcome\.json"):
            load_outcome(source)
    with pytest.raises(DataError, match="cannot be read"):
        load_outcome(tmp_path / "none.json")


def test_mistakes_are_the_errors_of_the_tree(address: str, tmp_path: Path) -> None:
    with Operator(address) as operator:
        with pytest.raises(UnknownRunError):
            operator.outcome("nothing")
        with pytest.raises(PlanError, match="cannot be read"):
            operator.start(tmp_path / "none.toml")
    with Operator("127.0.0.1:1") as operator, pytest.raises(UnreachableError):
        operator.runs()


def test_the_client_needs_no_database() -> None:
    script = (
        "import sys, coordinator.api\nprint(*({'sqlalchemy', 'rich', 'pandas', 'numpy.ma', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_public_name_is_there() -> None:
    assert all(hasattr(api, name) for name in api.__all__)
    assert json.dumps(api.__all__)
