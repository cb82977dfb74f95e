"""Raw events of a bridge make the same samples again, to the last bit, however they are bundled."""

from __future__ import annotations

import random

import numpy as np
import pytest

from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.bridge.track import RegisterTrack
from edge_runtime.power.events import Batch, Block, Exchanged, Greeting, Realigned, Sums
from firmware_tools.bridge.simulator.loads import SquareLoad
from protos.bridge.hello import ResetCause


@pytest.fixture
def heard(clock, make_device, join):
    """Events of twelve seconds with damage and a restart, and the track that took them as they came."""
    track, events = RegisterTrack(), []

    def take(event):
        track.take(event)
        events.append(event)

    device = make_device(SquareLoad(2.0, 6.0, 0.013), profile="transient", drift_ppm=150.0)
    session = BridgeSession(0, take)
    line = join(device, session)
    source = random.Random(5)
    line.damage = lambda data: bytes(byte ^ (source.random() < 5e-4) for byte in data)
    for second in range(12):
        clock.advance(1.0)
        track.work()
        if second == 6:
            device.reboot(clock.now_s, ResetCause.WATCHDOG)
    return track, events


def test_the_events_of_a_damaged_line_replay_to_the_same_bits(heard):
    live, events = heard
    assert {type(event) for event in events} == {Greeting, Batch, Sums, Exchanged}
    assert live.lost_batches > 0
    again = RegisterTrack()
    for event in events:
        again.take(event)
    one, other = live.trace(), again.trace()
    assert len(one) > 12_000
    for name in ("start_s", "stop_s", "power_w", "flags"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert again.errors() == live.errors()
    assert (again.lost_batches, again.recovered_s) == (live.lost_batches, live.recovered_s)
    assert again.covered_to_s == pytest.approx(live.covered_to_s, abs=1e-3)


def test_batches_taken_one_by_one_or_together_are_the_same_samples(heard):
    _, events = heard
    tracks = [RegisterTrack(), RegisterTrack()]
    for event in events:
        for number, track in enumerate(tracks):
            track.take(event)
            if number:
                track.work()
    one, other = (track.trace() for track in tracks)
    assert np.array_equal(one.power_w, other.power_w)
    assert np.array_equal(one.stop_s, other.stop_s)


def test_blocks_and_realignments_tell_of_every_sample(heard):
    _, events = heard
    told = []
    track = RegisterTrack(told.append)
    known = 0
    for event in events:
        track.take(event)
        track.work()
        for one in told:
            known = len(track.trace()) if isinstance(one, Realigned) else known + len(one.trace)
        told.clear()
    assert known == len(track.trace())


def test_samples_before_the_first_exchange_wait_for_it(heard):
    _, events = heard
    told = []
    track = RegisterTrack(told.append)
    early = [event for event in events if not isinstance(event, Exchanged)][:20]
    for event in early:
        track.take(event)
    assert len(track.trace()) == 0
    assert told == []
    track.take(next(event for event in events if isinstance(event, Exchanged)))
    assert [type(event) for event in told] == [Realigned]
    assert len(track.trace()) > 0
    batch = next(event for event in events[200:] if isinstance(event, Batch))
    track.take(batch)
    track.work()
    assert isinstance(told[-1], Block)
