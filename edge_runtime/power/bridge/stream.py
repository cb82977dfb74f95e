"""One sensor's batches, put in order: full ticks, lost batches, and their energy from the accumulators.

A batch carries the low half of a tick; it is completed from the last full tick known. A jump of ``seq`` leaves a
hole between two batches. STATS brings sums over *all* samples of the boot, lost ones too: what it has more than
arrived since the STATS before is the energy of the holes. It enters as samples of that mean power, flagged
``RECOVERED``: measured joules, at a time known to lie in the hole. When the sums do not account for a hole (a
restart between, or STATS itself lost at its edges) the hole stays uncovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.bridge.messages import Samples, Stats, wrap
from protos.energy.ina219 import BUS_STEP_V, SHUNT_STEP_V, Calibration, sample_flags, watts
from protos.energy.trace import SampleFlag

__all__ = ["Piece", "SensorStream", "SensorTrouble"]

HALF32 = 1 << 31


@dataclass(frozen=True, slots=True)
class Piece:
    """Finished samples: ticks int64 [n], power float64 [n], flags uint8 [n]."""

    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    power_w: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SensorTrouble:
    """What the bridge's STATS told of the I2C bus: transfers that failed, times the sensor had forgotten its setting,
    times it fell silent, bytes and frames of the host that did not reach it whole."""

    bus_errors: int = 0
    restarts: int = 0
    losses: int = 0
    damaged_commands: int = 0

    def __add__(self, other: SensorTrouble) -> SensorTrouble:
        return SensorTrouble(
            self.bus_errors + other.bus_errors,
            self.restarts + other.restarts,
            self.losses + other.losses,
            self.damaged_commands + other.damaged_commands,
        )


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
        self.trouble = SensorTrouble()

    @property
    def has_holes(self) -> bool:
        """Whether batches are missing that the next STATS may account for."""
        return bool(self._holes)

    def recalibrate(self, calibration: Calibration, pga: int) -> None:
        """Use another calibration or range from the next batch on."""
        self._calibration, self._pga = calibration, pga

    def samples(self, batches: Sequence[Samples]) -> Piece | None:
        """Watts and full ticks of successive batches; one that came twice is left out."""
        fresh, begins = [], []
        for batch in batches:
            behind = 0 if self._expected is None else (batch.seq - self._expected) & 0xFFFF
            if behind >= 1 << 15:
                continue
            begin = self._full(batch.t0)
            if behind and self._end is not None:
                self.lost_batches += behind
                if begin > self._end:
                    self._holes.append((self._end, begin))
            self._expected = (batch.seq + 1) & 0xFFFF
            self._end = self._tick = begin + int(batch.dt_us.sum())
            fresh.append(batch)
            begins.append(begin)
        if not fresh:
            return None
        # One pass over all of them: at 1000 samples a second this is most of the host's work.
        dt_us = np.concatenate([batch.dt_us for batch in fresh])
        shunt = np.concatenate([batch.shunt for batch in fresh])
        bus = np.concatenate([batch.bus for batch in fresh])
        counts = [len(batch.dt_us) for batch in fresh]
        grown = np.cumsum(dt_us)
        before = np.concatenate([[0], grown[np.cumsum(counts[:-1], dtype=np.int64) - 1]]) if counts[1:] else 0
        ends = grown + np.repeat(np.array(begins, np.int64) - before, counts)
        self._accumulate(dt_us, shunt, bus)
        self.bus_v = float(bus[-1] >> 3) * BUS_STEP_V
        return Piece(ends - dt_us, ends, watts(shunt, bus, self._calibration), sample_flags(shunt, bus, self._pga))

    def _accumulate(
        self, dt_us: npt.NDArray[np.int64], shunt_raw: npt.NDArray[np.int16], bus_raw: npt.NDArray[np.uint16]
    ) -> None:
        shunt, bus = shunt_raw.astype(np.int64), (bus_raw >> 3).astype(np.int64)
        charge, arrived = shunt * dt_us, self._arrived
        arrived.time += int(dt_us.sum())
        arrived.charge += int(charge.sum())
        arrived.voltage += int(bus @ dt_us)
        arrived.energy += int(charge @ bus)

    def stats(self, stats: Stats) -> Piece | None:
        """Samples that stand for what was lost since the last STATS, if they can be told."""
        self._tick = max(self._tick, stats.tick)
        before, arrived, holes = self._last_stats, self._arrived, self._holes
        self._tell_trouble(before, stats)
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

    def _tell_trouble(self, before: Stats | None, now: Stats) -> None:
        """What happened before the first STATS of a boot is not this host's affair."""
        known = before or now
        self.trouble += SensorTrouble(
            max(0, now.i2c_errors - known.i2c_errors),
            max(0, now.restores - known.restores),
            int(now.state != 0 and (before is None or before.state == 0)),
            max(0, now.rx_errors - known.rx_errors),
        )

    def _mean_w(self, energy: int, voltage: int, time_us: int) -> float:
        """Mean power of accumulated raw products, offset and gain applied."""
        volt_squared = energy * (SHUNT_STEP_V * BUS_STEP_V)
        volt_squared -= voltage * BUS_STEP_V * self._calibration.offset_nv * 1e-9
        return volt_squared * self._calibration.amperes_per_volt / time_us

    def _full(self, low: int) -> int:
        """The tick next to the last known one whose low half is ``low``."""
        return self._tick + ((low - self._tick + HALF32) % (1 << 32)) - HALF32
