"""What a sensor tells its listeners: samples in host time, and, from a bridge, everything that they were made of.

The raw events of a bridge, given in their order to a :class:`edge_runtime.power.bridge.track.RegisterTrack`, make the
same samples again. Recordings hold them.
"""

from __future__ import annotations

from dataclasses import dataclass

from protos.bridge.exchange import Exchange
from protos.bridge.hello import Hello
from protos.bridge.messages import Marker, Samples, Stats
from protos.energy.trace import PowerTrace

__all__ = ["Batch", "Block", "Edge", "Event", "Exchanged", "Greeting", "RawEvent", "Realigned", "Sums", "Trouble"]


@dataclass(frozen=True, slots=True)
class Block:
    """New samples in host time, in order. Every sensor tells them; a bridge with its clock fit of this moment."""

    trace: PowerTrace


@dataclass(frozen=True, slots=True)
class Realigned:
    """The trace now has samples that no :class:`Block` told, or at other times: read it anew."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something went wrong at ``at_s``: a word such as ``reconnected``, ``sensor-lost``, ``bridge-restarted``."""

    at_s: float
    word: str


@dataclass(frozen=True, slots=True)
class Greeting:
    """A bridge said who it is; all that follows is of this epoch, until the next greeting.

    Args:
        at_s: host time.
        epoch: number of this boot of the bridge as the host counts them, from 1; a greeting of the same epoch
            brings another setting or calibration.
        sensor: index of the sensor that is read.
        shunt_ohm: shunt that replaces the calibration's; None without one.
        hello: its HELLO: calibrations, configs, boot, uid, firmware.
        bus_ppm: correction of the bus voltage; None without one.
    """

    at_s: float
    epoch: int
    sensor: int
    shunt_ohm: float | None
    hello: Hello
    bus_ppm: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Raw registers as they came, of the present epoch and sensor; sent twice only if the bridge did."""

    samples: Samples


@dataclass(frozen=True, slots=True)
class Sums:
    """The bridge's accumulators, from which the energy of lost batches is made good."""

    stats: Stats


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A four-stamp exchange of clocks of the present epoch."""

    exchange: Exchange


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge of the bridge's marker input, of the present epoch."""

    marker: Marker


RawEvent = Greeting | Batch | Sums | Exchanged | Edge
"""What a track is made of."""
Event = Block | Realigned | Trouble | RawEvent
