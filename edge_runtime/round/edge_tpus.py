"""Edge TPUs that the kernel shows on this machine. Nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Of the USB accelerator before and after its library has given it its firmware. Source: the udev rules of
# google-coral/libedgetpu, debian/edgetpu-accelerator.rules.
USB_IDS = ("1a6e:089a", "18d1:9302")
Bus = Literal["usb", "pci"]


@dataclass(frozen=True)
class Seen:
    """One Edge TPU, and the node through which it is opened, as seen from the machine's own root."""

    bus: Bus
    node: Path

    @property
    def group(self) -> str:
        """Group that Coral's udev rules give the node."""
        return "plugdev" if self.bus == "usb" else "apex"


def edge_tpus(root: Path = Path("/")) -> list[Seen]:
    """All that are there, those on USB first.

    Args:
        root: root of the machine that is looked at.
    """
    found = [Seen("usb", node) for entry in _entries(root / "sys/bus/usb/devices") if (node := _usb_node(entry))]
    found += [
        Seen("pci", Path("/dev") / entry.name) for entry in _entries(root / "dev") if entry.name.startswith("apex_")
    ]
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _usb_node(device: Path) -> Path | None:
    try:
        vendor, product = ((device / name).read_text().strip() for name in ("idVendor", "idProduct"))
        if f"{vendor}:{product}" not in USB_IDS:
            return None
        bus, number = (int((device / name).read_text()) for name in ("busnum", "devnum"))
    except (OSError, ValueError):
        # An interface, or a device that is being taken off.
        return None
    return Path(f"/dev/bus/usb/{bus:03d}/{number:03d}")
