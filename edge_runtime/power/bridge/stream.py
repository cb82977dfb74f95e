"""One sensor's batches, put in order: full ticks, lost batches, and their energy from the accumulators.

A batch carries the low half of a tick (2^32 us, 71.6 minutes) and a number ``seq`` that wraps at 65,536 (in batches of
16: 84 minutes at 209 samples a second, 14 at 1250). Both repeat, so neither orders what follows an outage:

* Batches are ordered by full ticks. The low half is completed from the last full tick known, and is believed while a
  batch begins within ``BELIEVED_US`` of what came before it. What begins elsewhere is held until STATS, which carries
  full ticks, says where it belongs: within a second. After a silence the session asks for HELLO, whose full tick
  (:meth:`SensorStream.told`) shows how long it was.
* ``seq`` only counts what was lost, modulo 65,536. How often it went round is told by the samples that STATS counts.

A jump leaves a hole between two batches. STATS brings sums over *all* samples of the boot, lost ones too: what it has
more than arrived since the STATS before is the energy of the holes. It enters as samples of that mean power, flagged
``RECOVERED``: measured joules, at a time known to lie in the hole. When the sums do not account for a hole (a restart
between, a sensor that was away, or STATS itself lost at its edges) the hole stays uncovered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from protos.bridge.messages import Samples, Stats, wrap
from protos.energy.ina219 import (
    BUS_FULL_RAW,
    BUS_STEP_V,
    SHUNT_STEP_V,
    Calibration,
    Config,
    bus_flags,
    sample_flags,
    watts,
)
from protos.energy.trace import SampleFlag

__all__ = ["Piece", "SensorStream", "SensorTrouble"]

HALF32 = 1 << 31
SEQ_WRAP = 1 << 16
BELIEVED_US = 10_000_000
"""Longest pause between two batches at which the low half of a tick is believed. While a bridge is heard its STATS come
each second, and the quickest sensor needs longer than this for a wrap of ``seq``: 65,536 single samples of 168 us."""
HELD = 256
"""Batches held until STATS: those of three seconds at the highest rate. The oldest give way, and are lost."""


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
    """Of the batches that arrived since the last STATS; raw units of STATS."""

    batches: int = 0
    samples: int = 0
    time: int = 0
    charge: int = 0
    voltage: int = 0
    energy: int = 0


@dataclass(frozen=True, slots=True)
class _Hole:
    """Ticks between two batches, and by how much ``seq`` jumped there, modulo 65,536."""

    begin: int
    end: int
    jump: int


class SensorStream:
    """State of one sensor over one boot of the bridge.

    Args:
        calibration: turns registers into watts.
        config: the sensor's setting, to know a value at the end of its range.
        tick: any full tick of this boot, at most 35 minutes from the first batch.
        batch: samples of a batch that nobody asked for early.
    """

    def __init__(self, calibration: Calibration, config: Config, tick: int, batch: int = 16) -> None:
        self._calibration, self._config, self._tick, self._batch = calibration, config, tick, max(1, batch)
        self._expected: int | None = None
        self._end: int | None = None
        self._held: deque[Samples] = deque(maxlen=HELD)
        self._holes: list[_Hole] = []
        self._arrived = _Sums()
        self._usual_us = 0.0
        self._last_stats: Stats | None = None
        self.bus_v = 0.0
        self.lost_batches = 0
        self.recovered_s = 0.0
        self.trouble = SensorTrouble()

    @property
    def has_holes(self) -> bool:
        """Whether batches are missing, or held, that the next STATS may account for."""
        return bool(self._holes or self._held)

    def recalibrate(self, calibration: Calibration, config: Config) -> None:
        """Use another calibration or setting from the next batch on."""
        self._calibration, self._config = calibration, config

    def told(self, tick: int) -> None:
        """The bridge's clock is at this full tick now."""
        self._tick = max(self._tick, tick)

    def samples(self, batches: Sequence[Samples]) -> Piece | None:
        """Watts and full ticks of successive batches; one that came twice is left out, one whose place is not sure
        is held until :meth:`stats`."""
        fresh: list[tuple[int, Samples]] = []
        for batch in batches:
            begin = self._full(batch.t0)
            if self._held or (self._end is not None and abs(begin - self._end) > BELIEVED_US):
                self._held.append(batch)
            else:
                self._place(batch, begin, fresh)
        return self._finished(fresh)

    def stats(self, stats: Stats) -> Piece | None:
        """Samples that were held, and those that stand for what was lost since the last STATS, if they can be told."""
        self._tick = max(self._tick, stats.tick)
        came = self._finished(self._release(stats))
        before, arrived = self._last_stats, self._arrived
        self._tell_trouble(before, stats)
        jump = 0 if self._expected is None else (stats.seq - self._expected) % SEQ_WRAP
        self._jump_to(stats.end, jump)
        self._expected, self._end = stats.seq, stats.end or self._end
        holes = self._lost(before, arrived, stats)
        self._last_stats, self._arrived, self._holes = stats, _Sums(), []
        if before is None or not holes:
            return came
        made = self._recovered(before, arrived, stats, holes)
        return _in_order(made, came) if made and came else made or came

    def _full(self, low: int) -> int:
        """The tick next to the last known one whose low half is ``low``."""
        return self._tick + ((low - self._tick + HALF32) % (1 << 32)) - HALF32

    def _place(self, batch: Samples, begin: int, fresh: list[tuple[int, Samples]]) -> None:
        """Put a batch behind what came before it, at a tick that is sure."""
        end = begin + int(batch.dt_us.sum())
        if self._end is not None and end <= self._end:
            return
        jump = 0 if self._expected is None else (batch.seq - self._expected) % SEQ_WRAP
        self._jump_to(begin, jump)
        self._expected = (batch.seq + 1) % SEQ_WRAP
        self._end, self._tick = end, max(self._tick, end)
        fresh.append((begin, batch))

    def _jump_to(self, tick: int, jump: int) -> None:
        """Note what lies between the last batch and ``tick``.

        A long pause without a jump may be a sensor that was silent, or whole wraps of ``seq``: STATS will tell.
        """
        if self._end is not None and tick > self._end and (jump or tick - self._end > BELIEVED_US):
            self._holes.append(_Hole(self._end, tick, jump))
            self.lost_batches += jump

    def _release(self, stats: Stats) -> list[tuple[int, Samples]]:
        """Batches that were held, in their places: they came shortly before this STATS, and belong before its end."""
        fresh: list[tuple[int, Samples]] = []
        held, self._held = self._held, deque(maxlen=HELD)
        for batch in held:
            begin = self._full(batch.t0)
            before_stats = 0 < (stats.seq - batch.seq) % SEQ_WRAP <= 2 * HELD
            if before_stats and begin + int(batch.dt_us.sum()) <= stats.end:
                self._place(batch, begin, fresh)
        return fresh

    def _finished(self, fresh: list[tuple[int, Samples]]) -> Piece | None:
        """The samples of batches in their order."""
        if not fresh:
            return None
        # One pass over all of them: at 1000 samples a second this is most of the host's work.
        dt_us = np.concatenate([batch.dt_us for _, batch in fresh])
        shunt = np.concatenate([batch.shunt for _, batch in fresh])
        bus = np.concatenate([batch.bus for _, batch in fresh])
        counts = [len(batch.dt_us) for _, batch in fresh]
        begins = np.array([begin for begin, _ in fresh], np.int64)
        grown = np.cumsum(dt_us)
        before = np.concatenate([[0], grown[np.cumsum(counts[:-1], dtype=np.int64) - 1]]) if counts[1:] else 0
        ends = grown + np.repeat(begins - before, counts)
        self._arrived.batches += len(fresh)
        self._accumulate(dt_us, shunt, bus)
        self.bus_v = float(bus[-1] >> 3) * BUS_STEP_V
        return Piece(ends - dt_us, ends, watts(shunt, bus, self._calibration), sample_flags(shunt, bus, self._config))

    def _accumulate(
        self, dt_us: npt.NDArray[np.int64], shunt_raw: npt.NDArray[np.int16], bus_raw: npt.NDArray[np.uint16]
    ) -> None:
        shunt, bus = shunt_raw.astype(np.int64), (bus_raw >> 3).astype(np.int64)
        charge, arrived = shunt * dt_us, self._arrived
        arrived.samples += len(dt_us)
        arrived.time += int(dt_us.sum())
        arrived.charge += int(charge.sum())
        arrived.voltage += int(bus @ dt_us)
        arrived.energy += int(charge @ bus)

    def _lost(self, before: Stats | None, arrived: _Sums, now: Stats) -> list[_Hole]:
        """The holes that lost batches left since the last STATS; counts the whole wraps of ``seq`` in them.

        The jumps of ``seq`` counted them modulo 65,536. What is missing of the bridge's count of samples, over the
        samples of a batch, tells the number to within half a wrap; without sums from before, the length of the holes
        over the usual length of a batch does.
        """
        if arrived.batches:
            self._usual_us = arrived.time / arrived.batches
        if not self._holes:
            return []
        jumps = sum(hole.jump for hole in self._holes)
        if before is not None:
            about = ((now.samples - before.samples - arrived.samples) % (1 << 32)) / self._batch
        else:
            about = sum(hole.end - hole.begin for hole in self._holes) / self._usual_us if self._usual_us else 0.0
        wraps = max(0, round((about - jumps) / SEQ_WRAP))
        self.lost_batches += wraps * SEQ_WRAP
        return [hole for hole in self._holes if hole.jump or wraps]

    def _recovered(self, before: Stats, arrived: _Sums, now: Stats, holes: list[_Hole]) -> Piece | None:
        """The holes filled with the mean power of what did not arrive, if the sums account for just their time."""
        time_us = wrap(now.time - before.time - arrived.time)
        open_us = sum(hole.end - hole.begin for hole in holes)
        if time_us <= 0 or abs(open_us - time_us) > 0.01 * time_us + 4:
            return None
        energy = wrap(now.energy - before.energy - arrived.energy)
        voltage = wrap(now.voltage - before.voltage - arrived.voltage)
        power_w = self._mean_w(energy, voltage, time_us)
        self.recovered_s += open_us * 1e-6
        begins, ends = np.array([(hole.begin, hole.end) for hole in holes], np.int64).T
        full_v = BUS_FULL_RAW[self._config.bus_range_32v] * BUS_STEP_V
        bits = SampleFlag.RECOVERED | int(bus_flags(voltage / time_us * BUS_STEP_V, full_v))
        return Piece(begins, ends, np.full(len(holes), power_w), np.full(len(holes), bits, np.uint8))

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
        step_v = self._calibration.volts_per_step
        volt_squared = energy * (SHUNT_STEP_V * step_v)
        volt_squared -= voltage * step_v * self._calibration.offset_nv * 1e-9
        return volt_squared * self._calibration.amperes_per_volt / time_us


def _in_order(first: Piece, second: Piece) -> Piece:
    """Both, by their ticks."""
    order = np.argsort(np.concatenate([first.begin, second.begin]), kind="stable")
    return Piece(
        np.concatenate([first.begin, second.begin])[order],
        np.concatenate([first.end, second.end])[order],
        np.concatenate([first.power_w, second.power_w])[order],
        np.concatenate([first.flags, second.flags])[order],
    )
