"""The device's own meter on the simulated machine: real firmware, real session, virtual time."""

from __future__ import annotations

import pytest
from machine_host import IMAGE
from machine_transport import MachineWorld

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.bridge.commands import calibration_command
from protos.bridge.framing import encode_frame
from protos.energy.ina219 import Calibration
from protos.energy.trace import Phase
from protos.errors import SensorError


def begin(machine: FirmwareMachine, *, seed: int = 0) -> MachineWorld:
    """Boot, and give the sensor its shunt."""
    machine.step(0.3)
    machine.send(encode_frame(calibration_command(0, Calibration(5, 20_000))))
    machine.step(0.5)
    return MachineWorld(machine, seed=seed)


def measure(world: MachineWorld) -> tuple[list[float], float]:
    """Joules of 1 s idle and 0.8 s of training as the device reports them, and the true ones of the training."""
    sensor = bridge_sensor("machine", {"profile": "transient"}, world, opener=world.opener)
    sensor.open()
    meter = SensorMeter(sensor, world)
    try:
        meter.start()
        world.advance(1.0)
        first_s = world.monotonic()
        meter.mark(Phase.TRAIN)
        world.advance(0.8)
        last_s = world.monotonic()
        meter.mark(Phase.IDLE)
        world.advance(0.2)
        phases = {phase.phase: phase for phase in meter.settle()}
    finally:
        meter.close()
    return [phases[kind].energy_j for kind in (Phase.IDLE, Phase.TRAIN)], world.true_energy_j(first_s, last_s)


def test_a_phase_costs_what_the_load_drew(start):
    machine = start(SensorSpec("square:1,3,0.13"), crystal_ppm=150.0)
    (_, train_j), true_j = measure(begin(machine))
    assert train_j == pytest.approx(true_j, rel=0.01)


def test_the_same_seeds_give_the_same_joules(start):
    results = []
    for usb_seed in (1, 1, 2):
        spec = MachineSpec(IMAGE, (SensorSpec("square:1,3,0.13", noise_v=5e-6),), seed=9)
        with FirmwareMachine.start(spec) as machine:
            results.append(measure(begin(machine, seed=usb_seed)))
    assert results[0] == results[1]
    assert results[0] != results[2], "another run of USB delays is another clock fit"


def test_a_port_that_is_pulled_and_put_back_goes_on(start):
    world = begin(start(SensorSpec("constant:2")))
    sensor = bridge_sensor("machine", {}, world, opener=world.opener)
    sensor.open()
    try:
        world.advance(1.0)
        world.unplug()
        world.advance(0.5)
        with pytest.raises(SensorError, match="no such"):
            world.opener("machine")
        world.replug()
        world.advance(3.0)
        assert sensor.covered_to_s > world.monotonic() - 0.5
    finally:
        sensor.close()
