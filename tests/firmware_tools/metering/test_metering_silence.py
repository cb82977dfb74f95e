"""Figures that are asked for while the fault lasts, one sensor beside another, and how wide clock errors get."""

from __future__ import annotations

import pytest

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from firmware_tools.bridge.machine.driver import SensorSpec
from protos.energy.trace import Phase
from protos.errors import SensorError


@pytest.mark.parametrize(
    ("begin", "end", "flags"),
    [
        (lambda b: b.world.unplug(), lambda b: b.world.replug(), {"no-samples"}),
        (lambda b: b.machine.fault("absent"), lambda b: b.machine.fault("absent", on=False), {"no-samples"}),
    ],
    ids=["unplugged", "absent"],
)
def test_a_figure_asked_for_in_the_silence_is_none_and_the_next_is_good(bench, begin, end, flags):
    one = bench()
    one.spend(Phase.TRAIN, 1.0)
    begin(one)
    one.world.advance(1.0)
    one.settle()
    silent = one.spend(Phase.TRAIN, 3.0)
    assert silent.power_w is None
    assert silent.age_s > 3.0
    part = one.settle()[Phase.TRAIN]
    assert (part.energy_j, part.uncertainty_j, part.method, part.covered_s) == (None, None, "unknown", 0.0)
    assert flags <= set(part.flags)
    end(one)
    one.world.advance(1.5)
    one.settle()
    one.spend(Phase.TRAIN, 1.0)
    part = one.settle()[Phase.TRAIN]
    assert part.energy_j == pytest.approx(2.5, rel=1e-3)
    assert part.flags == ()


def test_one_sensor_that_is_absent_leaves_the_other_its_joules(bench):
    one = bench(SensorSpec("constant:2.5"), SensorSpec("constant:1", 0x41))
    one.machine.fault("absent", sensor=1)
    one.spend(Phase.TRAIN, 4.0)
    train = one.settle()[Phase.TRAIN]
    assert train.flags == ()
    assert train.energy_j == pytest.approx(10.0, rel=1e-3)


def test_a_sensor_that_is_absent_from_the_start_is_an_error_that_says_so(bench):
    one = bench(SensorSpec("constant:2.5"), SensorSpec("constant:1", 0x41))
    one.machine.fault("absent", sensor=1)
    one.world.advance(0.5)
    one.close()
    again = bridge_sensor("machine", {"sensor": "1"}, one.world, opener=one.world.opener)
    with pytest.raises(SensorError, match="sensor 1 gives no samples") as error:
        again.open()
    assert "wiring" in error.value.fix


def test_the_latency_timer_of_an_ftdi_chip_widens_the_line_sync_and_the_truth_stays_inside(bench):
    sync_j = {}
    for usb in ("none", "ftdi"):
        one = bench(SensorSpec("square:1,4,0.6,0.5"), profile="transient", usb=usb, crystal_ppm=80.0)
        one.spend(Phase.EMBED, 0.613)
        one.spend(Phase.TRAIN, 1.301)
        train = one.settle()[Phase.TRAIN]
        assert abs(train.energy_j - one.true_j(Phase.TRAIN)) <= train.uncertainty_j
        sync_j[usb] = next(term.standard_j for term in train.budget if term.name == "sync")
        one.close()
    assert sync_j["ftdi"] > sync_j["none"]


def test_the_same_seeds_give_the_same_figures_whatever_goes_wrong(bench):
    figures = []
    for _ in range(2):
        one = bench(SensorSpec("square:1,4,0.013", noise_v=5e-6), profile="transient")
        one.machine.fault("to-host-flip", on=2e-3)
        one.machine.fault("i2c-flip", on=1e-4)
        one.spend(Phase.TRAIN, 2.0)
        figures.append((one.settle()[Phase.TRAIN], one.sensor.losses))
        one.close()
    assert figures[0] == figures[1]
