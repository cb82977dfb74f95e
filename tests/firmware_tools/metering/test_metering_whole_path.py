"""With no hardware, all that a user does with a bridge: build, flash, measure; pull the cable; open the port twice."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metering_bench import IMAGE

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.clock import SystemClock
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.recording.reader import Recording
from firmware_tools.bridge.machine.bootloader import find_optiboot
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.bridge.line import SerialTransport
from protos.energy.trace import Phase
from protos.errors import EdgejouleError, SensorError

TRUE_W = 3.85
HANG_S = 30.0
"""Longer than anything here takes; only a hang gets there."""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., FirmwareMachine]]:
    with contextlib.ExitStack() as stack:

        def begin(
            hex: Path | None = IMAGE, *, load: str = f"constant:{TRUE_W}", reset_on_open: bool = False, **fields
        ) -> FirmwareMachine:
            sensor = SensorSpec(load, shunt_ohm=0.02, noise_v=5e-6)
            spec = MachineSpec(hex, (sensor,), usb="frames", **fields)
            return stack.enter_context(
                FirmwareMachine.serve_pty(spec, tmp_path / "ttyINA", reset_on_open=reset_on_open)
            )

        yield begin


@pytest.fixture
def metered() -> Iterator[Callable[[FirmwareMachine], SensorMeter]]:
    with contextlib.ExitStack() as stack:

        def begin(machine: FirmwareMachine) -> SensorMeter:
            clock = SystemClock()
            sensor = bridge_sensor(str(machine.link), {"shunt": "0.02", "profile": "balanced"}, clock)
            sensor.open()
            meter = SensorMeter(sensor, clock)
            stack.callback(meter.close)
            return meter

        yield begin


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end_s, "the condition never came true"
        time.sleep(0.01)


def trained(meter: SensorMeter, seconds: float):
    """Figures of a phase of so many seconds."""
    meter.start()
    meter.mark(Phase.TRAIN)
    time.sleep(seconds)
    meter.mark(Phase.IDLE)
    return next(part for part in meter.settle(10.0) if part.phase is Phase.TRAIN)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.processes
def test_from_sources_through_a_bootloader_and_a_serial_port_to_joules(serve, tmp_path):
    """build -> avrdude -> Optiboot -> the flashed firmware streams -> pyserial -> joules."""
    for program in ("avr-gcc", "avrdude"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install gcc-avr avr-libc avrdude")
    try:
        optiboot = find_optiboot()
    except EdgejouleError as error:
        pytest.skip(str(error))
    built = run(sys.executable, "-m", "firmware_tools.cli", "bridge", "build", "--out", tmp_path / "image", "--json")
    assert built.returncode == 0, built.stderr
    image = json.loads(built.stdout)
    machine = serve(None, bootloader=optiboot, reset_on_open=True)
    port = machine.link
    flash = ["avrdude", "-p", "m328p", "-c", "arduino", "-P", port, "-b", "115200", "-D"]
    flashed = run(*flash, "-U", f"flash:w:{image['path']}:i")
    assert flashed.returncode == 0, flashed.stderr
    assert "verified" in flashed.stderr

    told = run(sys.executable, "-m", "firmware_tools.cli", "bridge", "info", "--port", port)
    assert told.returncode == 0, told.stderr
    assert image["build_id"] in told.stdout
    words = ["--sensor", f"serial:{port}?shunt=0.02&profile=energy", "--for", "2s", "--json"]
    measured = run(sys.executable, "-m", "edge_runtime.cli", "measure", *words)
    assert measured.returncode == 0, measured.stderr
    figures = json.loads(measured.stdout)
    assert figures["method"] == "measured"
    assert figures["flags"] == []
    assert figures["energy_j"] == pytest.approx(TRUE_W * figures["covered_s"], rel=0.0025)
    assert abs(figures["energy_j"] - TRUE_W * figures["duration_s"]) <= figures["uncertainty_j"]


def test_a_second_reader_is_refused_and_the_first_goes_on(serve, metered):
    machine = serve()
    meter = metered(machine)
    refusals = []

    def intrude() -> None:
        for _ in range(5):
            with pytest.raises(SensorError, match="in use by another program") as error:
                SerialTransport(str(machine.link))
            refusals.append(error.value.fix)
            time.sleep(0.05)

    intruder = threading.Thread(target=intrude)
    intruder.start()
    train = trained(meter, 0.6)
    intruder.join()
    assert refusals == ["stop that program, or choose another port"] * 5
    assert train.flags == ()
    assert train.energy_j == pytest.approx(TRUE_W * train.covered_s, rel=0.0025)


def test_a_cable_that_is_pulled_and_put_back_leaves_the_joules_of_the_silence(serve, metered):
    machine = serve()
    meter = metered(machine)
    meter.start()
    meter.mark(Phase.TRAIN)
    time.sleep(0.3)
    machine.unplug()
    until(lambda: not meter.sensor.link.connected)
    time.sleep(0.5)
    machine.replug()
    until(lambda: meter.sensor.losses.recovered_s > 0)
    meter.mark(Phase.IDLE)
    train = next(part for part in meter.settle(10.0) if part.phase is Phase.TRAIN)
    assert {"reconnected", "batches-lost", "recovered"} <= set(train.flags)
    assert train.coverage > 0.99
    assert train.energy_j == pytest.approx(TRUE_W * train.covered_s, rel=0.0025)
    assert trained(meter, 0.3).flags == ()


def test_a_restart_of_the_bridge_is_told_and_metering_goes_on(serve, metered):
    machine = serve()
    meter = metered(machine)
    meter.start()
    meter.mark(Phase.TRAIN)
    machine.reset("brown-out")
    until(lambda: meter.sensor.losses.restarts == 1)
    meter.mark(Phase.IDLE)
    (part,) = [part for part in meter.settle(10.0) if part.phase is Phase.TRAIN]
    assert "bridge-restarted" in part.flags
    again = trained(meter, 0.4)
    assert again.flags == ()
    assert again.energy_j == pytest.approx(TRUE_W * again.covered_s, rel=0.0025)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
from edge_runtime import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.processes
def test_a_disk_that_fills_ends_the_recording_and_not_the_measurement(serve, tmp_path):
    path = tmp_path / "run.ejr"
    sensor = f"serial:{serve(load='square:1,5,0.011').link}?shunt=0.02&profile=transient"
    words = ["measure", "--sensor", sensor, "--record", str(path), "--for", "4s", "--json"]
    done = run(sys.executable, "-c", LIMITED, *words)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert "recording-incomplete" in figures["flags"]
    assert figures["energy_j"] == pytest.approx(3.0 * figures["covered_s"], rel=0.03)
    kept = Recording(path).overview()
    assert not kept.damage
    assert kept.samples > 100
