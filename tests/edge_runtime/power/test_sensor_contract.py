"""What holds for every power sensor, whatever stands behind it."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
from sensor_rigs import RIGS, TRUE_W, Rig

from edge_runtime.power.clock import SystemClock
from edge_runtime.power.events import Block
from edge_runtime.power.meters.sensor_meter import SensorMeter
from protos.energy.attribution import attribute, integrate
from protos.energy.trace import Mark, Phase
from protos.errors import SensorError, UsageError


@pytest.fixture(params=sorted(RIGS))
def rig(request, tmp_path, plug_in):
    with contextlib.ExitStack() as stack:
        yield RIGS[request.param](tmp_path, stack, plug_in)


@pytest.fixture
def opened(rig: Rig):
    """The sensor of the rig, open; closed at the end."""
    sensor = rig.make()
    sensor.open()
    yield sensor
    sensor.close()


def wait_until_covered(sensor, to_s: float) -> None:
    """Ask until samples are known up to ``to_s``; gives up after a time that only a hang would take."""
    end = time.monotonic() + 20.0
    while sensor.covered_to_s < to_s:
        assert time.monotonic() < end, "no samples come"
        sensor.request()
        sensor.wait_for_news(0.05)


def test_it_says_who_it_is_before_and_after_it_is_open(rig, opened):
    identity = opened.identity
    assert identity.method == "measured"
    assert identity.sensor == rig.name
    assert identity.quality == rig.quality
    assert identity.calibration_id == rig.calibration_id
    assert rig.make().identity.method == "measured"
    capabilities = opened.capabilities
    assert capabilities.rate_hz > 0
    assert capabilities.timestamps in ("device", "kernel", "host")


def test_an_open_sensor_has_a_sample_and_they_follow_each_other(opened):
    assert opened.covered_to_s > float("-inf")
    wait_until_covered(opened, time.monotonic() + 0.15)
    trace = opened.trace()
    assert len(trace) >= 2
    assert np.isfinite(trace.start_s).all()
    assert (trace.stop_s > trace.start_s).all()
    # A new clock fit may move two boots of a bridge against each other, never the samples of one.
    assert (trace.start_s[1:] >= trace.stop_s[:-1] - 1e-9).all()
    assert trace.stop_s[-1] <= time.monotonic() + opened.errors().sync_s + 1e-3
    assert opened.covered_to_s == pytest.approx(trace.stop_s[-1], abs=5e-3)
    if opened.capabilities.timestamps == "device":
        # Dither and lost time move single samples, not the middle one.
        assert 1.0 / np.median(np.diff(trace.start_s)) == pytest.approx(opened.capabilities.rate_hz, rel=0.25)


def test_the_joules_of_a_known_load_are_within_their_stated_uncertainty(rig, opened):
    for _ in range(20):
        begin_s = opened.covered_to_s
        wait_until_covered(opened, begin_s + 0.4)
        end_s = opened.covered_to_s
        (part,) = attribute(opened.trace(), [Mark(begin_s, Phase.TRAIN)], end_s, errors=opened.errors())
        if part.coverage > 0.999:
            break  # else this computer was busy elsewhere, and a polled sensor missed samples
    assert part.coverage > 0.999
    assert part.uncertainty_j is not None
    truth_j = rig.truth_j(begin_s, end_s)
    assert abs(part.energy_j - truth_j) <= part.uncertainty_j
    assert part.uncertainty_j < 0.35 * truth_j


def test_a_meter_over_it_gives_joules_by_phase_in_its_name(rig):
    sensor = rig.make()
    sensor.open()
    meter = SensorMeter(sensor, SystemClock())
    try:
        meter.start()
        assert meter.settle() == ()
        for _ in range(20):
            meter.mark(Phase.TRAIN)
            time.sleep(0.3)
            spent_j = meter.spent_j()
            meter.mark(Phase.IDLE)
            parts = {part.phase: part for part in meter.settle()}
            train = parts[Phase.TRAIN]
            if train.coverage > 0.999:
                break  # else this computer was busy elsewhere, and a polled sensor missed samples
        assert spent_j > 0.3 * TRUE_W * 0.9
        assert (train.method, train.sensor, train.flags) == ("measured", rig.name, ())
        assert train.coverage > 0.99
        assert train.covered_s + train.uncovered_s >= 0.3
        # A counter that moves late moves joules over the marks.
        assert train.energy_j == pytest.approx(TRUE_W * train.covered_s, abs=train.uncertainty_j + 0.05 * TRUE_W)
        assert meter.identity == sensor.identity
        assert meter.power_w >= 0
        assert meter.peak_w >= TRUE_W * 0.95
        assert meter.spent_j() == pytest.approx(0.0, abs=1e-6)
    finally:
        meter.close()


def test_while_its_source_is_silent_nothing_is_invented_and_nobody_takes_its_place(rig, opened):
    wait_until_covered(opened, time.monotonic())
    opened.flags()
    identity = opened.identity
    rig.stall()
    time.sleep(0.25)
    known_to_s = opened.covered_to_s
    for _ in range(3):
        opened.request()
        opened.wait_for_news(0.05)
    assert opened.covered_to_s == known_to_s
    assert known_to_s < time.monotonic()
    assert opened.identity == identity
    time.sleep(0.3)
    rig.restore()
    back_s = time.monotonic()
    wait_until_covered(opened, back_s + 0.1)
    end_s = opened.covered_to_s
    assert opened.identity == identity
    if opened.capabilities.accumulates:
        # The joules of the silence are there, also when its samples are not.
        end = time.monotonic() + 20.0
        while opened.incomplete or integrate(opened.trace(), [known_to_s, back_s])[1][0] < (back_s - known_to_s) * 0.97:
            assert time.monotonic() < end, "the energy of the silence never came"
            opened.request()
            opened.wait_for_news(0.05)
        (energy_j,), (covered_s,) = integrate(opened.trace(), [known_to_s, back_s])
        assert energy_j == pytest.approx(TRUE_W * covered_s, rel=0.05)
    else:
        _, (covered_s,) = integrate(opened.trace(), [known_to_s, end_s])
        assert covered_s < end_s - known_to_s - 0.3
    (energy_j,), (covered_s,) = integrate(opened.trace(), [known_to_s, end_s])
    assert energy_j == pytest.approx(TRUE_W * covered_s, rel=0.05, abs=0.05 * TRUE_W)


def test_a_silence_is_flagged_once(rig, opened):
    opened.flags()
    rig.stall()
    time.sleep(0.3)
    rig.restore()
    wait_until_covered(opened, time.monotonic() + 0.1)
    if rig.name != "iio:ina219/buffer":  # a buffer without records looks like a slow sensor: a gap, no error
        assert "reconnected" in opened.flags()
    opened.flags()
    assert opened.flags() == ()


def test_where_there_is_none_the_error_says_what_to_do(rig):
    sensor = rig.absent()
    with pytest.raises(SensorError) as caught:
        sensor.open()
    assert caught.value.where
    assert caught.value.fix
    assert "\n" not in str(caught.value)
    sensor.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("power:")]


def test_an_unknown_option_is_refused_before_anything_is_touched(rig):
    with pytest.raises(UsageError, match="colour"):
        rig.make(colour="red")


def test_closing_twice_is_harmless_and_what_was_stored_can_be_read(rig, opened):
    opened.close()
    opened.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("power:")]
    count = len(opened.trace())
    assert count > 0
    assert opened.errors().supply_v > 0
    assert opened.identity.sensor == rig.name
    again = rig.make()
    again.open()
    again.close()
    assert len(opened.trace()) == count


def test_what_is_forgotten_is_gone_and_the_rest_stays(opened):
    wait_until_covered(opened, time.monotonic() + 0.2)
    with opened.lock:
        trace = opened.trace()
        middle_s = float(trace.stop_s[len(trace) // 2])
        opened.forget_before(middle_s)
        left = opened.trace()
    assert len(left) == (trace.stop_s > middle_s).sum()
    assert (left.stop_s > middle_s).all()
    assert opened.covered_to_s >= trace.stop_s[-1] - 5e-3


def test_listeners_hear_every_sample_once_and_a_faulty_one_is_left_out(opened, caplog):
    heard, calls = [], []

    def faulty(event):
        calls.append(event)
        raise RuntimeError("of no account")

    with opened.lock:
        opened.forget_before(float("inf"))
        leave = opened.subscribe(lambda event: heard.append(event))
        opened.subscribe(faulty)
    wait_until_covered(opened, time.monotonic() + 0.3)
    with opened.lock:
        blocks = [event.trace for event in heard if isinstance(event, Block)]
        assert sum(len(block) for block in blocks) == len(opened.trace())
        assert np.array_equal(np.concatenate([block.power_w for block in blocks]), opened.trace().power_w)
        leave()
        leave()
        count = len(heard)
    wait_until_covered(opened, time.monotonic() + 0.1)
    assert len(heard) == count
    assert len(calls) == 1
    assert "is left out" in caplog.text


def test_many_threads_may_ask_it_at_once(opened):
    failures = []
    stop = threading.Event()

    def hammer() -> None:
        try:
            while not stop.is_set():
                trace = opened.trace()
                assert len(trace.start_s) == len(trace.power_w)
                opened.errors()
                opened.flags()
                opened.request()
                opened.forget_before(opened.covered_to_s - 0.1)
                assert opened.identity.method == "measured"
                stop.wait(1e-3)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until_covered(opened, time.monotonic() + 0.3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {field.name for field in fields(opened.capabilities)} >= {"rate_hz", "markers"}
