"""Power profiles of the boards we know: watts at idle and watts per busy core.

Where a figure comes from is said with each board. Only the Raspberry Pi 4 row rests on a recorded trace
(wall power of a Pi 4 running TensorFlow Lite, 1 Hz: 3.85 W idle, 6.76 W with MobileNetV2 0.35/96 int8 at
300 inferences a second); the others are **assumptions** of the right size, from published reviews of
typical idle and stress consumption, and must be replaced by a measurement before a number that rests on
them is quoted. A model of one idle figure and one slope leaves out frequency scaling, memory, radio, USB
and accelerator power.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from protos.errors import UsageError

__all__ = ["BOARDS", "BoardProfile", "board"]


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """Electrical model of a board: ``idle_w + cpu_w * busy cores``, fed through a shunt.

    Args:
        name: as given on a command line.
        idle_w: watts with nothing to do.
        cpu_w: watts per busy core, on top of idle.
        cores: CPU cores.
        supply_v: nominal supply voltage, V.
        shunt_ohm: shunt that suits the board's largest current with the sensor's 80 mV range.
        source: where the watts come from.
    """

    name: str
    idle_w: float
    cpu_w: float
    cores: int
    supply_v: float
    shunt_ohm: float
    source: str

    def power_w(self, busy_cores: float) -> float:
        """Watts with ``busy_cores`` cores at work (CPU seconds per second), capped at all of them.

        >>> round(board("pi4").power_w(0.0), 2)
        3.85
        """
        return self.idle_w + self.cpu_w * min(max(busy_cores, 0.0), float(self.cores))


_ROWS = (
    BoardProfile(
        "pi4",
        3.85,
        1.45,
        4,
        5.1,
        0.02,
        "idle: recorded wall trace of a Pi 4; slope: (6.76 - 3.85) W of the same trace shared by the 2 cores "
        "that an inference thread and its feeder are assumed to keep busy",
    ),
    BoardProfile("pi-zero-2", 0.7, 0.55, 4, 5.1, 0.05, "assumption: about 0.7 W idle and 3 W with four busy cores"),
    BoardProfile("pi5", 2.9, 1.7, 4, 5.1, 0.01, "assumption: about 3 W idle and 9 W to 10 W with four busy cores"),
    BoardProfile(
        "coral-dev", 3.0, 0.9, 4, 5.0, 0.02, "assumption: about 3 W idle, four Cortex-A53 cores, Edge TPU not modelled"
    ),
)

BOARDS = MappingProxyType({row.name: row for row in _ROWS})
"""Every known board by name."""


def board(name: str) -> BoardProfile:
    """The profile called ``name``; :class:`UsageError` that lists the known names otherwise."""
    try:
        return BOARDS[name]
    except KeyError:
        raise UsageError(f"unknown board {name!r}", where="board", fix=f"choose one of {', '.join(BOARDS)}") from None
