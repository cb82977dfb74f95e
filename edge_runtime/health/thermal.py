"""Temperatures from the kernel's files.

``/sys/class/thermal/thermal_zoneN/{type,temp}``: the name of the zone and thousandths of a degree Celsius
(Documentation/driver-api/thermal/sysfs-api.rst of Linux). A Raspberry Pi calls its zone ``cpu-thermal``
(``bcm2835_thermal`` in older kernels); its firmware lowers the clock from 80 degrees and more from 85
(raspberrypi.com, "Frequency management and thermal control").

``/sys/class/apex/apex_N/{temp,trip_point0_temp}``: the same unit, from the driver of Coral's modules on PCIe
(coral.ai, "Manage the PCIe module temperature"). From ``trip_point0_temp`` on, that driver slows the Edge TPU down. The
accelerator on USB has no such file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["EDGE_TPU_LIMIT_C", "EdgeTpuHeat", "Thermometer", "celsius"]

EDGE_TPU_LIMIT_C = 85.0
"""Where the driver slows the Edge TPU down, when it does not say otherwise."""
# What a chip that works can have. Zones that are off answer with an error, or with nonsense such as -274.
_POSSIBLE_C = (-40.0, 150.0)
_CPU = re.compile(r"cpu|soc|bcm2835|x86_pkg", re.IGNORECASE)
_NO_CPU = re.compile(r"wifi|gpu|pch|batt|charger|nvme|ddr|mem|pmic", re.IGNORECASE)


def celsius(path: Path) -> float | None:
    """Degrees of a file of thousandths; None when it is not there, gives no number, or one that cannot be."""
    try:
        value_c = int(path.read_text()) / 1000.0
    except (OSError, ValueError):
        return None
    return value_c if _POSSIBLE_C[0] <= value_c <= _POSSIBLE_C[1] else None


class Thermometer:
    """The processor's zones. The hottest counts, since a chip with big and little cores has several.

    Args:
        sysfs: ``/sys``, or a folder like it.
    """

    def __init__(self, sysfs: Path) -> None:
        names = {zone: _name(zone) for zone in sorted((sysfs / "class" / "thermal").glob("thermal_zone*"))}
        named = [zone for zone, name in names.items() if _CPU.search(name)]
        # Where no zone is called after a processor, all that are not called after something else.
        self.zones = named or [zone for zone, name in names.items() if not _NO_CPU.search(name)]

    def read_c(self) -> float | None:
        """Degrees Celsius now, or None when no zone tells."""
        found = (celsius(zone / "temp") for zone in self.zones)
        return max((value for value in found if value is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Apex:
    folder: Path
    limit_c: float


class EdgeTpuHeat:
    """Edge TPUs on PCIe.

    Args:
        sysfs: ``/sys``, or a folder like it.
    """

    def __init__(self, sysfs: Path) -> None:
        folders = sorted((sysfs / "class" / "apex").glob("apex_*"))
        self._chips = [_Apex(folder, celsius(folder / "trip_point0_temp") or EDGE_TPU_LIMIT_C) for folder in folders]

    @property
    def limit_c(self) -> float:
        """Where the first of them is slowed down, degrees Celsius."""
        return min((chip.limit_c for chip in self._chips), default=EDGE_TPU_LIMIT_C)

    def read_c(self) -> float | None:
        """The hottest, degrees Celsius; None when there is none, or it does not tell."""
        found = (celsius(chip.folder / "temp") for chip in self._chips)
        return max((value for value in found if value is not None), default=None)


def _name(zone: Path) -> str:
    try:
        return (zone / "type").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
