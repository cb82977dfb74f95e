"""What a device had to bear, from its report to what the operator reads."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator import cli
from coordinator.commands.status import borne
from coordinator.operator import messages
from coordinator.operator.status import DeviceRound, RoundStatus, RunStatus
from protos.orders import StopReason, Strain
from protos.v1 import edgejoule_pb2 as pb


def a_run(*devices: DeviceRound) -> RunStatus:
    one = RoundStatus(1, "closed", None, None, devices, 1.0, 2.0, "head-1")
    return RunStatus("run-1", "digits", "finished", "", "plan", "sha256:1", 1, (one,), 1.0, 2.0)


def a_device(name: str, stop: StopReason | None, strain: Strain | None) -> DeviceRound:
    return DeviceRound(name, "accepted", 10, 4, stop, None, 1.0, 5, 6, (), 40, 0.5, 0, strain)


@pytest.mark.parametrize("stop", [None, *StopReason])
def test_every_reason_and_every_strain_reaches_the_operators_end(stop: StopReason | None) -> None:
    run = a_run(a_device("a", stop, Strain(1.5, 2.5, 81.0, under_voltage=True)), a_device("b", stop, None))
    sent = messages.runs_to([run], "0")
    (back,) = messages.runs_from(pb.GetStatusResponse.FromString(sent.SerializeToString()))
    assert back.rounds[0].devices == run.rounds[0].devices


def test_an_operator_from_before_reads_a_deadline() -> None:
    (one,) = messages.runs_to([a_run(a_device("a", StopReason.HEAT, None))], "0").runs[0].rounds[0].devices
    assert one.stop_reason == pb.STOP_REASON_DEADLINE
    assert one.ended_in_pause == pb.PAUSE_CAUSE_HEAT


@pytest.mark.parametrize(
    ("strain", "words"),
    [
        (None, "-"),
        (Strain(hottest_c=60.0), "-"),
        (Strain(42.4, 3.0, 81.0), "42 s too hot, 3 s busy"),
        (Strain(throttled=True, under_voltage=True), "throttled, under-voltage"),
    ],
)
def test_strain_in_words(strain: Strain | None, words: str) -> None:
    assert borne(strain) == words


def test_a_hot_device_is_seen_in_the_status_of_its_run(
    address: str, plain_bundle: Path, tools: Any, tmp_path: Path, fleet: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plan = tmp_path / "plan.toml"
    plan.write_text(tools.plan(plain_bundle.name, devices=1))
    device = fleet(address, "pi-1")
    device.join()
    strain = Strain(12.0, 0.0, 82.5, throttled=True)

    def work() -> None:
        device.send(device.answer(device.order(), 1.0, steps_done=2, stop_reason=StopReason.HEAT, strain=strain))

    worker = threading.Thread(target=work)
    worker.start()
    assert cli.main(["start", str(plan), "--wait", "--timeout", "60", "--coordinator", address]) == 0
    worker.join()
    capsys.readouterr()
    assert cli.main(["status", "test", "--coordinator", address]) == 0
    shown = capsys.readouterr().out
    assert "12 s too hot, throttled" in shown
    assert "pi-1 (heat)" in shown
    assert cli.main(["status", "test", "--json", "--coordinator", address]) == 0
    (one,) = json.loads(capsys.readouterr().out)["rounds"][1]["devices"]
    assert one["stop_reason"] == "heat"
    assert one["strain"] == {
        "heat_s": 12.0, "busy_s": 0.0, "hottest_c": 82.5, "throttled": True, "under_voltage": False,
    }  # fmt: skip
