"""Power profiles of the boards we know: watts at idle, per busy core, of Ethernet and of an accelerator.

Every figure is a :class:`Figure`: it says what kind it is (``dc``, measured at the board's supply pins; ``wall``, with
the loss of a power supply; ``assumed``, nobody's measurement) and where it comes from. Profiles are for a sensor in the
board's supply line, so no wall figure is in them. What nobody measured is None, never 0. The watts of the board itself
are those without Ethernet and with its radio idle. A model of one idle figure and one slope leaves out frequency
scaling, memory, radio traffic and USB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from protos.errors import UsageError

__all__ = ["BOARDS", "BoardProfile", "Figure", "Kind", "board"]

Kind = Literal["dc", "wall", "assumed"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a board, above 0, with its kind and its source."""

    value: float
    kind: Kind
    source: str


@dataclass(frozen=True, slots=True)
class BoardProfile:
    """Electrical model of a board: ``idle_w + cpu_w * busy cores``, fed through a shunt.

    Args:
        name: as given on a command line.
        idle: watts with nothing to do, without Ethernet.
        core: watts per busy core, on top of idle.
        cores: CPU cores.
        supply_v: nominal supply voltage, V.
        shunt_ohm: shunt that suits the board's largest current with the sensor's 80 mV range.
        ethernet: watts of a wired link that is up, on top of idle; None when it has none, or nobody measured it.
        radio: watts of a radio at work, on top of idle; None when nobody measured it.
        accelerator: watts of an Edge TPU at work, on top of idle; None where there is none.
        inference_j: joules of one MobileNetV2 224 inference on the accelerator, board included; None where unknown.
    """

    name: str
    idle: Figure
    core: Figure
    cores: int
    supply_v: float
    shunt_ohm: float
    ethernet: Figure | None = None
    radio: Figure | None = None
    accelerator: Figure | None = None
    inference_j: Figure | None = None

    @property
    def idle_w(self) -> float:
        """Watts with nothing to do, without Ethernet."""
        return self.idle.value

    @property
    def cpu_w(self) -> float:
        """Watts per busy core, on top of idle."""
        return self.core.value

    @property
    def figures(self) -> dict[str, Figure]:
        """Every figure that is known, by name."""
        parts = {
            "idle": self.idle, "core": self.core, "ethernet": self.ethernet, "radio": self.radio,
            "accelerator": self.accelerator, "inference_j": self.inference_j,
        }  # fmt: skip
        return {name: figure for name, figure in parts.items() if figure is not None}

    def power_w(self, busy_cores: float) -> float:
        """Watts with ``busy_cores`` cores at work (CPU seconds per second), capped at all of them.

        >>> round(board("pi4").power_w(0.0), 2)
        2.1
        """
        return self.idle_w + self.cpu_w * min(max(busy_cores, 0.0), float(self.cores))


_TRACES = "raw 4 Hz traces of deepedgebench c663180, 5 V supply"

_ROWS = (
    BoardProfile(
        "pi4",
        Figure(2.10, "dc", f"{_TRACES}: idle, no Ethernet"),
        Figure(1.05, "dc", "slope from 2.65 W with Ethernet to 6.8 W at full load (PowerJoular); HPL draws 7.2 W"),
        4, 5.1, 0.02,
        ethernet=Figure(0.55, "dc", f"{_TRACES}: 2.65 W with Ethernet less 2.10 W without"),
    ),
    BoardProfile(
        "pi-zero-2",
        Figure(0.60, "dc", "idle, measured with an Otii"),
        Figure(0.375, "dc", "slope from idle to 2.1 W in HPL, four busy cores"),
        4, 5.1, 0.05,
    ),
    BoardProfile(
        "pi5",
        Figure(2.9, "assumed", "about 3 W idle; no measurement at the board found"),
        Figure(2.45, "assumed", "slope from the assumed idle to 12.7 W in HPL (8 GB), four busy cores"),
        4, 5.1, 0.01,
    ),
    BoardProfile(
        "coral-dev",
        Figure(2.76, "dc", f"{_TRACES}: idle, no Ethernet"),
        Figure(0.84, "dc", f"{_TRACES}: 3.92 W with an int8 model on one core less 3.08 W idle, both with Ethernet"),
        4, 5.0, 0.02,
        ethernet=Figure(0.32, "dc", f"{_TRACES}: 3.08 W with Ethernet less 2.76 W without"),
        accelerator=Figure(1.28, "dc", f"{_TRACES}: 4.36 W with the Edge TPU at work less 3.08 W idle"),
        inference_j=Figure(0.0180, "dc", f"{_TRACES}: MobileNetV2 224, 4.1 ms at 4.36 W, Ethernet up"),
    ),
    BoardProfile(
        "pi3b-plus",
        Figure(2.0, "dc", "PowerJoular's linear model at 0 % load; whether Ethernet was up is not said"),
        Figure(0.825, "dc", "slope to 5.3 W at full load (PowerJoular, linear), four busy cores"),
        4, 5.1, 0.02,
    ),
)  # fmt: skip

BOARDS = MappingProxyType({row.name: row for row in _ROWS})
"""Every known board by name."""


def board(name: str) -> BoardProfile:
    """The profile called ``name``, or the one in the file ``name`` where that ends in ``.toml``.

    Raises:
        UsageError: no board is called so; it lists the known names.
        DataError: the file is no profile.
    """
    if name.endswith(".toml"):
        from protos.energy.board_file import read_board

        return read_board(Path(name).expanduser())
    try:
        return BOARDS[name]
    except KeyError:
        raise UsageError(
            f"unknown board {name!r}",
            where="board",
            fix=f"choose one of {', '.join(BOARDS)}, or a file of calibrate-board",
        ) from None
