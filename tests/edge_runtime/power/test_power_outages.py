"""A line that was dead for any time: what comes afterwards is in its place, what was lost is counted and recovered.

The bridge is in closed form, so that hours cost nothing: batch k has its registers, its ticks and the sums up to it by
formula. Everything goes through the real framing, session and track, and the host's own commands are answered.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_runtime.power.bridge.alignment import Alignment
from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.bridge.track import RegisterTrack
from protos.bridge.commands import Command, decode_command
from protos.bridge.exchange import Exchange
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello, SensorRecord
from protos.bridge.messages import Samples, Stats, SyncReply, decode
from protos.energy.attribution import integrate
from protos.energy.ina219 import PROFILES, Calibration, watts

BATCH = 16
BUS = np.full(BATCH, (1250 << 3) | 2, np.uint16)
SHUNTS = [np.full(BATCH, 700 + 90 * step, np.int16) for step in range(7)]
CALIBRATION = Calibration(9, 20_000)
WATTS = [float(watts(shunt[:1], BUS[:1], CALIBRATION)[0]) for shunt in SHUNTS]
BORN_S = 500.0
FIRST_TICK = 2_000_000
WRAP = 1 << 16


class FormulaBridge:
    """A sensor whose batches follow each other without pause, ``sample_us`` a sample, from ``FIRST_TICK`` on."""

    def __init__(self, sample_us: int) -> None:
        self.batch_us = BATCH * sample_us
        self.dt_us = np.full(BATCH, sample_us, np.int64)
        self._heard = FrameParser()

    def tick(self, batch: int) -> int:
        return FIRST_TICK + batch * self.batch_us

    def host_s(self, batch: int) -> float:
        return BORN_S + self.tick(batch) * 1e-6

    def joules(self, first: int, last: int) -> float:
        """Of batches first..last - 1."""
        laps, rest = divmod(last - first, len(WATTS))
        turns = laps * sum(WATTS) + sum(WATTS[(first + n) % len(WATTS)] for n in range(rest))
        return turns * self.batch_us * 1e-6

    def samples(self, batch: int) -> bytes:
        shunt = SHUNTS[batch % len(SHUNTS)]
        t0 = self.tick(batch) & 0xFFFFFFFF
        return encode_frame(Samples(0, 3, batch & 0xFFFF, 0, 2, t0, self.dt_us, shunt, BUS).encode())

    def stats(self, batches: int) -> bytes:
        laps, rest = divmod(batches, len(SHUNTS))
        raw = [int(shunt[0]) for shunt in SHUNTS]
        charge = (laps * sum(raw) + sum(raw[:rest])) * self.batch_us
        time = batches * self.batch_us
        now = self.tick(batches)
        return encode_frame(
            Stats(
                0, 3, batches & 0xFFFF, now + 40, now, batches * BATCH, time, charge, 1250 * time, 1250 * charge
            ).encode()
        )

    def hello(self, batches: int) -> bytes:
        record = SensorRecord(0x40, PROFILES["balanced"].config.register(), 0, CALIBRATION)
        return encode_frame(Hello((0, 2, 0), 3, self.tick(batches) + 50, 2, (record,), uid=b"formula!").encode())

    def obey(self, commands: bytes, batches: int) -> bytes:
        out = b""
        for payload in self._heard.feed(commands):
            kind, values = decode_command(payload)
            if kind is Command.GET_HELLO:
                out += self.hello(batches)
            elif kind is Command.SYNC:
                out += encode_frame(SyncReply(3, values[0], self.tick(batches) + 10, self.tick(batches) + 10).encode())
            elif kind is Command.FLUSH:
                out += self.stats(batches)
        return out


class World:
    """A bridge, a line that is alive or not, and the host."""

    def __init__(self, sample_us: int) -> None:
        self.bridge, self.track = FormulaBridge(sample_us), RegisterTrack()
        self.session = BridgeSession(0, self.track.take)
        self.at = 0
        self.stats_each = max(1, round(1e6 / self.bridge.batch_us))
        self.session.receive(b"\x00" + self.bridge.hello(0), self.bridge.host_s(0))

    def run(self, batches: int) -> None:
        for _ in range(batches):
            self.at += 1
            now_s = self.bridge.host_s(self.at) + 1e-4
            said = self.bridge.samples(self.at - 1)
            if self.at % self.stats_each == 0:
                said += self.bridge.stats(self.at)
            self.session.receive(said, now_s)
            commands = self.session.due(now_s)
            if commands:
                self.session.receive(self.bridge.obey(commands, self.at), now_s)
        self.track.work()


def outage(sample_us: int, length: int, *, reopened: bool = False) -> World:
    """A line that was dead for ``length`` batches, and alive for some STATS before and after."""
    world = World(sample_us)
    alive = max(30, 5 * world.stats_each // 2)
    world.run(alive)
    world.at += length
    if reopened:
        world.session.opened(again=True)
    world.run(alive)
    return world


def check(sample_us: int, length: int, reopened: bool) -> None:
    about = f"{length} batches of {BATCH * sample_us} us lost, reopened: {reopened}"
    world = outage(sample_us, length, reopened=reopened)
    bridge, track = world.bridge, world.track
    # The host is up to date again: nothing is waited for, and nothing was put elsewhere.
    assert track.covered_to_s == pytest.approx(bridge.host_s(world.at), abs=0.01), about
    assert not track.incomplete, about
    assert track.lost_batches == length, about
    trace = track.trace().disjoint()
    (energy_j,), (covered_s,) = integrate(trace, [bridge.host_s(0), bridge.host_s(world.at)])
    assert covered_s == pytest.approx(world.at * bridge.batch_us * 1e-6, rel=1e-5, abs=2e-4), about
    assert energy_j == pytest.approx(bridge.joules(0, world.at), rel=1e-4, abs=1e-3), about
    assert trace.stop_s.max() == pytest.approx(track.covered_to_s, abs=1e-3), about


RATES = {"energy": 9524, "balanced": 5181, "transient": 800, "both wraps at once": 4096}
"""Microseconds a sample. With 4096, 65,536 batches of 16 are 2^32 ticks: sequence and ticks repeat together."""


def edges() -> list[int]:
    """Lengths about each half wrap of the sequence, up to two wraps and a little."""
    return sorted({max(1, half * WRAP // 2 + off) for half in range(5) for off in (-61, -3, -1, 0, 1, 2, 16, 62)})


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("rate", RATES)
def test_an_outage_of_any_length_up_to_two_wraps_is_bridged(rate, reopened):
    # A prime step meets every residue of what repeats; the slow test leaves no length out.
    for length in [*edges(), *range(1, 2 * WRAP + 200, 1499)]:
        check(RATES[rate], length, reopened)


@pytest.mark.parametrize("rate", RATES)
def test_an_outage_about_each_half_wrap_of_the_ticks_is_bridged(rate):
    batch_us = BATCH * RATES[rate]
    for half in range(1, 5):
        middle = half * (1 << 31) // batch_us
        for length in range(middle - 8, middle + 9):
            check(RATES[rate], length, False)


@pytest.mark.slow
@pytest.mark.parametrize("rate", RATES)
def test_an_outage_of_every_single_length_up_to_two_wraps_is_bridged(rate):
    for length in range(1, 2 * WRAP + 70):
        check(RATES[rate], length, length % 2 == 1)


def test_two_outages_that_share_one_statistics_are_both_counted():
    world = outage(5181, WRAP + 7)
    world.at += 3 * WRAP - 5
    world.run(60)
    assert world.track.lost_batches == 4 * WRAP + 2
    (energy_j,), _ = integrate(world.track.trace(), [world.bridge.host_s(0), world.bridge.host_s(world.at)])
    assert energy_j == pytest.approx(world.bridge.joules(0, world.at), rel=1e-4)


def test_a_sensor_that_was_silent_for_a_whole_wrap_of_ticks_has_lost_nothing():
    world = World(5181)
    world.run(60)
    bridge = world.bridge
    pause_us = (1 << 32) + 1_000_000
    # STATS go on each second, with the sums of before; the sequence too.
    (payload,) = FrameParser().feed(b"\x00" + bridge.stats(60))
    told = decode(payload)
    assert isinstance(told, Stats)
    for second in range(pause_us // 1_000_000):
        tick = told.tick + second * 1_000_000
        said = encode_frame(replace(told, tick=tick).encode())
        world.session.receive(said, BORN_S + tick * 1e-6)
    t0 = (bridge.tick(60) + pause_us) & 0xFFFFFFFF
    late = Samples(0, 3, 60, 0, 2, t0, bridge.dt_us, SHUNTS[60 % 7], BUS)
    now = bridge.tick(61) + pause_us
    world.session.receive(encode_frame(late.encode()), BORN_S + now * 1e-6)
    time = 61 * bridge.batch_us
    closing = replace(told, tick=now, end=now, seq=61, samples=61 * BATCH, time=time)
    world.session.receive(encode_frame(closing.encode()), BORN_S + now * 1e-6)
    world.track.work()
    assert world.track.lost_batches == 0
    assert world.track.recovered_s == 0
    assert world.track.trace().stop_s[-1] == pytest.approx(BORN_S + now * 1e-6, abs=0.3)


def test_a_batch_that_came_twice_counts_once_also_after_an_outage():
    world = outage(5181, WRAP // 2 + 100)
    lost, samples = world.track.lost_batches, len(world.track.trace())
    for back in (1, 2, 3):
        world.session.receive(world.bridge.samples(world.at - back), world.bridge.host_s(world.at))
    world.run(30)
    assert world.track.lost_batches == lost
    assert len(world.track.trace()) == samples + 30 * BATCH


def test_a_clock_fit_over_an_outage_of_a_month_stays_small_and_good():
    alignment, rate = Alignment(), 1 - 60e-6
    month_s = 30 * 86400.0
    for at_s in [*np.arange(0.0, 120.0, 0.5), *np.arange(month_s, month_s + 30.0, 0.5)]:
        tick = round(at_s / rate * 1e6)
        alignment.add(Exchange(at_s + BORN_S - 1e-4, tick, tick, at_s + BORN_S + 1e-4))
    fit = alignment.fit
    assert fit is not None
    # Each minute without an exchange would be a column of its own: 43,200 of them, 15 GB.
    assert len(fit.bends) < 10
    newest = round((month_s + 29.0) / rate * 1e6)
    assert fit.host_s(np.array([newest]))[0] == pytest.approx(BORN_S + month_s + 29.0, abs=2e-4)
