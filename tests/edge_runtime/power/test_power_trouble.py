"""What a bridge counts of its sensor's trouble becomes words, once; and a power that is old is not the power of now."""

from __future__ import annotations

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.bridge.link import SAY_EACH_S, SAY_MOST_S, BridgeLink
from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.bridge.stream import BELIEVED_US, SensorStream, SensorTrouble
from edge_runtime.power.bridge.track import RegisterTrack
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.meters.sensor_meter import STALE_S, SensorMeter
from firmware_tools.bridge.simulator.loads import ConstantLoad
from protos.bridge.messages import Samples, Stats
from protos.energy.ina219 import Calibration, Config
from protos.energy.trace import Phase

STATS = Stats(0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
WORKING, ABSENT, FAILING = 0, 1, 2
counters = st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=10).map(sorted)


def stream() -> SensorStream:
    return SensorStream(Calibration(1, 20_000), Config(), 0)


@given(counters, counters, counters)
def test_counters_add_up_from_the_first_that_was_heard(errors, restores, damaged):
    one = stream()
    rows = list(zip(errors, restores, damaged, strict=False))
    for number, (i2c, restored, rx) in enumerate(rows):
        one.stats(replace(STATS, seq=number, i2c_errors=i2c, restores=restored, rx_errors=rx))
    told = one.trouble
    spans = [last - first for first, last in zip(rows[0], rows[-1], strict=True)]
    assert [told.bus_errors, told.restarts, told.damaged_commands] == spans
    assert told.losses == 0


def test_a_sensor_is_lost_each_time_it_falls_silent_not_each_time_it_is_heard_of():
    one = stream()
    for state in (ABSENT, ABSENT, FAILING, WORKING, WORKING, FAILING):
        one.stats(replace(STATS, state=state))
    assert one.trouble == SensorTrouble(losses=2)


def test_while_the_sums_that_were_asked_for_are_on_their_way_nothing_is_complete(clock, make_device, join):
    track = RegisterTrack()
    session = BridgeSession(0, track.take)
    join(make_device(ConstantLoad(4.0)), session)
    session.opened(again=False)
    clock.advance(2.0)
    assert not session.expects_sums
    session.flush_wanted = True
    clock.advance(1e-3)
    assert session.expects_sums
    clock.advance(0.1)
    assert not session.expects_sums
    session.flush_wanted = True
    clock.advance(1e-3)
    session.opened(again=True)
    assert not session.expects_sums, "what was asked at a port that went away is not answered"


def test_watts_grow_old(plug_in):
    """A bridge on a real terminal, and a meter whose clock can be put forward."""

    class Late(SystemClock):
        by_s = 0.0

        def monotonic(self) -> float:
            return super().monotonic() + self.by_s

    late = Late()
    sensor = bridge_sensor(str(plug_in().spec.link), {}, SystemClock())
    sensor.open()
    meter = SensorMeter(sensor, late)
    try:
        meter.mark(Phase.TRAIN)
        assert meter.power_w is not None
        late.by_s = STALE_S + 1.0
        assert meter.power_w is None
        assert meter.spent_j() > 0
    finally:
        meter.close()


def test_trouble_that_repeats_itself_is_told_twice_as_rarely_each_time_and_anew_after_silence(caplog):
    now_s = 0.0
    link = SimpleNamespace(
        _clock=SimpleNamespace(monotonic=lambda: now_s), _path="/dev/x", _said_s=float("-inf"), _say_each_s=SAY_EACH_S
    )
    told = []
    with caplog.at_level(logging.WARNING):
        for second in range(0, 20 * int(SAY_MOST_S), 30):
            now_s, before = float(second), len(caplog.records)
            BridgeLink._say(link, "port lost")
            told += [second] if len(caplog.records) > before else []
        gaps = np.diff(told).tolist()
        doubled = [min(SAY_MOST_S, SAY_EACH_S * 2**turn) for turn in range(1, len(gaps) + 1)]
        # The first of all is told at once, and after silence.
        assert gaps == doubled
        now_s += 3 * SAY_MOST_S
        for wait_s in (0.0, SAY_EACH_S, 2 * SAY_EACH_S):
            before = len(caplog.records)
            now_s += wait_s
            BridgeLink._say(link, "port lost")
            told.append(len(caplog.records) - before)
    assert told[-3:] == [1, 0, 1]


def test_samples_that_arrived_are_not_taken_for_lost_ones_however_long_the_bridges_sums_stayed_away():
    """40,000 batches came since the last sums, more than half a wrap of their numbers, and then one was lost."""
    one = SensorStream(Calibration(1, 20_000), Config(), 0, batch=1)
    count, each_us = 40_000, 1000
    ones = np.ones(1, np.int64)
    one.stats(STATS)
    dt_us, shunt, bus = ones * each_us, ones.astype(np.int16), ones.astype(np.uint16)
    one.samples([Samples(0, 1, number, 0, 0, number * each_us, dt_us, shunt, bus) for number in range(count)])
    end = (count + 1) * each_us
    one.stats(replace(STATS, seq=count + 1, tick=end, end=end, samples=count + 1, time=end))
    assert one.lost_batches == 1


def test_what_comes_after_the_bridges_sums_begins_where_they_end():
    one, each = stream(), np.ones(1, np.int64)
    batch = Samples(0, 1, 0, 0, 0, 0, each * 1000, each.astype(np.int16), each.astype(np.uint16))
    later_us = 100 * BELIEVED_US
    assert one.samples([batch]) is not None
    one.stats(replace(STATS, seq=1, tick=later_us, end=later_us, samples=1, time=1000))
    assert one.samples([replace(batch, seq=1, t0=later_us)]) is not None
    assert not one.has_holes
