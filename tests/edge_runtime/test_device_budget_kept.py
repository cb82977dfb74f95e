"""A budget is kept, sending included: real rounds on a virtual clock whose every piece of work takes known time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from peer_coordinator import order
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.round.work import energy_of, work
from protos.energy.trace import Phase
from protos.model.backbone import Backbone
from protos.model.bundle import Bundle
from protos.orders import CostHint, StopReason

WATTS = {Phase.EMBED: 3.0, Phase.TRAIN: 4.0, Phase.ENCODE: 3.0, Phase.SEND: 2.0, Phase.IDLE: 0.5}
EXAMPLE_S, STEP_S, SEND_S = 0.02, 0.05, 0.4
# 81 examples cost 4.86 J; a step 0.2 J; sending 0.8 J.
HINT = CostHint(embedding_j=0.06, step_j=0.2, sending_j=0.85, work_w=4.0)


class Steady:
    """A device whose work takes known seconds, with a little noise.

    Attributes:
        busy: share of the time in which another program has half of the processor: work then takes twice as long. It
            comes and goes in stretches of 0.4 to 2 s, within a piece of work too.
    """

    busy = 0.0

    def __init__(self, device: Device, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
        self.device, self.bundle, self.noise = device, bundle, noise
        self.random = np.random.default_rng(5)
        self._stretch: list[float] = []
        self.bench = device.take_up(bundle)
        self.meter: Any = device.meter
        train_step, embed = self.bench.head.train_step, Backbone.embed
        monkeypatch.setattr(self.bench.head, "train_step", self._slow(train_step, lambda x, *_: STEP_S))
        monkeypatch.setattr(Backbone, "embed", self._slow(embed, lambda _, raw: EXAMPLE_S * len(raw)))

    def _slow(self, real: Callable[..., Any], seconds: Callable[..., float]) -> Callable[..., Any]:
        def slow(*given: Any, **named: Any) -> Any:
            self._pass(seconds(*given))
            return real(*given, **named)

        return slow

    def _pass(self, seconds: float) -> None:
        left_s = seconds * (1 + self.noise * self.random.uniform(-1, 1))
        while left_s > 1e-12:
            if not self._stretch:
                whole_s = self.random.uniform(0.4, 2.0)
                self._stretch = [self.busy * whole_s, (1 - self.busy) * whole_s]
            slowdown = 2.0 if len(self._stretch) == 2 else 1.0
            takes_s = min(left_s * slowdown, self._stretch[0])
            self.device.clock.pass_(takes_s)  # type: ignore[attr-defined]
            left_s -= takes_s / slowdown
            self._stretch[0] -= takes_s
            if self._stretch[0] <= 1e-12:
                self._stretch.pop(0)

    def round(self, number: int, budget_j: float, hint: CostHint | None = None) -> tuple[Any, float]:
        """A round, sent as the daemon sends it; gives the report and all joules but those of idling."""
        report = work(order(self.bundle, number, steps=500, budget_j=budget_j, costs=hint), self.bench, lambda: False)
        self.meter.mark(Phase.SEND)
        self._pass(SEND_S)
        self.meter.mark(Phase.IDLE)
        sent_j = energy_of(self.meter.settle(), Phase.SEND)
        self.device.reserve.sent(sent_j, SEND_S)
        assert sent_j is not None
        return report, sent_j + sum(
            phase_energy.energy_j for phase_energy in report.energy if phase_energy.phase is not Phase.IDLE
        )


@pytest.fixture
def steady(
    settings: Callable[..., Settings], bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Steady]]:
    devices: list[Device] = []

    def make(noise: float = 0.0) -> Steady:
        clock = VirtualClock(0.0)
        devices.append(Device(settings(), clock=clock, meter=ScriptedMeter(clock, WATTS)))
        return Steady(devices[-1], bundle, monkeypatch, noise)

    yield make
    for device in devices:
        device.close()


@pytest.mark.parametrize("budget_j", [1.0, 1.5, 3.0, 7.0])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_no_round_passes_its_budget_by_more_than_a_twentieth(
    steady: Callable[..., Steady], budget_j: float, noise: float
) -> None:
    device = steady(noise)
    spent = [device.round(number, budget_j, HINT) for number in range(1, 17)]
    assert max(joules for _, joules in spent) <= 1.05 * budget_j
    report, joules = spent[-1]
    if budget_j >= 1.5:
        assert report.steps_done > 0
        assert joules > 0.75 * budget_j, "and it is not left unused"
    else:
        assert report.stop_reason is StopReason.BUDGET


def test_a_step_that_would_not_leave_enough_for_sending_is_not_made(steady: Callable[..., Steady]) -> None:
    device = steady()
    for number in range(1, 8):
        device.round(number, 7.0, HINT)
    # 0.96 J are kept for sending: one step of 0.2 J fits under 1.17 J, and none under 1.15 J.
    assert device.round(8, 1.17)[0].steps_done == 1
    report, joules = device.round(9, 1.15)
    assert report.steps_done == 0
    assert joules <= 1.15


def test_what_a_restart_knows_is_kept_from_the_first_round_on(
    steady: Callable[..., Steady], settings: Callable[..., Settings]
) -> None:
    first = steady()
    for number in range(1, 6):
        first.round(number, 7.0, HINT)
    first.device.close()
    report, joules = steady().round(1, 2.0)
    assert report.steps_done == 5, "(2 - 0.96) / 0.2, without any hint"
    assert joules <= 2.0


def test_without_any_knowledge_one_piece_is_tried_and_the_next_round_knows(steady: Callable[..., Steady]) -> None:
    device = steady()
    first = device.round(1, 1.5)[1]
    later = [device.round(number, 1.5)[1] for number in range(2, 6)]
    assert max(later) <= 1.05 * 1.5
    assert first >= max(later), "only the first round can be wrong about sending"


@pytest.mark.parametrize("busy", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("budget_j", [5.0, 8.0])
def test_no_round_passes_its_budget_while_other_programs_come_and_go(
    steady: Callable[..., Steady], budget_j: float, busy: float
) -> None:
    """Two calm rounds, then forty beside a program that takes half of the processor for this share of the time."""
    device = steady(0.1)
    for number in (1, 2):
        device.round(number, budget_j, HINT)
    # The program begins with a round. One that begins for the first time while a report is sent is not foreseen.
    device.busy = busy
    device._stretch.clear()
    spent = [device.round(number, budget_j, HINT) for number in range(3, 43)]
    assert max(joules for _, joules in spent) <= 1.05 * budget_j
    assert all(report.steps_done > 0 for report, _ in spent), "and it goes on"
