"""Those who listen to a sensor."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_runtime.power.events import Event
from edge_runtime.power.sensor import Listener

__all__ = ["Audience"]

log = logging.getLogger(__name__)


class Audience:
    """Listeners of one sensor, told in the order in which they came. Its owner holds the lock."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def add(self, listener: Listener, first: Event | None = None) -> Callable[[], None]:
        """Tell ``listener`` from now on, and ``first`` at once; returns what ends that, harmless when repeated."""
        self._listeners = [*self._listeners, listener]
        if first is not None:
            self._tell_one(listener, first)
        return lambda: self._remove(listener)

    def tell(self, event: Event) -> None:
        """Tell everybody. One that raises is told nothing more: its fault must not stop the metering."""
        for listener in self._listeners:
            self._tell_one(listener, event)

    def _tell_one(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception:
            log.exception("a listener of the power sensor failed and is left out from now on")
            self._remove(listener)

    def _remove(self, listener: Listener) -> None:
        self._listeners = [function for function in self._listeners if function is not listener]
