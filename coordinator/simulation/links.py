"""Links of virtual boards: seconds and joules of bytes.

LTE is measured; the others are assumptions of the right size, and every one can be given anew as a :class:`Link`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from protos.energy.boards import Kind


@dataclass(frozen=True)
class Link:
    """What lies between a board and the coordinator.

    Attributes:
        up_j, down_j: joules a byte, on top of the idle board.
        wake_j: joules of a call: waking the radio, and its tail.
        up_bytes_s, down_bytes_s: bytes a second.
        latency_s: of a call, there and back.
        kind, source: where the figures come from.
    """

    name: str
    up_j: float
    down_j: float
    wake_j: float
    up_bytes_s: float
    down_bytes_s: float
    latency_s: float
    kind: Kind = "assumed"
    source: str = "given by the caller"


_ROWS = (
    Link("ethernet", 1e-7, 1e-7, 0.02, 11e6, 11e6, 0.002, "assumed", "100 Mbit/s; the standing watts are the board's"),
    Link("wifi", 6e-7, 4e-7, 0.05, 2.5e6, 2.5e6, 0.01, "assumed", "about 20 Mbit/s through a board's own radio"),
    Link(
        "lte", 1.4e-5, 1.1e-5, 12.6, 125e3, 1.25e6, 0.07, "dc",
        "1 Mbit/s up: Huang et al., MobiSys 2012: 1.29 W, and 438 and 52 mW a Mbit/s up and down; tail 11.6 s",
    ),
    Link("cat-m", 1e-4, 6e-5, 1.0, 40e3, 40e3, 0.2, "assumed", "about 0.3 Mbit/s both ways"),
    Link("loopback", 0.0, 0.0, 0.0, 1e9, 1e9, 0.001, "assumed", "programs on one machine, as in a demo"),
)  # fmt: skip

LINKS = MappingProxyType({row.name: row for row in _ROWS})
"""Every known link by name."""
