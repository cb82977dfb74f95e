"""A sensor of an installed package: asked for, held against what a sensor is, and polled when it is a mere source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np

from edge_runtime.power.clock import Clock
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import Source
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.sensor import Capabilities, PowerSensor
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError
from protos.plugins import Plugin, guarded, load, wrong

__all__ = ["plugged_sensor"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_OF_BOTH = ("identity", "capabilities", "open", "errors", "flags", "close")
_OF_A_SOURCE = ("poll_s", "dithers", "take")
_OF_A_SENSOR = ("lock", "request", "wait_for_news", "covered_to_s", "incomplete", "nearly_full", "trace",
                "forget_before", "subscribe")  # fmt: skip


def plugged_sensor(plugin: Plugin, rest: str, options: Mapping[str, str], clock: Clock) -> PowerSensor:
    """The sensor that a plug-in makes, not open yet.

    Raises:
        PluginError: it cannot be loaded or made, or gives neither a Source nor a PowerSensor.
        UsageError: the plug-in refuses the name or an option.
    """
    make = load(plugin)
    if not callable(make):
        raise wrong(plugin, f"is {type(make).__name__}, not a function of rest, options and clock")
    made = guarded(plugin, make, "make its sensor")(rest, dict(options), clock)
    # Looked up on the class: asking an object for a property would already run code of it.
    known = {*dir(type(made)), *vars(made)} if hasattr(made, "__dict__") else set(dir(type(made)))
    if known.issuperset((*_OF_BOTH, *_OF_A_SENSOR)):
        sensor: PowerSensor = made
        return sensor
    if missing := [name for name in (*_OF_BOTH, *_OF_A_SOURCE) if name not in known]:
        raise wrong(plugin, f"its sensor is no Source: it has no {', '.join(missing)}")
    return PolledSensor(_PluggedSource(plugin, made), clock)


class _PluggedSource:
    """A :class:`edge_runtime.power.host.source.Source` whose every answer is looked at.

    The polling thread opens a source again that failed to open or to take; nothing else that a plug-in does may end
    that thread.
    """

    def __init__(self, plugin: Plugin, source: Source) -> None:
        self._plugin, self._source = plugin, source
        self._identity = self._asked_identity()
        self._capabilities = self._asked_capabilities()
        self._failing: set[str] = set()

    @property
    def identity(self) -> MeterIdentity:
        return self._identity

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def poll_s(self) -> float:
        return self._or(lambda: max(1e-3, float(self._source.poll_s)), 1.0, "say how often to ask")

    @property
    def dithers(self) -> bool:
        return self._or(lambda: bool(self._source.dithers), False, "say whether to dither")

    def open(self, now_s: float) -> None:
        try:
            self._source.open(now_s)
            self._identity, self._capabilities = self._asked_identity(), self._asked_capabilities()
        except SensorError:
            raise
        except Exception as error:
            why = f"cannot be opened ({type(error).__name__}: {error})"
            raise SensorError(why, where=str(self._plugin), fix=f"mend or uninstall {self._plugin.package}") from error

    def take(self, now_s: float) -> PowerTrace:
        trace = self._source.take(now_s)
        if not isinstance(trace, PowerTrace):
            raise wrong(self._plugin, f"gives {type(trace).__name__}, not a PowerTrace")
        if not (np.isfinite(trace.power_w).all() and (trace.stop_s >= trace.start_s).all()):
            raise wrong(self._plugin, "gives a sample that is no number, or that ends before it begins")
        return trace

    def errors(self) -> ErrorModel:
        found = guarded(self._plugin, self._source.errors, "say how wrong it may be")()
        if not isinstance(found, ErrorModel):
            raise wrong(self._plugin, f"its errors are {type(found).__name__}, not an ErrorModel")
        return found

    def flags(self) -> tuple[str, ...]:
        return self._or(lambda: tuple(map(str, self._source.flags())), ("plugin-error",), "say its flags")

    def close(self) -> None:
        self._or(self._source.close, None, "close")

    def _or(self, ask: Callable[[], T], otherwise: T, doing: str) -> T:
        try:
            return ask()
        except Exception as error:
            if doing not in self._failing:
                self._failing.add(doing)
                log.warning("%s: failed to %s (%s: %s)", self._plugin, doing, type(error).__name__, error)
            return otherwise

    def _asked_identity(self) -> MeterIdentity:
        identity = guarded(self._plugin, lambda: self._source.identity, "say who it is")()
        if not isinstance(identity, MeterIdentity):
            raise wrong(self._plugin, f"its identity is {type(identity).__name__}, not a MeterIdentity")
        return identity

    def _asked_capabilities(self) -> Capabilities:
        found = guarded(self._plugin, lambda: self._source.capabilities, "say what it can do")()
        if not isinstance(found, Capabilities) or not found.rate_hz > 0:
            raise wrong(self._plugin, "its capabilities are no Capabilities with a rate")
        return found
