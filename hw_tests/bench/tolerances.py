"""What tests hold their measurements against. The figures stand in the environment file: a bench knows its own."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["TOLERANCES", "Tolerance"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """One figure of the environment file.

    Args:
        unit: as a measurement that is held against it is printed.
        meaning: in words.
        feature: a bench that has this feature must give the figure.
    """

    unit: str
    meaning: str
    feature: str


TOLERANCES = MappingProxyType(
    {
        "hello_s": Tolerance("s", "from opening the port to HELLO, bootloader included", "ina219-bridge"),
        "rate_relative": Tolerance("1", "samples a second against the setting's nominal", "ina219-bridge"),
        "lost_batches": Tolerance("1", "batches that never came, in the time of one test", "ina219-bridge"),
        "clock_limit_s": Tolerance("s", "limit of the error of one mapped instant", "ina219-bridge"),
        "clock_drift_ppm": Tolerance("ppm", "the bridge's clock against the host's", "ina219-bridge"),
        "recovery_s": Tolerance("s", "from the end of a fault to the first new sample", "ina219-bridge"),
        "constant_relative": Tolerance("1", "joules of a constant load", "known-load"),
        "burst_relative": Tolerance("1", "joules of a load that alternates", "programmable-load"),
        "round_relative": Tolerance("1", "joules in a round's report", "known-load"),
        "mark_s": Tolerance("s", "a marker edge on the host's clock against its true instant", "marker"),
    }
)
