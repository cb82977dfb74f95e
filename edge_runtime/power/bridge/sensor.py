"""An INA219 serial bridge as a sensor: the port's thread, the dialogue, and the samples that come of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from edge_runtime.power.audience import Audience
from edge_runtime.power.bridge.link import BridgeLink
from edge_runtime.power.bridge.samples import CAPACITY
from edge_runtime.power.bridge.session import BridgeRequest, BridgeSession, Losses, since
from edge_runtime.power.bridge.track import RegisterTrack
from edge_runtime.power.clock import Clock
from edge_runtime.power.events import RawEvent, Trouble
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.sensor import Capabilities, Listener
from protos.bridge.hello import Feature
from protos.bridge.line import Opener, SerialTransport
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel

__all__ = ["BridgeSensor"]

log = logging.getLogger(__name__)


class BridgeSensor:
    """A :class:`edge_runtime.power.sensor.PowerSensor`, method ``measured``.

    Args:
        path: serial port.
        sensor: index of the sensor on the bridge.
        clock: the host's clock.
        wanted: settings to ask for.
        opener: makes a transport from a path.
        capacity: samples stored before the oldest give way.
        handshake: what :meth:`open` waits for; raises SensorError when it does not come.
    """

    def __init__(
        self,
        path: str,
        *,
        sensor: int = 0,
        clock: Clock,
        wanted: BridgeRequest | None = None,
        opener: Opener = SerialTransport,
        capacity: int = CAPACITY,
        handshake: Callable[[BridgeSensor], None],
    ) -> None:
        self.path, self.index, self.clock = path, sensor, clock
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._audience = Audience()
        self._handshake = handshake
        self.track = RegisterTrack(self._audience.tell, capacity=capacity)
        self.session = BridgeSession(sensor, self._take, wanted)
        self.link = BridgeLink(
            path, self.session, lock=self._lock, news=self._news, clock=clock, opener=opener, work=self._work
        )
        self._flagged = Losses()
        self._told = Losses()

    @property
    def identity(self) -> MeterIdentity:
        with self._lock:
            calibration = self.track.calibration
        return MeterIdentity(
            "measured",
            f"ina219:{self.path}#{self.index}",
            f"{calibration.id:08x}" if calibration.id else "none",
            "calibrated" if calibration.id else "uncalibrated",
        )

    @property
    def capabilities(self) -> Capabilities:
        with self._lock:
            hello, config = self.session.hello, self.track.config
        return Capabilities(
            rate_hz=1.0 / config.period_s,
            timestamps="device",
            signed=True,
            raw_shunt=True,
            accumulates=True,
            markers=hello is not None and bool(hello.features & Feature.MARKER),
        )

    @property
    def shunt_known(self) -> bool:
        """Whether anybody said what the shunt is."""
        with self._lock:
            return self.track.shunt_known

    @property
    def lock(self) -> threading.RLock:
        return self._lock

    @property
    def losses(self) -> Losses:
        """What was lost or damaged since the port was first opened."""
        with self._lock:
            trouble = self.track.trouble
            return replace(
                self.session.losses,
                lost_batches=self.track.lost_batches,
                recovered_s=self.track.recovered_s,
                bus_errors=trouble.bus_errors,
                sensor_restarts=trouble.restarts,
                sensor_losses=trouble.losses,
                damaged_commands=trouble.damaged_commands,
            )

    @property
    def covered_to_s(self) -> float:
        with self._lock:
            return self.track.covered_to_s

    @property
    def incomplete(self) -> bool:
        with self._lock:
            # The sums come behind the samples, and tell of trouble as well.
            return self.track.incomplete or self.session.expects_sums

    @property
    def nearly_full(self) -> bool:
        with self._lock:
            return self.track.nearly_full

    def open(self) -> None:
        """Open the port, and wait for the handshake and the first sample. Raises SensorError."""
        self.link.open()
        try:
            self._handshake(self)
        except BaseException:
            self.close()
            raise

    def request(self) -> None:
        self._news.clear()
        self.link.request_flush()

    def relax(self, relaxed: bool) -> None:
        self.link.relax(relaxed)

    def wait_for_news(self, timeout_s: float) -> None:
        self.link.attend()
        self.clock.wait(self._news, timeout_s)
        self._news.clear()

    def trace(self) -> PowerTrace:
        with self._lock:
            return self.track.trace()

    def forget_before(self, host_s: float) -> None:
        with self._lock:
            self.track.forget_before(host_s)

    def errors(self) -> ErrorModel:
        with self._lock:
            return self.track.errors()

    def flags(self) -> tuple[str, ...]:
        with self._lock:
            before, self._flagged = self._flagged, self.losses
            return _words(since(self._flagged, before))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        with self._lock:
            return self._audience.add(listener, self.session.greeting)

    def close(self) -> None:
        self.link.close()

    def _take(self, event: RawEvent) -> None:
        """An event of the session; the reading thread holds the lock."""
        self.track.take(event)
        self._audience.tell(event)

    def _work(self) -> None:
        """All bytes of one read are in; the reading thread holds the lock."""
        self.track.work()
        now = self.losses
        if now != self._told:
            before, self._told = self._told, now
            for word in _words(since(now, before)):
                self._audience.tell(Trouble(self.clock.monotonic(), word))


def _words(lost: Losses) -> tuple[str, ...]:
    """Words for what happened."""
    counts = {
        "bridge-restarted": lost.restarts,
        "bridge-changed": lost.other_bridges,
        "reconnected": lost.reconnects,
        "batches-lost": lost.lost_batches,
        "sensor-lost": lost.sensor_losses,
        "sensor-restarted": lost.sensor_restarts,
        "bus-errors": lost.bus_errors,
        "line-errors": lost.damaged_frames + lost.strange_messages + lost.damaged_commands,
    }
    return tuple(word for word, count in counts.items() if count)
