"""The bench of ``--hw-sim``: the bridge's real firmware in the simulated machine, behind a real pseudo-terminal.

What the machine has not, and a bench has, is here: a switch in the supply, a load that comes back with it, a board that
is blank until somebody flashes it, and a calibration.

A simulated machine goes before other work: one that waits for a core loses time, and says nothing of a bench.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.images.manifest import IMAGES, image_of
from firmware_tools.bridge.machine.bootloader import find_optiboot
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from hw_tests.bench.bench import Bench
from hw_tests.bench.load import Truth
from hw_tests.environment.environment import Environment
from protos.bridge.commands import calibration_command
from protos.energy.ina219 import Calibration
from protos.errors import EdgejouleError, UsageError

__all__ = ["SimulatedBench", "urgent"]

STEPS = 10
"""Of niceness."""


@contextmanager
def urgent() -> Iterator[None]:
    """What is started within goes before other work, where that is allowed; elsewhere nothing changes.

    Linux has a niceness for each thread, and a child takes that of the thread that starts it.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before - STEPS)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


CALIBRATION_ID = 0x51
MARKER_AHEAD_S = 0.05
"""A command to the machine takes a moment; the edge must lie ahead of it."""


class SimulatedBench(Bench):
    """A machine on a pseudo-terminal."""

    load: _SimulatedLoad
    power: _SimulatedPower

    def __init__(self, environment: Environment) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="edgejoule-bench-")
        super().__init__(environment, str(Path(self._folder.name) / "ttyINA"))
        self._simulation = environment.section("simulation")
        self._machine: FirmwareMachine | None = None
        self._slips_before = 0
        self._faults: set[str] = set()
        self._drawing, self._supplied, self._pulled = "constant:0", True, False
        self.load, self.power = _SimulatedLoad(self), _SimulatedPower(self)

    @property
    def machine(self) -> FirmwareMachine:
        """The machine that runs now.

        Raises:
            EdgejouleError: none does.
        """
        if self._machine is None:
            raise EdgejouleError("the simulated bench is closed", where=self.name)
        return self._machine

    # ---- what a bench does ----

    def disturbances(self) -> int:
        return self._slips_before + int(self.machine.status()["slips"])

    def fault(self, name: str, on: bool | float = True) -> None:
        self.diary.note(f"fault {name} {on}")
        self.machine.fault(name, on=on)
        self._faults.add(name)

    def marker(self, level: int) -> float:
        status = self.machine.status()
        at_s = float(status["now"]) + MARKER_AHEAD_S
        self.machine.marker(level, at_s=at_s)
        self.diary.note(f"marker {level} at {at_s:.6f} s of the machine")
        return at_s + float(status["epoch"])

    def brown_out(self) -> None:
        self.diary.note("brown-out of the bridge")
        self.machine.reset("brown-out")

    def unplug(self) -> None:
        self.diary.note("cable pulled")
        self.machine.unplug()
        self._pulled = True

    def replug(self) -> None:
        self.diary.note("cable put back")
        self.machine.replug()
        self._pulled = False

    def calm(self) -> None:
        faults, self._faults = self._faults - {"sensor-brown-out"}, set()  # that one is over when it has begun
        for name in sorted(faults):
            self.machine.fault(name, on=0)
        if self._pulled:
            self.replug()

    @contextmanager
    def blank_board(self) -> Iterator[None]:
        """Within, another machine stands here: Optiboot and an empty flash; it restarts when its port is opened.

        Raises:
            EdgejouleError: there is no Optiboot here, and it cannot be compiled.
        """
        bootloader = find_optiboot()
        self._end_machine()
        self.diary.note("a blank board with Optiboot")
        self._begin_machine(blank=bootloader)
        try:
            yield
        finally:
            self._end_machine()
            self._begin_machine()
            self._calibrate()

    def state(self) -> dict[str, Any]:
        try:
            machine: Any = self.machine.status()
        except EdgejouleError as gone:
            machine = str(gone)
        return {**super().state(), "machine": machine, "load": self._drawing}

    # ---- what load and switch need ----

    def draw(self, load: str) -> None:
        """From now on the load is this one, as soon as there is a supply."""
        self._drawing = load
        self._settle()

    def supply(self, on: bool) -> None:
        """Switch the supply of load and bridge."""
        if on == self._supplied:
            return
        self._supplied = on
        if on:
            self.machine.reset("power-on")
            self._settle()
            self.machine.replug()
            return
        with contextlib.suppress(EdgejouleError):  # one that has died is off
            self.machine.unplug()
            self._settle()

    @property
    def supplied(self) -> bool:
        return self._supplied and self._machine is not None

    def _settle(self) -> None:
        self.machine.set_load(self._drawing if self._supplied else "constant:0", sensor=self.sensor)

    # ---- life ----

    def _start(self) -> None:
        self._begin_machine()
        self._calibrate()

    def _stop(self) -> None:
        self._end_machine()
        self._folder.cleanup()

    def _begin_machine(self, *, blank: Path | None = None) -> None:
        given = self._simulation
        sensor = SensorSpec(
            self._drawing, shunt_ohm=given["shunt_ohm"], supply_v=given["supply_v"], noise_v=given["noise_v"],
            oscillator=given["oscillator"], offset_v=given["offset_v"], gain=given["gain"],
        )  # fmt: skip
        spec = MachineSpec(
            None if blank else IMAGES / image_of("atmega328p").file, (sensor,), bootloader=blank, seed=given["seed"],
            crystal_ppm=given["crystal_ppm"], usb=given["usb"],
        )  # fmt: skip
        self._supplied = True
        with urgent():
            self._machine = FirmwareMachine.serve_pty(spec, Path(self.port), reset_on_open=blank is not None)

    def _end_machine(self) -> None:
        machine, self._machine = self._machine, None
        self._faults.clear()
        if machine is not None:
            with contextlib.suppress(EdgejouleError):  # it has died: its slips do not count any more
                self._slips_before += int(machine.status()["slips"])
            machine.close()

    def _calibrate(self) -> None:
        """The record that a calibration without error would leave."""
        given = self._simulation
        gain_ppm = round((1 / (1 + given["gain"]) - 1) * 1e6)
        shunt_uohm = round(given["shunt_ohm"] * 1e6)
        record = Calibration(CALIBRATION_ID, shunt_uohm, round(given["offset_v"] * 1e9), gain_ppm)
        with BridgeClient(self.port, opener=self.wire.open) as client:
            client.hello(self.tolerance("hello_s"))
            client.tell(calibration_command(self.sensor, record))


