"""A server that is started anew in the middle of rounds: the coordinator stays, and its heads are those beside a quiet
one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from throwaway_postgres import missing, restartable_postgres

from coordinator.operator.client import Operator
from protos.errors import EdgejouleError
from protos.orders import RejoinOrder, TrainOrder, Verdict

Fleet = Callable[..., Any]
ROUNDS = 4


def _answered(tools: Any, work: Callable[[], Any], what: str) -> Any:
    """As a device does, and an operator who is patient: again, until it is answered."""

    def tried() -> Any:
        try:
            return work()
        except (grpc.RpcError, EdgejouleError):
            return None

    return tools.until(tried, what)


def _heads(
    tools: Any, fleet: Fleet, bundle: Path, folder: Path, database: str | None, disturb: Callable[[int], Thread]
) -> list[str]:
    """Of a run of two devices, one after the other, while something is done beside each report."""
    folder.mkdir()
    with tools.served(folder / "state", database) as address, Operator(address) as operator:
        devices = {name: fleet(address, name) for name in "ab"}
        for device in devices.values():
            device.join()
        run_id = operator.start_run(tools.plan(bundle, rounds=ROUNDS, devices=2, quorum=1.0), folder)
        for number in range(1, ROUNDS + 1):
            for name, device in devices.items():

                def order(device: Any = device, number: int = number) -> TrainOrder | None:
                    found = device.ask()
                    if isinstance(found, RejoinOrder):
                        device.join()
                    return found if isinstance(found, TrainOrder) and found.round == number else None

                report = device.answer(_answered(tools, order, "an order"), number / (3 if name == "a" else 7))
                beside = disturb(number)
                beside.start()
                sent = _answered(tools, lambda: device.send(report), "a receipt")  # noqa: B023
                assert sent.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE)
                beside.join()
        _answered(tools, lambda: operator.status(run_id)[0].is_over, "the end")
        status = _answered(tools, lambda: operator.status(run_id)[0], "the status")
    assert status.state == "finished"
    return [one.head_version for one in status.rounds]


@pytest.mark.processes
def test_heads_are_the_same_to_the_bit_beside_a_server_that_is_started_anew(
    plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    if (why := missing()) is not None:
        pytest.skip(why)
    pytest.importorskip("psycopg", reason="needs the postgresql extra")
    calm = _heads(tools, fleet, plain_bundle, tmp_path / "calm", None, lambda number: Thread(target=int))
    with restartable_postgres() as (url, restart):
        database = url.replace("postgresql:", "postgresql+psycopg:")

        def disturb(number: int) -> Thread:
            return Thread(target=restart, args=("immediate" if number % 2 else "fast",))

        assert _heads(tools, fleet, plain_bundle, tmp_path / "restarts", database, disturb) == calm
