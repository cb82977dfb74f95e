"""One sensor's batches, put in order: full ticks, lost batches, and their energy from the accumulators.

A batch carries the low half of a tick; it is completed from the last full tick known. A jump of ``seq`` leaves a
hole between two batches. STATS brings sums over *all* samples of the boot, lost ones too: what it has more than
arrived since the STATS before is the energy of the holes. It enters as samples of that mean power, flagged
``RECOVERED``: measured joules, at a time known to lie in the hole. When the sums do not account for a hole (a
restart between, or STATS itself lost at its edges) the hole stays uncovered.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.bridge.messages import Samples, Stats, wrap
from protos.energy import SampleFlag
from protos.ina219 import BUS_STEP_V, SHUNT_STEP_V, Calibration, sample_flags, watts

__all__ = ["Piece", "SensorStream"]

HALF32 = 1 << 31


@dataclass(frozen=True, slots=True)
class Piece:
    """Finished samples: ticks int64 [n], power float64 [n], flags uint8 [n]."""

    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    power_w: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


@dataclass(slots=True)
class _Sums:
    time: int = 0
    charge: int = 0
    voltage: int = 0
    energy: int = 0


class SensorStream:
    """State of one sensor over one boot of the bridge.

    Args:
        calibration: turns registers into watts.
        pga: range setting, to know a clipped value.
        tick: any full tick of this boot, at most 35 minutes from the first batch.
    """

    def __init__(self, calibration: Calibration, pga: int, tick: int) -> None:
        self._calibration, self._pga, self._tick = calibration, pga, tick
        self._expected: int | None = None
        self._end: int | None = None
        self._holes: list[tuple[int, int]] = []
        self._arrived = _Sums()
        self._last_stats: Stats | None = None
        self.bus_v = 0.0
        self.lost_batches = 0
        self.recovered_s = 0.0

    @property
    def has_holes(self) -> bool:
        """Whether batches are missing that the next STATS may account for."""
        return bool(self._holes)

    def recalibrate(self, calibration: Calibration, pga: int) -> None:
        """Use another calibration or range from the next batch on."""
        self._calibration, self._pga = calibration, pga

    def samples(self, batch: Samples) -> Piece | None:
        """Watts and full ticks of a batch; None for one that came twice."""
        behind = 0 if self._expected is None else (batch.seq - self._expected) & 0xFFFF
        if behind >= 1 << 15:
            return None
        begin = self._full(batch.t0)
        if behind and self._end is not None:
            self.lost_batches += behind
            if begin > self._end:
                self._holes.append((self._end, begin))
        self._expected = (batch.seq + 1) & 0xFFFF
        ends = begin + np.cumsum(batch.dt_us)
        self._end = self._tick = int(ends[-1])
        shunt, bus = batch.shunt.astype(np.int64), (batch.bus >> 3).astype(np.int64)
        self.bus_v = float(bus[-1]) * BUS_STEP_V
        arrived = self._arrived
        arrived.time += int(batch.dt_us.sum())
        arrived.charge += int(shunt @ batch.dt_us)
        arrived.voltage += int(bus @ batch.dt_us)
        arrived.energy += int((shunt * bus) @ batch.dt_us)
        return Piece(
            ends - batch.dt_us,
            ends,
            watts(batch.shunt, batch.bus, self._calibration),
            sample_flags(batch.shunt, batch.bus, self._pga),
        )

    def stats(self, stats: Stats) -> Piece | None:
        """Samples that stand for what was lost since the last STATS, if they can be told."""
        self._tick = max(self._tick, stats.tick)
        before, arrived, holes = self._last_stats, self._arrived, self._holes
        self._last_stats, self._arrived, self._holes = stats, _Sums(), []
        trailing = 0 if self._expected is None else (stats.seq - self._expected) & 0xFFFF
        if trailing >= 1 << 15:
            return None
        if trailing and self._end is not None:
            self.lost_batches += trailing
            if stats.end > self._end:
                holes.append((self._end, stats.end))
        self._expected = stats.seq
        self._end = stats.end or self._end
        if before is None or not holes:
            return None
        time_us = wrap(stats.time - before.time - arrived.time)
        open_us = sum(end - begin for begin, end in holes)
        if time_us <= 0 or abs(open_us - time_us) > 0.01 * time_us + 4:
            return None
        energy = wrap(stats.energy - before.energy - arrived.energy)
        voltage = wrap(stats.voltage - before.voltage - arrived.voltage)
        power_w = self._mean_w(energy, voltage, time_us)
        self.recovered_s += open_us * 1e-6
        begins, ends = np.array(holes, np.int64).T
        return Piece(begins, ends, np.full(len(holes), power_w), np.full(len(holes), SampleFlag.RECOVERED, np.uint8))

    def _mean_w(self, energy: int, voltage: int, time_us: int) -> float:
        """Mean power of accumulated raw products, offset and gain applied."""
        volt_squared = energy * (SHUNT_STEP_V * BUS_STEP_V)
        volt_squared -= voltage * BUS_STEP_V * self._calibration.offset_nv * 1e-9
        return volt_squared * self._calibration.amperes_per_volt / time_us

    def _full(self, low: int) -> int:
        """The tick next to the last known one whose low half is ``low``."""
        return self._tick + ((low - self._tick + HALF32) % (1 << 32)) - HALF32