class _SimulatedLoad:
    """A :class:`~hw_tests.bench.load.Load` whose joules are known in closed form."""

    def __init__(self, bench: SimulatedBench) -> None:
        self._bench = bench
        self._section = bench.environment.section("load")

    @property
    def steps_w(self) -> tuple[float, ...]:
        steps: tuple[float, ...] | None = self._section["steps_w"]
        return steps or (2.5,)

    def constant(self, power_w: float) -> None:
        self._set(f"constant:{power_w!r}")

    def square(self, low_w: float, high_w: float, period_s: float) -> None:
        self._set(f"square:{low_w!r},{high_w!r},{period_s!r}")

    def off(self) -> None:
        self._set("constant:0")

    def truth(self, begin_s: float, end_s: float) -> Truth:
        machine = self._bench.machine
        epoch_s = float(machine.status()["epoch"])
        if not begin_s <= end_s:
            raise UsageError("a time that ends before it begins", where="load.truth", fix="swap them")
        return Truth(machine.true_energy_j(begin_s - epoch_s, end_s - epoch_s, sensor=self._bench.sensor), 0.0)

    def _set(self, load: str) -> None:
        self._bench.diary.note(f"load {load}")
        self._bench.draw(load)
        time.sleep(self._section["settle_s"])


class _SimulatedPower:
    """A :class:`~hw_tests.bench.power.Power`: without supply the port is away; the bridge starts anew afterwards."""

    OFF_S = 0.3

    def __init__(self, bench: SimulatedBench) -> None:
        self._bench = bench

    @property
    def is_on(self) -> bool | None:
        return self._bench.supplied

    def on(self) -> None:
        self._bench.diary.note("power on")
        self._bench.supply(True)

    def off(self) -> None:
        self._bench.diary.note("power off")
        self._bench.supply(False)

    def cycle(self) -> None:
        self.off()
        time.sleep(self.OFF_S)
        self.on()
