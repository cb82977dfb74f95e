"""What a power sensor is, whatever stands behind it: samples in host time, with what one must know to believe them.

A sensor owns its thread. It stores samples and tells its listeners; it knows nothing of phases, marks or windows. Those
are the affair of :class:`edge_runtime.power.meters.sensor_meter.SensorMeter`, which works over any sensor. One contract
suite (``tests/edge_runtime/power/test_sensor_contract.py``) holds for all of them.

Host time is CLOCK_MONOTONIC in seconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from edge_runtime.power.events import Event
from edge_runtime.power.meters.meter import MeterIdentity
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel

__all__ = ["Capabilities", "Listener", "PowerSensor", "Relaxes"]

Listener = Callable[[Event], None]
"""Called by the sensor's thread with its lock held: be quick, never wait, never raise."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a sensor can do.

    Args:
        rate_hz: nominal samples a second.
        timestamps: whose clock stamps a sample: the device's own, the kernel's at the interrupt or read, or the
            host program's after the read.
        signed: sees current that flows back.
        raw_shunt: listeners get raw registers, not only watts.
        accumulates: a lost sample loses no energy.
        markers: has a marker input.
    """

    rate_hz: float
    timestamps: Literal["device", "kernel", "host"]
    signed: bool = False
    raw_shunt: bool = False
    accumulates: bool = False
    markers: bool = False


class PowerSensor(Protocol):
    """Samples in host time. Every method may be called by any thread."""

    @property
    def identity(self) -> MeterIdentity:
        """Who measures, with which calibration."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do, as set now."""
        ...

    @property
    def lock(self) -> threading.RLock:
        """Guards the stored samples. Hold it to look at several things of one instant; listeners run under it."""
        ...

    def open(self) -> None:
        """Begin to sample; returns when the first sample is there, its host time known.

        Raises:
            SensorError: it is not there, not ours to open, in use, silent, or not what was asked for.
        """
        ...

    def request(self) -> None:
        """Ask for the samples up to now; returns at once. They come as news."""
        ...

    def wait_for_news(self, timeout_s: float) -> None:
        """Wait until something arrived since the last wait or request, ``timeout_s`` at most."""
        ...

    @property
    def covered_to_s(self) -> float:
        """Host time up to which samples are known; -inf before the first."""
        ...

    @property
    def incomplete(self) -> bool:
        """Whether samples before ``covered_to_s`` are missing, or the answer to a request, that may still come."""
        ...

    @property
    def nearly_full(self) -> bool:
        """Whether the store is about to drop its oldest samples: sum them up, and forget them."""
        ...

    def trace(self) -> PowerTrace:
        """Every stored sample, with the newest clock fit."""
        ...

    def forget_before(self, host_s: float) -> None:
        """Drop samples that ended by ``host_s``."""
        ...

    def errors(self) -> ErrorModel:
        """Limits of the errors of this chain, now."""
        ...

    def flags(self) -> tuple[str, ...]:
        """Words for what went wrong since this was last asked, such as ``reconnected``; empty when nothing did."""
        ...

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell ``listener`` every event from now on; returns what ends that.

        Events that stand for the present state (a bridge's greeting) are told at once, so that a recording that
        begins late can be read by itself.
        """
        ...

    def close(self) -> None:
        """Let go of the source. Harmless when repeated; what is stored can still be read."""
        ...


@runtime_checkable
class Relaxes(Protocol):
    """A sensor whose reading costs the processor that is measured, and that can do with less while nobody waits."""

    def relax(self, relaxed: bool) -> None:
        """From now on read rarely, or as ever. No sample is lost either way, and a request is answered as quickly."""
        ...
