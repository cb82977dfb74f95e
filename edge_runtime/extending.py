"""Names that a package with a sensor may rely on.

The entry point in ``edgejoule.sensors`` names a function ``(rest, options, clock)``, for ``KIND:REST?OPTIONS``, that
gives a :class:`Source` (polled by a thread of ours: the easy way) or a whole :class:`PowerSensor`, not open yet. The
names here stay; the rooms that they come from may move. See docs/extending.md.
"""

from edge_runtime.power.clock import Clock
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import EMPTY, Instants, Source, one_sample
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.options import choice, number, ohms, refuse_others, whole
from edge_runtime.power.sensor import Capabilities, PowerSensor
from protos.energy.trace import PowerTrace, SampleFlag
from protos.energy.uncertainty import ErrorModel
from protos.errors import EdgejouleError, SensorError, UsageError

__all__ = [
    "EMPTY",
    "Capabilities",
    "Clock",
    "EdgejouleError",
    "ErrorModel",
    "Instants",
    "MeterIdentity",
    "PolledSensor",
    "PowerSensor",
    "PowerTrace",
    "SampleFlag",
    "SensorError",
    "Source",
    "UsageError",
    "choice",
    "number",
    "ohms",
    "one_sample",
    "refuse_others",
    "whole",
]
