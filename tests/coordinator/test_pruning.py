"""What a coordinator forgets, and what it must not."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.operator.client import Operator
from protos.orders import Verdict

Fleet = Callable[..., Any]
DAY_S = 86_400.0


def _run(operator: Operator, fleet: Fleet, address: str, tools: Any, bundle: Path, tmp_path: Path, rounds: int) -> str:
    run_id = operator.start_run(tools.plan(bundle, rounds=rounds), tmp_path)
    a = fleet(address, "a")
    a.join()
    for number in range(1, rounds + 1):
        a.send(a.answer(a.order(round=number), float(number)))
    tools.finished(operator, run_id)
    return str(run_id)


def _rows(state: Path, statement: str) -> list[Any]:
    connection = sqlite3.connect(state / "coordinator.db")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def _age(state: Path, run_id: str, days: float) -> None:
    connection = sqlite3.connect(state / "coordinator.db")
    with connection:
        connection.execute("UPDATE runs SET finished_unix_s = ? WHERE run_id = ?", (time.time() - days * DAY_S, run_id))
    connection.close()


def test_the_bytes_of_settled_rounds_are_forgotten_and_their_reports_are_known_all_the_same(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=3), tmp_path)
        a = fleet(address, "a")
        a.join()
        sent = []
        for number in range(1, 4):
            sent.append(a.answer(a.order(round=number), float(number)))
            a.send(sent[-1])
        tools.finished(operator, run_id)
        assert a.send(sent[0]).verdict is Verdict.DUPLICATE
        status = operator.status(run_id)[0]
    assert [this_round.devices[0].bytes_up > 0 for this_round in status.rounds[1:]] == [True] * 3
    sizes = [size for (size,) in _rows(state, "SELECT length(data) FROM reports ORDER BY round")]
    assert [size > 0 for size in sizes] == [False, False, True]


def test_runs_that_are_long_over_are_forgotten_with_what_only_they_had(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, other = tmp_path / "state", tools.bundle(tmp_path / "other", width=7)
    with tools.served(state) as address, Operator(address) as operator:
        old = _run(operator, fleet, address, tools, other, tmp_path, 2)
        new = _run(operator, fleet, address, tools, plain_bundle, tmp_path, 2)
        waiting = operator.start_run(tools.plan(plain_bundle, devices=9), tmp_path)
        assert main(["prune", "--state", str(state), "--older-than", "0"]) != 0, "a coordinator uses it"
    _age(state, old, 10)
    assert len(list((state / "bundles").iterdir())) == 2
    capsys.readouterr()
    assert main(["prune", "--state", str(state), "--older-than", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == [old]
    assert {run_id for (run_id,) in _rows(state, "SELECT run_id FROM runs")} == {new, waiting}
    assert _rows(state, "PRAGMA foreign_key_check") == []
    assert len(list((state / "bundles").iterdir())) == 1
    # Three heads of the run that stays, of which the waiting one begins with the first.
    assert _rows(state, "SELECT count(*) FROM heads") == [(3,)]
    assert {device for (device,) in _rows(state, "SELECT device_id FROM cost_models")} == {"a"}
    with tools.served(state) as address, Operator(address) as operator:
        assert [run.run_id for run in operator.status()] == [new, waiting]


def test_by_size_the_oldest_go_first_and_those_of_the_last_two_days_stay(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        ids = [_run(operator, fleet, address, tools, plain_bundle, tmp_path, 1) for _ in range(3)]
    for run_id, days in zip(ids, (9.0, 2.1, 1.9), strict=True):
        _age(state, run_id, days)
    capsys.readouterr()
    assert main(["prune", "--state", str(state), "--max-mb", "0", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["runs"] == ids[:2]
    assert made["after"] <= made["before"]
    assert main(["prune", "--state", str(state)]) == 2
    assert "nothing says what to forget" in capsys.readouterr().err
