"""A device whose sensor is connected wrongly keeps budgets as one without a sensor: it takes no order that has one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from peer_coordinator import order

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.power.wiring import FIXES
from edge_runtime.round.allowance import Allowance
from edge_runtime.round.work import work
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from firmware_tools.bridge.simulator.sensor import Wiring
from protos.energy.trace import Phase
from protos.errors import RefusedError
from protos.model.bundle import Bundle
from protos.orders import StopReason

WRONG: list[tuple[Wiring, str]] = [("swapped", "reversed"), ("open-minus", "bus-low"), ("low-side", "bus-low"),
                                   ("bypassed", "no-current")]  # fmt: skip


@pytest.fixture(params=WRONG, ids=lambda entry: entry[0])
def wired_wrongly(
    request: pytest.FixtureRequest, tmp_path: Path, settings: Callable[..., Settings]
) -> Iterator[tuple[Device, str]]:
    wiring, flag = request.param
    bridge = SimulatedBridge(BridgeSpec(link=tmp_path / "ttyINA", load="constant:4.0", wiring=wiring))
    with Bench([bridge]):
        device = Device(settings(sensor=f"serial:{bridge.spec.link}"))
        try:
            yield device, flag
        finally:
            device.close()


def never() -> bool:
    return False


def test_it_takes_no_order_with_a_budget_and_does_one_without_at_unknown_joules(
    wired_wrongly: tuple[Device, str], bundle: Bundle
) -> None:
    device, flag = wired_wrongly
    bench = device.take_up(bundle)
    _until(lambda: device.refresh() or device.card().meter.quality == flag)
    assert device.card().meter.method == "unknown"
    assert f"does not see the board: {flag}: " in device.card().reason
    with pytest.raises(RefusedError, match=rf"no sensor to keep it \(.*{flag}\)"):
        work(order(bundle, budget_j=2.0, steps=100_000), bench, never)
    report = work(order(bundle, steps=12), bench, never)
    assert report.steps_done == 12
    known = {
        phase_energy.phase: phase_energy.energy_j
        for phase_energy in report.energy
        if phase_energy.phase is not Phase.IDLE
    }
    assert known
    assert set(known.values()) == {None}
    assert all(
        flag in phase_energy.flags
        for phase_energy in report.energy
        if phase_energy.covered_s or phase_energy.energy_j is None
    )


def test_a_round_that_had_begun_when_it_was_noticed_makes_no_step_with_it(wired_wrongly: tuple[Device, str]) -> None:
    device, _ = wired_wrongly
    meter = device.meter
    _until(lambda: device.refresh() or meter.identity.quality in FIXES)
    meter.start()
    meter.mark(Phase.TRAIN)
    allowance = Allowance(
        budget_j=2.0, deadline_s=60.0, reserve=device.reserve, spent_j=meter.spent_j, now_s=time.monotonic,
        stopping=never,
    )  # fmt: skip
    assert allowance.step() is StopReason.BUDGET


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.01)
