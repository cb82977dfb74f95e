"""What was heard of a bridge's sensors for a while: samples, sums, and what is missing.

An :class:`Observation` is the ``observer`` of a port client. It looks at sequence and boot numbers, so that what was
lost on the way is known, and holds the bridge's own sums against those of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protos.bridge.messages import Marker, Message, Samples, Stats, wrap

__all__ = ["Observation", "SensorLog"]


@dataclass(slots=True)
class SensorLog:
    """Of one sensor and one boot: batches and sums in the order in which they came.

    Args:
        lost: batches that the sequence numbers say were sent and that did not come.
        dropped: batches that came with the bridge's note that it lost samples before them.
    """

    batches: list[Samples] = field(default_factory=list)
    stats: list[Stats] = field(default_factory=list)
    lost: int = 0
    dropped: int = 0

    @property
    def dt_us(self) -> npt.NDArray[np.int64]:
        """Lengths of all samples, microseconds; int64 [N]."""
        return np.concatenate([np.zeros(0, np.int64), *(batch.dt_us for batch in self.batches)])

    @property
    def shunt(self) -> npt.NDArray[np.int16]:
        """Shunt registers; int16 [N]."""
        return np.concatenate([np.zeros(0, np.int16), *(batch.shunt for batch in self.batches)])

    @property
    def bus(self) -> npt.NDArray[np.uint16]:
        """Bus registers; uint16 [N]."""
        return np.concatenate([np.zeros(0, np.uint16), *(batch.bus for batch in self.batches)])

    def sums_agree(self) -> bool | None:
        """Whether the bridge's sums between two STATS are exactly those of the samples that came between.

        None when no two STATS with every batch between them were heard.
        """
        compared = False
        by_seq = {batch.seq: batch for batch in self.batches}
        for earlier, later in zip(self.stats, self.stats[1:], strict=False):
            numbers = [(earlier.seq + k) & 0xFFFF for k in range((later.seq - earlier.seq) & 0xFFFF)]
            if not numbers or any(number not in by_seq for number in numbers):
                continue
            compared = True
            between = [by_seq[number] for number in numbers]
            if _sums(between) != tuple(
                wrap(getattr(later, name) - getattr(earlier, name)) for name in ("time", "charge", "voltage", "energy")
            ):
                return False
        return True if compared else None

    def increase(self, counter: str) -> int:
        """By how much a counter of STATS went up between the first and the last."""
        if len(self.stats) < 2:
            return 0
        return int(getattr(self.stats[-1], counter) - getattr(self.stats[0], counter))


class Observation:
    """Collects what a client hears; start a new one for a new measurement. A restart of the bridge clears the logs."""

    def __init__(self) -> None:
        self.sensors: dict[int, SensorLog] = {}
        self.marks: list[Marker] = []
        self.boots: list[int] = []
        self._next: dict[int, int] = {}

    def __call__(self, at_s: float, message: Message) -> None:
        """Take in one message."""
        if isinstance(message, (Samples, Stats, Marker)):
            self._notice_boot(message.boot)
        if isinstance(message, Samples):
            log = self.log(message.sensor)
            due = self._next.get(message.sensor, message.seq)
            log.lost += (message.seq - due) & 0xFFFF
            log.dropped += message.flags & 1
            self._next[message.sensor] = (message.seq + 1) & 0xFFFF
            log.batches.append(message)
        elif isinstance(message, Stats):
            self.log(message.sensor).stats.append(message)
        elif isinstance(message, Marker):
            self.marks.append(message)

    def log(self, sensor: int) -> SensorLog:
        """Of one sensor; empty when nothing came."""
        return self.sensors.setdefault(sensor, SensorLog())

    @property
    def restarts(self) -> int:
        """How often the bridge restarted meanwhile."""
        return max(0, len(self.boots) - 1)

    def _notice_boot(self, boot: int) -> None:
        if not self.boots or self.boots[-1] != boot:
            self.boots.append(boot)
            if len(self.boots) > 1:
                self.sensors.clear()
                self._next.clear()


def _sums(batches: list[Samples]) -> tuple[int, int, int, int]:
    dt = np.concatenate([batch.dt_us for batch in batches])
    shunt = np.concatenate([batch.shunt for batch in batches]).astype(np.int64)
    bus = np.concatenate([batch.bus for batch in batches]).astype(np.int64) >> 3
    return int(dt.sum()), int(shunt @ dt), int(bus @ dt), int((shunt * bus) @ dt)
