"""Figures that no device can honestly have: refused or left out, so that they teach no price and fill no ledger."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.operator.client import Operator
from coordinator.run.reports import plausibility
from protos.energy.boards import BOARDS
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import SettledEnergy, Verdict

Fleet = Callable[..., Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def anywhere(request: pytest.FixtureRequest, tools: Any, tmp_path: Path) -> Any:
    """The address of a coordinator on either database."""
    database = None if request.param == "sqlite" else request.getfixturevalue("postgres")
    with tools.served(tmp_path / "state", database) as bound:
        yield bound


def energy(phase: Phase, energy_j: float, seconds: float = 1.0, uncertainty_j: float = 0.01) -> PhaseEnergy:
    return PhaseEnergy(phase, energy_j, seconds, 0.0, "measured", "ina219:test", uncertainty_j)


def test_what_cannot_be_is_neither_learnt_nor_shown_nor_charged(
    anywhere: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(anywhere) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=2, quorum=1.0), tmp_path)
        honest, liar = fleet(anywhere, "honest"), fleet(anywhere, "liar")
        honest.join()
        liar.join()
        order = liar.order()
        honest.order()
        for fields, code in (
            ({"embedded": 2**63}, "too_many_examples"),
            ({"embedded": 10**15}, "too_many_examples"),
            ({"energy": (energy(Phase.TRAIN, 1e12, 1.0),)}, "bad_energy"),
            # More than its own board can draw, and less than a board that nobody knows.
            ({"energy": (energy(Phase.TRAIN, 3 * plausibility.most_w("pi4"), 1.0),)}, "bad_energy"),
            ({"energy": (energy(Phase.EMBED, -1e12, 1.0),)}, "bad_energy"),
            ({"energy": (energy(Phase.TRAIN, -1e-3, 1.0),)}, "bad_energy"),
            ({"energy": (energy(Phase.TRAIN, 1.0, 1e14),)}, "bad_energy"),
            ({"energy": (energy(Phase.TRAIN, 1.0, 1.0, 1e9),)}, "bad_energy"),
            ({"train_s": 1e12}, "bad_energy"),
        ):
            receipt = liar.send(liar.answer(order, 1.0, **fields))
            assert receipt.verdict is Verdict.REJECTED
            assert receipt.reason.startswith(code)
        for phase, joules in ((Phase.TRAIN, 1e15), (Phase.EMBED, -1e12), (Phase.SEND, 1e6)):
            liar.ask(SettledEnergy(run_id, 1, (energy(phase, joules),)))
        liar.ask(SettledEnergy(run_id, 2**32 - 1, (energy(Phase.SEND, 1.0),)))
        assert liar.send_bytes(b"any", run_id, 2**32 - 1).verdict is Verdict.REJECTED
        (shown,) = [device for device in operator.devices() if device.device_id == "liar"]
        assert shown.energy_j is None or abs(shown.energy_j) < 10
        liar.ask(SettledEnergy(run_id, 1, (energy(Phase.SEND, 0.5),)))
        (mine,) = [budget for budget in operator.budgets(run_id) if budget.device_id == "liar"]
        assert all(math.isfinite(value) and 0 <= value < 100 for value in mine.price.values())
        assert 0 <= mine.spent_j < 100


def test_a_device_cannot_declare_more_examples_than_a_device_can_hold(address: str, fleet: Fleet) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        fleet(address, "z", train_examples=2**64 - 1).join()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "train_examples: 18446744073709551615 is not a number" in str(caught.value)


@pytest.mark.parametrize("board", [*BOARDS, "Raspberry Pi 4 Model B Rev 1.5", "x86_64"])
def test_what_boards_draw_at_full_load_is_possible_and_less_than_nothing_is_not(board: str) -> None:
    profile = BOARDS.get(board, BOARDS["pi4"])
    full_w = profile.power_w(profile.cores)
    assert plausibility.energy_fault(energy(Phase.TRAIN, -0.05 * 3600, 3600.0), board) is not None
    for joules in (full_w * 3600, 0.0):
        assert plausibility.energy_fault(energy(Phase.TRAIN, joules, 3600.0), board) is None
    assert plausibility.energy_fault(PhaseEnergy(Phase.TRAIN, None, 0.0, 9.0, "unknown", "", None), board) is None
    assert plausibility.energy_fault(energy(Phase.TRAIN, 1e5, 1.0), board) is not None
