"""One round with a real bundle on a board that is too hot at first: where the joules of the pauses go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from board_tree import BoardTree
from peer_coordinator import order
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.health.condition import Watch
from edge_runtime.health.limits import LEAST_PAUSE_S, Judge, Limits
from edge_runtime.health.pauses import Pauses
from edge_runtime.round.work import work
from protos.energy.trace import Phase
from protos.model.bundle import Bundle
from protos.orders import CodecOrder, StopReason

WATTS = {Phase.EMBED: 1.0, Phase.TRAIN: 2.0, Phase.ENCODE: 1.0, Phase.SEND: 3.0, Phase.IDLE: 0.5}
FULL = {"codec": CodecOrder("float32", {})}


class Rig:
    """A device on a virtual clock, on a board whose temperature follows a script of (from second, degrees)."""

    def __init__(self, device: Device, clock: VirtualClock, tree: BoardTree) -> None:
        self.device, self.clock, self.tree = device, clock, tree
        self.script: list[tuple[float, float]] = []
        tree.zone(40.0)
        tree.firmware(0)
        watch = Watch(tree.root, now_s=clock.monotonic, own_cpu_s=clock.process_time, load=False)
        limits = Limits(80.0, 75.0, None, 60.0)
        self.pauses = Pauses(Judge(limits), watch.look, now_s=clock.monotonic, wait=self._wait)

    def _wait(self, seconds: float) -> bool:
        self.clock.pass_(seconds)
        while self.script and self.clock.now_s >= self.script[0][0]:
            self.tree.zone(self.script.pop(0)[1])
        return False

    def work(self, bundle: Bundle, number: int = 1, **changes: Any) -> Any:
        bench = self.device.take_up(bundle)
        return work(order(bundle, number, **{**FULL, **changes}), bench, lambda: False, self.pauses)


@pytest.fixture
def rig(settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Rig]:
    clock = VirtualClock(0.01)
    device = Device(settings(), clock=clock, meter=ScriptedMeter(clock, WATTS))
    yield Rig(device, clock, BoardTree(tmp_path / "machine"))
    device.close()


def energy_j(report: Any) -> dict[Phase, float]:
    return {phase_energy.phase: phase_energy.energy_j for phase_energy in report.energy}


def test_a_pause_in_either_phase_is_idle_energy_and_the_work_costs_what_it_did(rig: Rig, bundle: Bundle) -> None:
    cool = rig.work(bundle)
    second = rig.work(bundle, 2)
    rig.tree.zone(85.0)
    rig.clock.pass_(1.0)
    rig.script = [(rig.clock.now_s + 20.0, 60.0)]
    hot = rig.work(bundle, 3)
    assert (hot.steps_done, hot.stop_reason) == (12, StopReason.COMPLETED)
    assert 20.0 <= hot.strain.heat_s <= 20.0 + LEAST_PAUSE_S
    assert hot.strain.hottest_c == 85.0
    before, after = energy_j(second), energy_j(hot)
    assert after[Phase.IDLE] >= hot.strain.heat_s * WATTS[Phase.IDLE]
    # Two looks at the clock more, at 10 ms each: no joule of the pause is in training.
    assert after[Phase.TRAIN] == pytest.approx(before[Phase.TRAIN], abs=0.3)
    assert hot.train_s == pytest.approx(second.train_s, abs=0.3)
    assert (cool.strain.heat_s, cool.strain.typical) == (0.0, True)


def test_a_hot_board_does_not_embed_either(rig: Rig, bundle: Bundle) -> None:
    rig.tree.zone(85.0)
    report = rig.work(bundle, deadline_s=600.0)
    assert (report.stop_reason, report.steps_done, report.embedded) == (StopReason.HEAT, 0, 0)
    assert report.strain.heat_s == pytest.approx(60.0, abs=1.0)
    assert energy_j(report)[Phase.EMBED] < 1.0
    rig.tree.zone(40.0)
    rig.clock.pass_(1.0)
    again = rig.work(bundle, 2)
    assert (again.stop_reason, again.steps_done, again.embedded) == (StopReason.COMPLETED, 12, 81)


def test_the_price_of_a_throttled_round_is_not_learnt(rig: Rig, bundle: Bundle) -> None:
    rig.tree.firmware(0x80008)
    report = rig.work(bundle)
    assert (report.strain.throttled, report.strain.typical) == (True, False)
    bench = rig.device.take_up(bundle)
    assert (bench.reserve.step_j, bench.reserve.embedding_j) == (None, None)
    rig.tree.firmware(0x80000)
    rig.clock.pass_(1.0)
    assert rig.work(bundle, 2).strain.typical
    assert bench.reserve.step_j is not None


def test_a_round_without_pauses_says_nothing_of_strain(rig: Rig, bundle: Bundle) -> None:
    rig.tree.zone(95.0)
    report = work(order(bundle, 1, **FULL), rig.device.take_up(bundle), lambda: False)
    assert (report.strain, report.steps_done) == (None, 12)
