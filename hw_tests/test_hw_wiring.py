"""The sensor sits in the line as it should: its own samples say so, in the range that holds every supply."""

from __future__ import annotations

import pytest

from edge_runtime.power.wiring import NO_CURRENT, WiringWatch
from protos.bridge.commands import REBOOT_KEY, Command, command
from protos.bridge.framing import encode_frame
from protos.energy.attribution import REVERSED
from protos.energy.ina219 import LEAST_BOARD_V
from protos.energy.trace import Phase

pytestmark = pytest.mark.needs("ina219-bridge")
MOST_V = 26.0
"""What an INA219 stands at its inputs."""


@pytest.mark.needs("known-load")
def test_samples_of_a_load_show_a_sensor_that_sees_it(bench, meter, load, clock, measure):
    load.constant(load.steps_w[-1])
    live = meter()
    clock.sleep(1.2)
    errors = live.sensor.errors()
    watch = WiringWatch(own_board=True)
    watch.see(live.sensor.trace(), (errors.offset_a + errors.current_step_a) * errors.supply_v)
    measure("bus voltage", live.sensor.track.bus_v, "V", limit=(LEAST_BOARD_V, MOST_V))
    assert live.meter.fault is None
    assert watch.fault is None
    reading = live.phase("wired right", 0.7)
    assert reading.energy.flags == ()
    assert reading.energy.energy_j is not None
    measure("power", reading.energy.energy_j / reading.energy.covered_s, "W", limit=(0.0, None))


@pytest.mark.needs("known-load", "fault-injection")
@pytest.mark.parametrize(
    ("fault", "word"),
    [("wires-swapped", REVERSED), ("minus-open", "bus-low"), ("low-side", "bus-low"), ("bypassed", NO_CURRENT)],
)
def test_a_wire_that_lies_is_told_and_joules_are_unknown_until_it_is_right(
    bench, meter, load, clock, measure, fault, word
):
    load.constant(load.steps_w[-1])
    bench.fault(fault)
    # What the bridge had in its buffer is of the right wire.
    clock.sleep(0.5)
    live = meter()
    clock.sleep(1.2)
    errors = live.sensor.errors()
    zero_w = (errors.offset_a + errors.current_step_a) * errors.supply_v
    watch = WiringWatch(own_board=True)
    watch.see(live.sensor.trace(), zero_w)
    assert watch.fault == word
    reading = live.phase(fault, 0.7)
    if word == NO_CURRENT:
        # Of a load that may be off nothing is wrong with no current; of the own board it is.
        assert reading.energy.energy_j is not None
        measure("share of the load seen", reading.energy.energy_j / reading.truth.energy_j, "1", limit=0.01)
    else:
        measure("flag told", word in reading.energy.flags, "1", limit=(1, 1))
        measure("joules known", reading.energy.energy_j is not None, "1", limit=(0, 0))
    bench.fault(fault, 0)
    mended_s = clock.monotonic()
    clock.until(lambda: live.heard_since(mended_s + 0.2), "a sample of the right wire")
    after = live.phase("wired right", 0.7)
    measure("error afterwards", after.error, "1", limit=bench.tolerance("constant_relative"))


def test_the_bus_range_is_32_volts_also_after_a_restart_of_the_bridge(meter, clock):
    live = meter()
    assert live.sensor.track.config.bus_range_32v
    restarts = live.sensor.losses.restarts
    live.sensor.link._transport.write(encode_frame(command(Command.REBOOT, REBOOT_KEY)))
    clock.until(lambda: live.sensor.losses.restarts > restarts, "the next boot")
    clock.until(lambda: live.sensor.session.settled, "the setting")
    assert live.sensor.track.config.bus_range_32v


def test_reading_rarely_while_the_board_rests_loses_nothing(bench, meter, clock, measure):
    live = meter()
    live.meter.start()
    lost = live.sensor.losses.lost_batches
    clock.sleep(5.0)
    live.meter.mark(Phase.TRAIN)
    live.meter.mark(Phase.IDLE)
    parts = {phase_energy.phase: phase_energy for phase_energy in live.meter.settle()}
    measure("batches lost", live.sensor.losses.lost_batches - lost, "1", limit=bench.tolerance("lost_batches"))
    measure("share of the rest covered", parts[Phase.IDLE].coverage, "1", limit=(0.99, 1.0))
