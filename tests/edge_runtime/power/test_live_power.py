"""What a board sends while somebody looks: every sample once, however slow the line, and nothing when nobody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from edge_runtime.power import live
from edge_runtime.power.audience import Audience
from edge_runtime.power.events import Block, Realigned
from edge_runtime.power.live import MOST_BINS, LivePower
from protos.energy.bins import BIN_S, PowerBins
from protos.energy.trace import PowerTrace


class ToldSensor:
    """A sensor whose blocks a test tells; it has what :class:`LivePower` asks of one."""

    def __init__(self) -> None:
        self.lock, self.audience, self.requests = threading.RLock(), Audience(), 0

    def subscribe(self, listener: Callable[..., None]) -> Callable[[], None]:
        return self.audience.add(listener)

    def request(self) -> None:
        self.requests += 1

    def tell(self, from_s: float, to_s: float, power_w: float = 3.0) -> None:
        edges = np.linspace(from_s, to_s, round((to_s - from_s) / 0.005) + 1)
        with self.lock:
            self.audience.tell(Block(PowerTrace.of(edges[:-1], edges[1:], np.full(len(edges) - 1, power_w))))
            self.audience.tell(Realigned())


class Line:
    """Where bins go; it answers when it is let."""

    def __init__(self) -> None:
        self.sent: list[PowerBins] = []
        self.reasons: list[tuple[str, bool]] = []
        self.wanted, self.free = True, threading.Event()
        self.free.set()

    def send(self, bins: PowerBins, reason: str, ends: bool) -> bool:
        self.sent.append(bins)
        self.reasons.append((reason, ends))
        self.free.wait(20)
        return self.wanted


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.005)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ToldSensor, Line, LivePower]]:
    monkeypatch.setattr(live, "EACH_S", 0.01)
    sensor, line = ToldSensor(), Line()
    power = LivePower(lambda: sensor, lambda: "", line.send, line.free.set)  # type: ignore[arg-type, return-value]
    try:
        yield sensor, line, power
    finally:
        power.close()
        assert not power.is_on
        assert not sensor.audience._listeners


def begun(sensor: ToldSensor, power: LivePower) -> None:
    power.begin()
    until(lambda: sensor.audience._listeners)


def energy_j(sent: list[PowerBins]) -> float:
    return sum(float(one.mean_w @ one.covered_s) for one in sent)


def test_each_bin_is_sent_once_also_those_that_two_blocks_make(rig: tuple[ToldSensor, Line, LivePower]) -> None:
    sensor, line, power = rig
    assert sensor.requests == 0
    assert not sensor.audience._listeners
    begun(sensor, power)
    for at in range(40):
        sensor.tell(10 + 0.03 * at, 10 + 0.03 * (at + 1), 3.0 + at % 2)
        time.sleep(0.004)
    until(lambda: sum(len(one) for one in line.sent) == 60)
    parts = [one for one in line.sent if len(one)]
    firsts = np.concatenate([part.first_s + BIN_S * np.arange(len(part)) for part in parts])
    np.testing.assert_allclose(firsts, 10 + BIN_S * np.arange(60))
    assert energy_j(parts) == pytest.approx(40 * 0.03 * 3.5)
    power.begin()
    assert len([one for one in threading.enumerate() if one.name == "live watts"]) == 1
    line.wanted = False
    until(lambda: not power.is_on)
    assert not sensor.audience._listeners
    count = len(line.sent)
    sensor.tell(20, 21)
    assert len(line.sent) == count


def test_what_a_slow_line_keeps_waiting_comes_in_longer_bins_with_its_burst(
    rig: tuple[ToldSensor, Line, LivePower],
) -> None:
    sensor, line, power = rig
    line.free.clear()
    begun(sensor, power)
    until(lambda: line.sent)
    sensor.tell(10, 40)
    sensor.tell(40, 40.1, 70.0)
    sensor.tell(40.1, 60)
    line.free.set()
    until(lambda: any(len(one) for one in line.sent))
    (one,) = [one for one in line.sent if len(one)]
    assert len(one) <= MOST_BINS
    assert one.bin_s == pytest.approx(5 * BIN_S)
    assert energy_j([one]) == pytest.approx(49.9 * 3.0 + 0.1 * 70.0)
    assert one.high_w.max() == 70.0


def test_after_a_night_of_silence_it_begins_where_the_sensor_is_now(rig: tuple[ToldSensor, Line, LivePower]) -> None:
    """A sensor that comes back, or whose clock is fitted anew: no bin is made for every moment of the night."""
    sensor, line, power = rig
    begun(sensor, power)
    # A sample that reaches into the next bin is kept for it.
    sensor.tell(10, 10.99)
    until(lambda: any(len(one) for one in line.sent))
    before = len(line.sent)
    sensor.tell(40_000, 40_001, 5.0)
    until(lambda: any(len(one) for one in line.sent[before:]))
    (late,) = [one for one in line.sent[before:] if len(one)]
    assert late.first_s > 40_001 - 300
    assert len(late) <= MOST_BINS
    assert late.bin_s < 1.0, "what is seen is not smeared over hours"
    assert late.mean_w.max() == pytest.approx(5.0)


def test_without_a_sensor_the_reason_is_sent_and_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "EACH_S", 0.01)
    line, troubles = Line(), ["", "the port is in use"]
    power = LivePower(lambda: None, lambda: troubles.pop(0), line.send, line.free.set)
    for _ in range(2):
        power.begin()
        until(lambda: not power.is_on)
    assert line.reasons == [("no sensor measures this board", True), ("the port is in use", True)]
    power.close()
    power.begin()
    assert not power.is_on, "what is closed does not begin again"
