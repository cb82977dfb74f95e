"""From the text of a configuration to a meter: ``serial:PATH``, ``estimate:BOARD`` or ``none``."""

from __future__ import annotations

from urllib.parse import parse_qsl

from edge_runtime.power.clock import Clock, SystemClock
from edge_runtime.power.estimate import EstimateMeter
from edge_runtime.power.meter import Meter
from edge_runtime.power.unmetered import UnknownMeter
from protos.boards import board
from protos.errors import UsageError

__all__ = ["open_meter"]


def open_meter(spec: str, *, clock: Clock | None = None) -> Meter:
    """Open the meter that ``spec`` names.

    ==================================  ==========================================================
    ``serial:PATH``                     INA219 bridge on a serial port; options after ``?``, joined by
                                        ``&``: ``sensor=0..3``, ``shunt=OHM``, ``profile=NAME``
    ``estimate:BOARD``                  a model: idle watts plus watts per CPU second of this process
    ``none``                            no metering: energy is unknown
    ==================================  ==========================================================

    Raises:
        UsageError: the text is none of these.
        SensorError: the port is not there, not ours, busy, silent, or speaks another protocol.
    """
    kind, _, rest = spec.partition(":")
    clock = clock or SystemClock()
    if spec == "none":
        return UnknownMeter(clock)
    if kind == "estimate" and rest:
        return EstimateMeter(board(rest), clock)
    if kind == "serial" and rest:
        path, _, query = rest.partition("?")
        from edge_runtime.power.bridge_opening import open_bridge_meter

        return open_bridge_meter(path, dict(parse_qsl(query)), clock)
    raise UsageError(f"unknown sensor {spec!r}", where="sensor", fix="use serial:PATH, estimate:BOARD or none")
