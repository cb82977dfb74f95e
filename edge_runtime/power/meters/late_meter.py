"""The meter of a sensor that need not be there: nobody waits for it, and it may go and come back.

A bridge that is not plugged in, or boots more slowly than the board, must not keep the device from its work. Until the
sensor answers, and while it is gone, the method is ``unknown``; then it is the sensor's. The change is made in
:meth:`LateMeter.refresh`, which the owner calls between two rounds: no round has two methods.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable
from dataclasses import replace

from edge_runtime.power.clock import Clock
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.meters.unmetered import UnknownMeter
from edge_runtime.power.sensor import PowerSensor
from edge_runtime.power.wiring import explained
from edge_runtime.systemd.logging_setup import log
from protos.energy.trace import Phase, PhaseEnergy
from protos.errors import EdgejouleError

__all__ = ["GONE_S", "LateMeter"]

GONE_S = 10.0
"""A sensor without a sample for so long is gone."""
ABSENT_EACH_S = 2.0
"""How often a port that is not there is looked for; that disturbs nobody."""
SILENT_EACH_S, SILENT_MOST_S = 5.0, 300.0
"""How often one is opened that is there and does not answer, at first and at most: opening may reset a board."""
_ABSENT = (errno.ENOENT, errno.ENXIO, errno.ENODEV, errno.ENOTDIR)


class LateMeter:
    """A :class:`edge_runtime.power.meters.meter.Meter` over a sensor that is opened by a thread of its own.

    Args:
        name: of the sensor, as the settings have it.
        make: a new sensor that is not open yet.
        clock: the host's clock.
    """

    def __init__(self, name: str, make: Callable[[], PowerSensor], clock: Clock) -> None:
        self._name, self._make, self._clock = name, make, clock
        self._without = UnknownMeter(clock)
        self._absent = MeterIdentity("unknown", name, "none", "none")
        self._with: SensorMeter | None = None
        self._gone = False
        self._fault: str | None = None
        self._expected_w: float | None = None
        self._trouble = ""
        self._stop, self.tried = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._opened: PowerSensor | None = None
        self._thread = threading.Thread(target=self._open, name=f"power:{name}", daemon=True)

    @property
    def identity(self) -> MeterIdentity:
        """Who measures, as of the last :meth:`refresh`."""
        if self._with is None:
            return self._absent
        found = self._with.identity
        return replace(found, method="unknown") if self._gone else found

    @property
    def sensor(self) -> PowerSensor | None:
        """The sensor that measures, or measured last; None before there was one. Any thread may ask."""
        found = self._with
        return found.sensor if found is not None else None

    @property
    def trouble(self) -> str:
        """Why the method is unknown, in one line; empty when the sensor measures."""
        if self._with is None:
            return self._trouble
        if self._gone:
            return f"sensor {self._name} gives no samples any more"
        fault = self._with.fault
        return f"sensor {self._name} does not see the board: {explained(fault)}" if fault is not None else ""

    def refresh(self) -> None:
        """Take up a sensor that was opened meanwhile, and see whether the one that was there still is."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            self._with = SensorMeter(opened, self._clock, own_board=True)
            self._with.start()
            self._with.expect(self._expected_w)
            self._gone = False
            log().info("sensor %s measures", self._name)
        elif self._with is not None:
            gone = self._clock.monotonic() - self._with.sensor.covered_to_s > GONE_S
            if gone != self._gone:
                self._gone = gone
                (log().warning if gone else log().info)(
                    "sensor %s %s", self._name, "is gone: energy is unknown until it is back" if gone else "is back"
                )
        self._say_fault()

    def _say_fault(self) -> None:
        """Log what is wrong with the wires when it changes."""
        fault = self._with.fault if self._with is not None else None
        if fault != self._fault:
            self._fault = fault
            if fault is None:
                log().info("sensor %s sees the board", self._name)
            else:
                log().warning("%s; energy is unknown until it is right", self.trouble)

    def start(self) -> None:
        self._current.start()
        if self._thread.ident is None:
            self._thread.start()

    def mark(self, phase: Phase) -> None:
        self._current.mark(phase)

    def spent_j(self) -> float | None:
        return self._current.spent_j()

    def await_samples(self, timeout_s: float) -> None:
        """Wait until samples reach past the last mark, so long at most; not at all without a sensor."""
        if self._with is not None:
            self._with.await_samples(timeout_s)

    def settle(self, timeout_s: float = 2.0) -> tuple[PhaseEnergy, ...]:
        return self._current.settle(timeout_s)

    def expect(self, power_w: float | None) -> None:
        self._expected_w = power_w
        if self._with is not None:
            self._with.expect(power_w)

    @property
    def power_w(self) -> float | None:
        return self._with.power_w if self._with is not None else None

    @property
    def peak_w(self) -> float | None:
        return self._with.peak_w if self._with is not None else None

    def close(self) -> None:
        self._stop.set()
        with self._lock:
            opened, self._opened = self._opened, None
        for one in (self._with, opened):
            if one is not None:
                one.close()
        # One that is just being opened closes what it gets.
        if self._thread.is_alive():
            self._thread.join(0.5)

    @property
    def _current(self) -> SensorMeter | UnknownMeter:
        return self._with if self._with is not None else self._without

    def _open(self) -> None:
        wait_s = SILENT_EACH_S
        while not self._stop.is_set():
            try:
                sensor = self._make()
                sensor.open()
            except (EdgejouleError, OSError) as error:
                self._note(str(error))
                self.tried.set()
                absent = getattr(error.__cause__, "errno", None) in _ABSENT
                self._clock.wait(self._stop, ABSENT_EACH_S if absent else wait_s)
                wait_s = SILENT_EACH_S if absent else min(SILENT_MOST_S, 2 * wait_s)
                continue
            with self._lock:
                if not self._stop.is_set():
                    self._opened, sensor = sensor, None  # type: ignore[assignment]
            self.tried.set()
            if sensor is not None:
                sensor.close()
            return

    def _note(self, trouble: str) -> None:
        # Figures in a message differ from one try to the next; that is no news.
        if re.sub(r"\d+", "0", trouble) != re.sub(r"\d+", "0", self._trouble):
            self._trouble = trouble
            log().warning("%s; energy is unknown until the sensor answers", trouble)
