"""The board's condition, looked at once a second at most, however often one asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.health.host_load import HostLoad
from edge_runtime.health.thermal import EDGE_TPU_LIMIT_C, EdgeTpuHeat, Thermometer
from edge_runtime.health.throttling import Throttling, ThrottlingSource, find_sources, read_all

__all__ = ["EVERY_S", "Condition", "Watch"]

EVERY_S = 1.0
_UNKNOWN = Throttling()


@dataclass(frozen=True, slots=True)
class Condition:
    """What was seen. None is unknown.

    Attributes:
        temperature_c: the processor's.
        edge_tpu_c: an Edge TPU's on PCIe.
        edge_tpu_limit_c: where its driver slows it down.
        others_share: of all cores, used by other programs, 0 to 1.
    """

    temperature_c: float | None = None
    edge_tpu_c: float | None = None
    edge_tpu_limit_c: float = EDGE_TPU_LIMIT_C
    throttling: Throttling = _UNKNOWN
    others_share: float | None = None


class Watch:
    """Reads the files of one machine.

    Args:
        root: what holds ``sys`` and ``proc``: ``/``, or a folder like it.
        throttled_from: see :data:`edge_runtime.health.throttling.SOURCES`.
        now_s: a monotonic clock.
        own_cpu_s: processor time that this process has used, seconds.
        load: whether other programs are looked at.
    """

    def __init__(
        self,
        root: Path,
        *,
        now_s: Callable[[], float],
        own_cpu_s: Callable[[], float],
        throttled_from: str = "kernel",
        load: bool = True,
        sources: Sequence[ThrottlingSource] | None = None,
    ) -> None:
        sysfs = root / "sys"
        self._now_s = now_s
        self._thermometer, self._edge_tpu = Thermometer(sysfs), EdgeTpuHeat(sysfs)
        self._sources = find_sources(sysfs, throttled_from) if sources is None else list(sources)
        self._load = HostLoad(root / "proc", own_cpu_s) if load else None
        self._next_s: float | None = None
        self._last = Condition()
        self.looks = 0

    def look(self) -> Condition:
        """The condition now, or that of less than a second ago."""
        now_s = self._now_s()
        if self._next_s is not None and now_s < self._next_s:
            return self._last
        self._next_s = now_s + EVERY_S
        self.looks += 1
        self._last = Condition(
            self._thermometer.read_c(),
            self._edge_tpu.read_c(),
            self._edge_tpu.limit_c,
            read_all(self._sources, now_s),
            self._load.read(now_s) if self._load else None,
        )
        return self._last
