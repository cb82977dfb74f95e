"""A device without work: its call is held, what happens here ends the call, and its sensor is read once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peer_coordinator import PeerCoordinator, order
from running_daemon import RunningDaemon

from edge_runtime.daemon import link
from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.meters.sensor_meter import SensorMeter
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge
from protos.bridge.line import SerialTransport
from protos.convert.orders import order_to
from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import WaitOrder


class Holding(PeerCoordinator):
    """Holds each call for an order as long as there is none."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.asked = self.cancelled = 0
        self.news = threading.Event()

    def NextOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        gone = threading.Event()
        context.add_callback(gone.set)
        self._note(lambda: setattr(self, "asked", self.asked + 1))
        while not self.orders and not gone.is_set() and request.session in self._known:
            self.news.wait(0.01)
        if gone.is_set():
            self._note(lambda: setattr(self, "cancelled", self.cancelled + 1))
        return super().NextOrder(request, context)


@pytest.fixture
def holding(bundle: Bundle) -> Iterator[Holding]:
    coordinator = Holding(bundle)
    yield coordinator
    coordinator.stop()


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_LOOK_S", 0.05)


def test_a_held_call_is_one_call_and_an_order_ends_it(
    holding: Holding, started: Callable[..., RunningDaemon], bundle: Bundle
) -> None:
    daemon = started(holding, max_rounds=1)
    holding.until(lambda: holding.asked == 1)
    # Looked after a hundred times meanwhile, and never asked again.
    threading.Event().wait(1.0)
    assert holding.asked == 1
    holding.orders.append(order(bundle, 1))
    daemon.end()
    assert holding.cancelled == 0
    assert len(holding.reports) == 1


def test_a_sensor_that_comes_while_a_call_is_held_is_told_at_once(
    holding: Holding, started: Callable[..., RunningDaemon], tmp_path: Path
) -> None:
    link_name = tmp_path / "ttyINA"
    daemon = started(holding, sensor=f"serial:{link_name}", exit_when_idle_s=None)
    holding.until(lambda: holding.asked >= 1 and len(holding.joins) >= 1)
    assert holding.joins[-1].meter.method == "unknown"
    with Bench([SimulatedBridge(BridgeSpec(link=link_name, load="constant:4.0"))]):
        holding.until(lambda: holding.joins[-1].meter.method == "measured")
        holding.until(lambda: holding.cancelled >= 1)
    daemon.stop()
    assert holding.leaves == ["test"]


def test_a_device_that_is_to_leave_when_idle_leaves_while_its_call_is_held(
    holding: Holding, started: Callable[..., RunningDaemon]
) -> None:
    started(holding, exit_when_idle_s=0.5).end()
    assert holding.leaves == ["done"]
    assert holding.asked == 1


class Counted(SerialTransport):
    """Counts the reads, each of which wakes the processor."""

    reads = 0

    def read(self) -> bytes:
        type(self).reads += 1
        return super().read()


@pytest.mark.parametrize("profile", ["energy", "balanced", "transient"])
def test_a_bridge_is_read_rarely_while_the_board_rests_and_no_sample_is_lost(tmp_path: Path, profile: str) -> None:
    bridge = SimulatedBridge(BridgeSpec(link=tmp_path / "ttyINA", load="constant:4.0", profile=profile))
    with Bench([bridge]):
        sensor = bridge_sensor(str(bridge.spec.link), {}, SystemClock(), opener=Counted)
        sensor.open()
        meter = SensorMeter(sensor, SystemClock())
        try:
            per_second = {}
            meter.start()
            for phase, seconds in ((Phase.IDLE, 6.0), (Phase.TRAIN, 3.0)):
                meter.mark(phase)
                begun, reads = sensor.covered_to_s, Counted.reads
                while sensor.covered_to_s < begun + seconds:
                    threading.Event().wait(0.02)
                per_second[phase] = (Counted.reads - reads) / (sensor.covered_to_s - begun)
            meter.mark(Phase.IDLE)
            parts = {phase_energy.phase: phase_energy for phase_energy in meter.settle()}
        finally:
            meter.close()
    # Of 1250 samples a second the kernel holds those of a quarter of a second only.
    assert per_second[Phase.IDLE] < (1.0 if profile == "transient" else 0.6) * per_second[Phase.TRAIN]
    if profile == "energy":
        assert per_second[Phase.IDLE] < 5.0
    assert sensor.losses.lost_batches == 0
    for part in parts.values():
        assert part.energy_j == pytest.approx(4.0 * part.covered_s, rel=0.03)
        assert part.coverage > 0.99


def test_a_held_call_is_as_long_as_the_coordinator_holds_it() -> None:
    from coordinator.server import run_scheduler

    assert run_scheduler.MOST_HOLD_S <= link.ORDER_S
    assert 86_400.0 / run_scheduler.MOST_HOLD_S <= 200.0


class Slowly(PeerCoordinator):
    """Knows of what comes in; answers that there is nothing to do come in for half a second."""

    waits = 0

    def Join(self, request: Any, context: Any) -> Any:  # noqa: N802
        answer = super().Join(request, context)
        answer.receive_known = True
        return answer

    def NextOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not self.orders:
            context.send_initial_metadata(())
            time.sleep(0.5)
            self._note(lambda: setattr(self, "waits", self.waits + 1))
            return order_to(WaitOrder(0.0, "nothing to do"))
        return super().NextOrder(request, context)


def test_a_run_is_not_charged_for_answers_that_came_in_while_there_was_none(
    bundle: Bundle, started: Callable[..., RunningDaemon]
) -> None:
    coordinator = Slowly(bundle)
    try:
        daemon = started(coordinator, max_rounds=1)
        coordinator.until(lambda: coordinator.waits >= 6)
        coordinator.orders.append(order(bundle))
        daemon.end()
        told = {part.phase: part for part in coordinator.read().energy}
    finally:
        coordinator.stop()
    came_in = told[Phase.RECEIVE]
    # The last of the answers may be on its way when the order is there.
    assert 0 < came_in.covered_s + came_in.uncovered_s < 3.0
