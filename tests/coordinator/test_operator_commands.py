"""The operator's commands: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import cli
from coordinator.operator.client import Operator
from coordinator.server import operations
from protos.errors import StoreError, UsageError
from protos.orders import MeterCard
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`command(*arguments)`: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(plain_bundle: Path, tools: Any, tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(tools.plan(plain_bundle.name, devices=1))
    return path


@pytest.mark.parametrize("name", ["serve", "start", "status", "devices", "stop", "export", "check-plan"])
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"example:\n  coordinator {name} " in out


@pytest.mark.parametrize("arguments", [("status",), ("devices",), ("stop", "x"), ("export", "x", "-o", "m.tflite")])
def test_without_a_coordinator_the_address_and_the_remedy_are_told(
    command: Command, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEJOULE_COORDINATOR", "127.0.0.1:1")
    code, out, err = command(*arguments)
    assert (code, out) == (5, "")
    assert "127.0.0.1:1" in err
    assert "coordinator serve" in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_is_none_is_a_usage_error(command: Command) -> None:
    assert command("status", "--coordinator", "nonsense")[0] == 2


def test_a_run_from_start_to_end(address: str, plan: Path, command: Command, fleet: Fleet) -> None:
    device = fleet(address, "pi-1", meter=MeterCard("measured", "ina219:x"))
    device.join()
    worker = threading.Thread(target=lambda: device.send(device.answer(device.order(), 1.0)))
    worker.start()
    code, out, err = command("start", plan, "--wait", "--timeout", 60, "--coordinator", address)
    worker.join()
    assert code == 0
    assert "round 1: accuracy -, loss ?, 1 of 1 devices, 3.5 (+ sending) J" in out
    assert "run run-" in err
    code, out, _ = command("status", "--coordinator", address)
    assert code == 0
    assert "finished" in out
    code, out, _ = command("status", "test", "--coordinator", address)
    assert "pi-1" in out
    assert "?" in out, "the joules of sending have not come yet"
    code, out, _ = command("status", "test", "--json", "--coordinator", address)
    shown = json.loads(out)
    assert shown["rounds"][1]["devices"][0]["energy"]["train"]["energy_j"] == 2.0
    assert shown["rounds"][1]["accuracy"] is None
    code, out, _ = command("devices", "--coordinator", address)
    assert "ai-edge-litert 2.3.0 (xnnpack)" in out
    code, out, _ = command("devices", "--json", "--coordinator", address)
    assert json.loads(out)["devices"][0]["energy_j"] == 3.5


def test_waiting_goes_on_while_the_coordinator_cannot_read_its_books(
    address: str, plan: Path, command: Command, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    real = operations._status

    def fails_at_first(connection: Any, name: str, *rest: Any) -> Any:
        if len(failed) < 2:
            failed.append(name)
            raise StoreError("the database system is starting up", where="database")
        return real(connection, name, *rest)

    device = fleet(address, "a")
    device.join()
    monkeypatch.setattr(operations, "_status", fails_at_first)
    worker = threading.Thread(target=lambda: device.send(device.answer(device.order(), 1.0)))
    worker.start()
    code, out, _ = command("start", plan, "--wait", "--timeout", 60, "--coordinator", address)
    worker.join()
    assert code == 0
    assert "round 1:" in out
    assert len(failed) == 2


def test_unknown_joules_are_a_question_mark(address: str, command: Command, fleet: Fleet) -> None:
    fleet(address, "blind", meter=MeterCard("unknown")).join()
    row = command("devices", "--coordinator", address)[1].splitlines()[1].split()
    assert row[-4] == "?"


def test_waiting_ends_with_its_own_code_and_the_run_goes_on(address: str, plan: Path, command: Command) -> None:
    code, _, err = command("start", plan, "--wait", "--timeout", 3, "--coordinator", address)
    assert code == 17
    assert "0 of 1 devices present" in err
    code, out, _ = command("stop", "test", "--coordinator", address)
    assert (code, out) == (0, "stopped\n")


def test_a_run_that_does_not_finish_is_exit_code_3(address: str, plan: Path, command: Command, tools: Any) -> None:
    def stop() -> None:
        from coordinator.operator.client import Operator

        with Operator(address) as operator:
            tools.until(operator.status, "the run")
            operator.stop_run("test")

    other = threading.Thread(target=stop)
    other.start()
    code, _, err = command("start", plan, "--wait", "--coordinator", address)
    other.join()
    assert code == 3
    assert "stopped" in err


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("rounds", "ronds"), 12, "did you mean 'rounds'?"),
        (('"float32"', '"flaot32"'), 12, "did you mean 'float32'?"),
        (("seed = 7", "seed = 7\n["), 12, "not TOML"),
        (("epochs = 1", "epochs = 1\nsteps = 1"), 12, "contradict"),
        (("seed = 7", "seed = 7\n[train.inputs]\nmomentun = 1"), 12, "did you mean 'momentum'?"),
        (('"plain"', '"plane"'), 6, "no such bundle folder"),
        (("seed = 7", 'seed = 7\n[evaluate]\ndata = "none.npz"'), 13, "no such file"),
    ],
)
def test_a_plan_with_a_mistake_is_one_line_here_and_on_the_coordinator(
    address: str, plan: Path, command: Command, change: tuple[str, str], code: int, words: str
) -> None:
    plan.write_text(plan.read_text().replace(*change))
    for arguments in (("check-plan", plan), ("start", plan, "--coordinator", address)):
        found, out, err = command(*arguments)
        assert (found, out) == (code, ""), err
        assert words in err
        assert len(err.splitlines()) == 1


def test_a_plan_that_is_not_there_is_a_plan_error(command: Command, tmp_path: Path) -> None:
    code, _, err = command("check-plan", tmp_path / "none.toml")
    assert code == 12
    assert "none.toml" in err


def test_a_good_plan_says_what_would_run(plan: Path, command: Command) -> None:
    code, out, _ = command("check-plan", plan, "--json")
    assert code == 0
    found = json.loads(out)
    assert found["head_parameters"] == 21
    assert found["inputs"] == {"rate": 0.05, "momentum": 0.0, "proximal_mu": 0.0}
    code, out, _ = command("check-plan", plan)
    assert "by_examples x by_budget" in out


def test_an_export_leaves_a_file_that_is_there_unless_told(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "m.tflite"
    out.write_bytes(b"of last week")
    code, _, err = command("export", "x", "-o", out, "--coordinator", "127.0.0.1:1")
    assert (code, err) == (2, f"coordinator export: {out}: is there already; choose another -o, or add --again\n")
    assert command("export", "x", "-o", out, "--again", "--coordinator", "127.0.0.1:1")[0] == 5
    assert out.read_bytes() == b"of last week"


def test_a_drop_that_is_no_share_is_refused_by_command_and_coordinator(
    address: str, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "m.tflite"
    assert command("export", "x", "-o", out, "--max-drop", "7", "--coordinator", address)[0] == 2
    with Operator(address) as operator, pytest.raises(UsageError, match="no share of accuracy"):
        operator.export("x", out, max_drop=7.0)
    assert not out.exists()


def test_an_export_without_data_says_what_is_missing(
    address: str, plan: Path, command: Command, tools: Any, tmp_path: Path
) -> None:
    run_id = command("start", plan, "--coordinator", address)[1].strip()
    tools.until(lambda: "0 of 1" in command("status", "--coordinator", address)[1], "the beginning of the run")
    code, _, err = command("export", run_id, "-o", tmp_path / "m.tflite", "--coordinator", address)
    assert code == 2
    assert "[evaluate] data" in err
    code, _, err = command("export", "nosuch", "-o", tmp_path / "m.tflite", "--coordinator", address)
    assert code == 18
    assert not (tmp_path / "m.tflite").exists()
    code, _, err = command("export", run_id, "-o", tmp_path / "no" / "m.tflite", "--coordinator", address)
    assert code == 15
    assert len(err.splitlines()) == 1


def test_what_became_of_a_devices_data_is_shown(address: str, command: Command, fleet: Fleet) -> None:
    account = "96 examples read, 0 of them held out; left out: 4 not an image (such as notes.txt)"
    fleet(address, "pi-1", account=account).join()
    fleet(address, "pi-2", account="40 examples read, 10 of them held out").join()
    _, shown, _ = command("devices", "--coordinator", address)
    assert f"pi-1: {account}" in " ".join(shown.split())
    assert "pi-2: " not in shown
    _, shown, _ = command("devices", "--json", "--coordinator", address)
    assert json.loads(shown)["devices"][0]["account"] == account


def test_a_device_that_is_gone_is_forgotten_and_its_rounds_stay(
    address: str, plan: Path, command: Command, fleet: Fleet, tools: Any
) -> None:
    device = fleet(address, "pi-1")
    device.join()
    with Operator(address) as operator:
        run_id = operator.start_run(plan.read_text(), plan.parent)
        device.send(device.answer(device.order(), 1.0))
        tools.finished(operator, run_id)
        code, _, err = command("devices", "forget", "pi-1", "--coordinator", address)
        assert (code, "is here, and would be back at once; stop its edge-runtime first" in err) == (16, True)
        code, _, err = command("devices", "forget", "pi-l", "--coordinator", address)
        assert (code, "did you mean 'pi-1'?" in err) == (18, True)
        device.leave()
        assert command("devices", "forget", "pi-1", "--coordinator", address) == (0, "pi-1: forgotten\n", "")
        assert operator.devices() == []
        (status,) = operator.status(run_id)
        assert [each_device.device_id for each_device in status.rounds[1].devices] == ["pi-1"]
        device.join()
        assert [each_device.device_id for each_device in operator.devices()] == ["pi-1"]


def test_a_forgotten_device_stays_forgotten_after_a_restart(tmp_path: Path, fleet: Fleet, tools: Any) -> None:
    for expected in (["a", "b"], ["b"]):
        with tools.served(tmp_path / "state") as address, Operator(address) as operator:
            if expected == ["a", "b"]:
                for name in ("a", "b"):
                    one = fleet(address, name)
                    one.join()
                    one.leave()
            assert [device.device_id for device in operator.devices()] == expected
            if "a" in expected:
                operator.forget_device("a")


def test_why_a_board_left_is_shown_beside_its_run(
    address: str, plan: Path, command: Command, fleet: Fleet, tools: Any
) -> None:
    device = fleet(address, "pi-1")
    device.join()
    with Operator(address) as operator:
        run_id = operator.start_run(plan.read_text(), plan.parent)
        device.send(device.answer(device.order(), 1.0))
        tools.finished(operator, run_id)
        device.stub.Leave(
            pb.LeaveRequest(device_id="pi-1", session=device.card.session, reason="the state folder is full"),
            timeout=20,
        )
        for words in (["devices"], ["status", run_id]):
            code, out, _ = command(*words, "--coordinator", address)
            assert code == 0
            assert "pi-1: the state folder is full" in out.splitlines()


def test_without_credentials_login_says_how_to_keep_some(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    code, out, _ = command("login")
    assert (code, out) == (0, "no credentials are kept; keep some with: coordinator login FILE\n")
