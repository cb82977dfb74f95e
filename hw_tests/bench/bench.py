"""What tests see of a bench, whether it is metal or not."""

from __future__ import annotations

import abc
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_runtime.board import software_version
from firmware_tools.bridge.client.port_client import BridgeClient
from firmware_tools.bridge.client.wiretap import describe
from hw_tests.bench.diary import Diary
from hw_tests.bench.host_clock import HostClock
from hw_tests.bench.load import Load
from hw_tests.bench.power import Power
from hw_tests.bench.wire import Wire
from hw_tests.environment.environment import Environment
from protos.bridge.hello import Hello
from protos.errors import EdgejouleError, MismatchError, RefusedError, SensorError

__all__ = ["Bench", "Disturbed", "environment_facts"]

SHUNT_AGREES = 1e-3
"""How far the shunt of the environment file may be from the calibration's."""


READY_S = 5.0
"""Without a switch the port is there already, or a person is just plugging it in."""


class Disturbed(Exception):
    """A measurement that the computer was too slow for, again and again: it says nothing of the bench."""


class Bench(abc.ABC):
    """A bridge on a port, with whatever is around it. Made, opened, and closed in that order.

    Attributes:
        environment: what the file says.
        wire: opens the port, and keeps its last bytes.
        diary: what was done.
        load, power: None when the bench has none.
        clock: the host's.
    """

    load: Load | None = None
    power: Power | None = None

    def __init__(self, environment: Environment, port: str) -> None:
        self.environment, self.port = environment, port
        self.wire, self.diary, self.clock = Wire(port), Diary(), HostClock()
        self._first: Hello | None = None

    @property
    def name(self) -> str:
        return self.environment.name

    @property
    def simulated(self) -> bool:
        return self.environment.simulated

    def has(self, feature: str) -> bool:
        """Whether the environment lists it."""
        return feature in self.environment.features

    def tolerance(self, name: str) -> float:
        """A figure of the environment file; see :meth:`~hw_tests.environment.environment.Environment.tolerance`."""
        return self.environment.tolerance(name)

    def duration_s(self, name: str) -> float:
        """How long something is to last: a key of ``durations``."""
        return float(self.environment.section("durations")[name])

    @property
    def sensor(self) -> int:
        """Which sensor of the bridge is meant."""
        return int(self.environment.section("bridge")["sensor"])

    @property
    def profile(self) -> str:
        """Setting of the sensor for tests that ask for none."""
        return str(self.environment.section("bridge")["profile"])

    # ---- the bridge ----

    @contextmanager
    def bridge(self) -> Iterator[BridgeClient]:
        """The port, opened for this one reader.

        Raises:
            SensorError: the port does not open.
        """
        with BridgeClient(self.port, opener=self.wire.open) as client:
            yield client

    def hello(self) -> Hello:
        """Ask the bridge who it is.

        Raises:
            SensorError: nobody answers.
        """
        with self.bridge() as client:
            return client.hello(self.tolerance("hello_s"))

    def await_port(self) -> None:
        """Wait for the port's name to be there, as after the supply was switched on.

        Raises:
            SensorError: it does not come.
        """
        section = self.environment.sections["power"]
        ready_s = READY_S if section is None else float(section["ready_s"])
        until_s = self.clock.monotonic() + ready_s
        while not Path(self.port).exists():
            if self.clock.monotonic() >= until_s:
                what = f"no such port, after {ready_s:g} s"
                raise SensorError(what, where=self.port, fix="check cable, hub and the name below /dev/serial/by-id")
            self.clock.sleep(0.05)

    # ---- life ----

    def open(self) -> None:
        """Switch on, and wait for the bridge.

        Raises:
            EdgejouleError: the bench is not there, or is not the one of the file; it is closed then.
        """
        try:
            self._start()
            self._first = self.hello()
            self.diary.note(f"HELLO: {json.dumps(describe(self._first))}")
            self._check(self._first)
        except BaseException:
            try:
                self.close()
            except EdgejouleError as another:
                self.diary.note(f"and when it was closed: {another}")
            raise

    def close(self, *, keep_power: bool = False) -> None:
        """Switch off whatever happened before, and let go. Harmless when repeated.

        Args:
            keep_power: leave it on, for somebody who wants to look.
        """
        try:
            if self.power is not None and not keep_power and self.power.is_on is not False:
                self.power.off()
                self.diary.note("power is off")
        finally:
            self._stop()

    def keep(self, folder: Path) -> None:
        """Write down the state of the bench as it is: diary, last bytes, and what it says of itself."""
        folder.mkdir(parents=True, exist_ok=True)
        self.wire.save(folder)
        self.diary.save(folder / "bench.log")
        (folder / "state.json").write_text(json.dumps(self.state(), indent=1, default=str) + "\n")

    def facts(self) -> dict[str, Any]:
        """What a report of measurements must say of the bench, its bridge and the host."""
        hello = None if self._first is None else describe(self._first)
        return {**environment_facts(self.environment), "bridge": hello and _shown(hello)}

    def state(self) -> dict[str, Any]:
        """What can be said of the bench at this moment without asking the bridge."""
        return {"facts": self.facts(), "power_is_on": self.power.is_on if self.power else None}

    # ---- what only some benches can do ----

    def disturbances(self) -> int:
        """How often this computer was too slow to be a bench; always 0 where the bench is metal."""
        return 0

    def fault(self, name: str, on: bool | float = True) -> None:
        """Let something go wrong from now on: a name of the machine's FAULTS. Needs ``fault-injection``."""
        raise self._lacks("fault-injection")

    def calm(self) -> None:  # noqa: B027  a bench of metal has nothing to undo
        """Undo what a test has left: faults that go on, a cable that was pulled."""

    def marker(self, level: int) -> float:
        """Drive the marker input; the true instant of the edge on the host's clock. Needs ``marker``."""
        raise self._lacks("marker")

    def brown_out(self) -> None:
        """Let the bridge's supply sag until it restarts. Needs ``fault-injection``."""
        raise self._lacks("fault-injection")

    def unplug(self) -> None:
        """Pull the cable; the bridge keeps its supply. Needs ``fault-injection``."""
        raise self._lacks("fault-injection")

    def replug(self) -> None:
        """Put the cable back."""
        raise self._lacks("fault-injection")

    @contextmanager
    def blank_board(self) -> Iterator[None]:
        """Within, the board has its bootloader and nothing else, where a bench can do that; else it is as it was."""
        yield

    @abc.abstractmethod
    def _start(self) -> None:
        """Make the port be there."""

    @abc.abstractmethod
    def _stop(self) -> None:
        """Let go of all that :meth:`_start` took. Harmless when repeated."""

    def _check(self, hello: Hello) -> None:
        wanted = self.environment.section("bridge")["shunt_ohm"]
        if self.sensor >= len(hello.sensors):
            raise MismatchError(
                f"has {len(hello.sensors)} sensor(s), number {self.sensor} is meant", where=self.port,
                fix="correct x-edgejoule.bridge.sensor",
            )  # fmt: skip
        found = hello.sensors[self.sensor].calibration.shunt_uohm * 1e-6
        if wanted is not None and abs(found / wanted - 1) > SHUNT_AGREES:
            raise MismatchError(
                f"its calibration has a shunt of {found:g} ohm, the environment {wanted:g}", where=self.port,
                fix="this is another bridge, or it was never calibrated: firmware-tools bridge info",
            )  # fmt: skip

    def _lacks(self, feature: str) -> RefusedError:
        return RefusedError(f"bench {self.name} lacks {feature}", fix=f'mark the test @needs("{feature}")')


def environment_facts(environment: Environment) -> dict[str, Any]:
    """What a report must say of a session before any bridge has answered."""
    return {
        "bench": environment.name,
        "simulated": environment.simulated,
        "environment": {"file": environment.path.name, "sha256": environment.digest},
        "features": sorted(environment.features),
        "host": {
            "kernel": platform.release(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "edgejoule": software_version(),
        },
    }


def _shown(hello: dict[str, Any]) -> dict[str, Any]:
    return {
        "firmware": ".".join(map(str, hello["firmware"])),
        "protocol": ".".join(map(str, hello["protocol"])),
        "build": hello["build"],
        "uid": hello["uid"],
        "boot": hello["boot"],
        "boots": hello["boots"],
        "calibrations": [f"{sensor['calibration']['id']:08x}" for sensor in hello["sensors"]],
    }
