"""The energy counter of an x86 processor (RAPL), through the kernel's powercap.

It sees one domain: ``package-0`` is the processor with its caches and memory controller, ``dram`` the memory, ``psys``
on some laptops the platform. **None is the board**: no disk, no radio, no loss of the power supply. So its quality is
``partial``, and its joules must not be held against those of a board.

The counter loses nothing between two looks and begins anew at max_energy_range_uj. Since 2020 only root may read it
(CVE-2020-8694: it tells secrets of other processes).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edge_runtime.power.clock import Clock
from edge_runtime.power.host.polled import PolledSensor
from edge_runtime.power.host.source import EMPTY, one_sample
from edge_runtime.power.host.sysfs import ValueFile, read_text
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.options import number, refuse_others
from edge_runtime.power.sensor import Capabilities
from protos.energy.trace import PowerTrace
from protos.energy.uncertainty import ErrorModel
from protos.errors import SensorError

__all__ = ["RAPL_LIMIT", "RaplSource", "rapl_sensor"]

RATE_HZ = 20.0
RAPL_LIMIT = 0.05
"""Relative limit of the counter's error: a judgement. The makers state none."""
UPDATE_S = 1e-3
"""The counter moves about once a millisecond (Intel SDM 3B, 15.10)."""
MOST_W = 1000.0
"""No package draws more: how long a pause may be until the counter may have gone round."""
CLOSEST_S = 10e-3
"""Looks closer together would see mostly the counter's own steps."""


def rapl_sensor(
    domain: str, options: Mapping[str, str], clock: Clock, *, sysfs_root: Path = Path("/sys")
) -> PolledSensor:
    """The sensor of ``rapl:DOMAIN?rate=``, not open yet. Raises UsageError."""
    refuse_others(options, ("rate",))
    rate_hz = number(options, "rate", 0.1, 200.0, "hertz") or RATE_HZ
    return PolledSensor(RaplSource(domain, rate_hz, sysfs_root), clock)


class RaplSource:
    """A :class:`edge_runtime.power.host.source.Source`: joules of the interval between two looks.

    Args:
        domain: its name, such as ``package-0`` or ``dram``, or the name of its folder, such as ``intel-rapl:0:1``;
            empty for the only package.
        rate_hz: looks a second.
        sysfs_root: where /sys is.
    """

    def __init__(self, domain: str, rate_hz: float, sysfs_root: Path) -> None:
        self._domain, self._folder = domain, sysfs_root / "class" / "powercap"
        self.poll_s, self.dithers = 1.0 / rate_hz, False
        self.identity = MeterIdentity("measured", f"rapl:{domain}" if domain else "rapl", "none", "partial")
        self.capabilities = Capabilities(rate_hz, "host", accumulates=True)
        self._counter: ValueFile | None = None
        self._range_j = 0.0
        self._last: tuple[float, float] | None = None

    def open(self, now_s: float) -> None:
        zone, name = self._find()
        where = f"rapl:{name}"
        span = read_text(zone / "max_energy_range_uj")
        if span is None or not span.isdigit() or int(span) == 0:
            raise SensorError(f"{zone} does not say how far its counter counts", where=where, fix="update the kernel")
        self._range_j = int(span) * 1e-6
        path = zone / "energy_uj"
        try:
            self._counter = ValueFile(path)
            self._counter.number()
        except PermissionError as cause:
            raise SensorError(
                "only root may read the counter", where=where, fix=f"run as root, or: sudo chmod a+r {path.resolve()}"
            ) from cause
        except (OSError, ValueError) as cause:
            raise SensorError(f"{path} cannot be read ({cause})", where=where, fix="use another sensor") from cause
        self.identity = MeterIdentity("measured", where, "none", "partial")

    def take(self, now_s: float) -> PowerTrace:
        if self._counter is None:
            raise OSError("not open")
        if self._last is not None and 0 <= now_s - self._last[0] < CLOSEST_S:
            return EMPTY
        counted_j = self._counter.number() * 1e-6
        before, self._last = self._last, (now_s, counted_j)
        if before is None:
            return EMPTY
        passed_s, grown_j = now_s - before[0], counted_j - before[1]
        if grown_j < 0:
            grown_j += self._range_j
        # A driver that was loaded anew begins at any number.
        if not 0 < passed_s < self._range_j / MOST_W or grown_j > MOST_W * passed_s:
            return EMPTY
        return one_sample(before[0], now_s, grown_j / passed_s)

    def errors(self) -> ErrorModel:
        return ErrorModel(gain_relative=RAPL_LIMIT, sync_s=UPDATE_S)

    def flags(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        if self._counter is not None:
            self._counter.close()
            self._counter = None

    def _find(self) -> tuple[Path, str]:
        """The folder of the domain, and its name."""
        zones = {path: read_text(path / "name") or "" for path in sorted(self._folder.glob("intel-rapl*:*"))}
        if not zones:
            raise SensorError(
                "this machine has no RAPL counter",
                where=self.identity.sensor,
                fix="load the driver: sudo modprobe intel_rapl_common intel_rapl_msr; virtual machines have none",
            )
        if self._domain:
            found = [zone for zone, name in zones.items() if self._domain in (name, zone.name)]
        else:
            found = [zone for zone, name in zones.items() if name.startswith("package-")]
        if len(found) == 1:
            return found[0], zones[found[0]]
        choices = ", ".join(f"{zone.name} ({name})" for zone, name in zones.items())
        what = "several domains fit" if found else "there is no such domain"
        raise SensorError(what, where=self.identity.sensor, fix=f"name one of: {choices}")
