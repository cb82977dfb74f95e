"""A backup taken while the coordinator runs goes on where it stood; a damaged one is refused."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import main
from coordinator.operator.client import Operator
from coordinator.store import backup
from coordinator.store.layouts import LAYOUT
from protos.errors import IntegrityError, StoreError
from protos.orders import Verdict
from protos.trust.names import Role

Fleet = Callable[..., Any]


def test_a_run_goes_on_from_a_backup_that_was_taken_in_the_middle_of_it(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, state = tmp_path / "backup", tmp_path / "state"
    heads = []
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=2), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(round=1), 1.0))
        order = device.order(round=2)
        report = device.answer(order, 2.0)
        assert main(["backup", str(out), "--state", str(state)]) == 0
        device.send(report)
        heads.append([this_round.head_version for this_round in tools.finished(operator, run_id).rounds])
    assert main(["restore", str(out), "--state", str(tmp_path / "again")]) == 0
    assert f"layout {LAYOUT}" in capsys.readouterr().out
    with tools.served(tmp_path / "again") as address, Operator(address) as operator:
        device = fleet(address, "a", session="again")
        device.join()
        tools.until(lambda: operator.status(run_id)[0].state == "running", "the run")
        assert device.send(report).verdict is Verdict.ACCEPTED
        heads.append([this_round.head_version for this_round in tools.finished(operator, run_id).rounds])
    assert heads[0] == heads[1]


def test_a_backup_of_runs_that_are_forgotten_meanwhile_is_refused_and_the_next_one_is_whole(
    plain_bundle: Path,
    fleet: Fleet,
    tools: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = tmp_path / "state"
    with tools.served(state) as address, Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, rounds=1, devices=1), tmp_path)
        device = fleet(address, "a")
        device.join()
        device.send(device.answer(device.order(), 1.0))
        tools.finished(operator, run_id)
    with closing(sqlite3.connect(state / backup.DATABASE)) as connection, connection:
        connection.execute("UPDATE runs SET finished_unix_s = finished_unix_s - 864000")
    copy = backup._copy_database

    def copied_before_it_is_pruned(source: Path, target: Path) -> None:
        copy(source, target)
        # As another process may: between the database and the bundles.
        assert main(["prune", "--state", str(state), "--older-than", "5"]) == 0

    with monkeypatch.context() as patched:
        patched.setattr(backup, "_copy_database", copied_before_it_is_pruned)
        with pytest.raises(StoreError, match="runs were forgotten while it was copied") as said:
            backup.take(state, tmp_path / "backup")
    assert run_id in str(said.value)
    assert "take the backup again" in str(said.value)
    assert not (tmp_path / "backup").exists()
    backup.take(state, tmp_path / "backup")
    assert not list((tmp_path / "backup/bundles").glob("*"))


def test_the_audit_log_of_a_backup_has_what_its_register_has_when_boards_enrol_meanwhile(
    taken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coordinator.trust.authority import Authority
    from coordinator.trust.register import Register

    state, copy, trees = tmp_path / "state", backup._copy_database, shutil.copytree
    assert main(["init", "--state", str(state)]) == 0
    authority, boards = Authority(state / "trust"), iter(range(100))

    def one_more() -> None:
        issued, _ = authority.operator(f"one-{next(boards)}", Role.OPERATOR)
        with closing(Register(state / "trust")) as register:
            register.issued(issued, who="local", what="certificate issued")

    def copied(source: Path, target: Path) -> None:
        copy(source, target)
        one_more()

    def tree_copied(*paths: Path, **more: Any) -> None:
        trees(*paths, **more)
        one_more()

    monkeypatch.setattr(backup, "_copy_database", copied)
    monkeypatch.setattr(shutil, "copytree", tree_copied)
    backup.take(state, tmp_path / "another")
    assert next(boards) >= 3
    with closing(Register(tmp_path / "another/trust")) as register:
        assert register.certificates()
        assert register.unlogged() == []


def test_a_file_that_cannot_be_copied_is_named(taken: Path, tmp_path: Path) -> None:
    (tmp_path / "state/bundles/gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="cannot be copied") as said:
        backup.take(tmp_path / "state", tmp_path / "another")
    assert "bundles/gone" in str(said.value)
    assert not (tmp_path / "another").exists()


@pytest.fixture
def taken(plain_bundle: Path, tools: Any, tmp_path: Path) -> Path:
    with tools.served(tmp_path / "state") as address, Operator(address) as operator:
        operator.start_run(tools.plan(plain_bundle), tmp_path)
    backup.take(tmp_path / "state", tmp_path / "backup")
    return tmp_path / "backup"


def test_what_is_damaged_missing_or_added_is_refused_and_nothing_is_made(taken: Path, tmp_path: Path) -> None:
    def spoil(path: Path) -> None:
        path.write_bytes(b"x" + path.read_bytes()[1:])

    bundled = next(path for path in sorted((taken / "bundles").rglob("*")) if path.is_file())

    def add(path: Path) -> None:
        path.write_text("x")

    def empty(path: Path) -> None:
        path.write_text("{}")

    harms: list[tuple[Callable[[Path], None], Path]] = [
        (spoil, taken / backup.DATABASE),
        (spoil, bundled),
        (add, taken / "more"),
        (empty, taken / backup.LIST),
    ]
    for harm, path in harms:
        before = path.read_bytes() if path.exists() else None
        harm(path)
        with pytest.raises(IntegrityError):
            backup.restore(taken, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    bundled.unlink()
    with pytest.raises(IntegrityError, match="other files than listed"):
        backup.restore(taken, tmp_path / "new")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing half-made is left"


def test_a_newer_layout_a_used_folder_and_no_database_are_refused(taken: Path, tmp_path: Path) -> None:
    said = json.loads((taken / backup.LIST).read_text())
    (taken / backup.LIST).write_text(json.dumps({**said, "layout": LAYOUT + 1}))
    with pytest.raises(StoreError, match=f"has layout {LAYOUT + 1}"):
        backup.restore(taken, tmp_path / "new")
    (taken / backup.LIST).write_text(json.dumps(said))
    with pytest.raises(StoreError, match="is not empty"):
        backup.restore(taken, tmp_path / "state")
    with pytest.raises(StoreError, match="exists already"):
        backup.take(tmp_path / "state", taken)
    with pytest.raises(StoreError, match="holds no SQLite database"):
        backup.take(tmp_path / "nothing", tmp_path / "out")
    with closing(sqlite3.connect(tmp_path / "state" / backup.DATABASE)) as raw, raw:
        raw.execute("DROP TABLE layout")
    raw.close()
    with pytest.raises(StoreError, match="is damaged"):
        backup.take(tmp_path / "state", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a share of 50%25", "what?mode=rwc", "number #1", "\u00fcber"])
def test_a_state_folder_of_any_name_is_backed_up_and_comes_back(taken: Path, tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    (tmp_path / "state").rename(odd)
    before = sorted(path.name for path in tmp_path.iterdir())
    made = backup.take(odd, tmp_path / "out")
    again = json.loads((taken / backup.LIST).read_text())["files"]
    assert made.files.keys() == again.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "out"]), "nothing beside it"
    restored = backup.restore(tmp_path / "out", tmp_path / "new" / name)
    assert restored.files == made.files
    with closing(sqlite3.connect(tmp_path / "new" / name / backup.DATABASE)) as raw:
        assert raw.execute("SELECT version FROM layout").fetchall() == [(LAYOUT,)]
