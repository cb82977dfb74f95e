"""The Edge TPU as a delegate of the TFLite runtime: which library, which device, and how it is loaded.

The library is Coral's ``libedgetpu``. It is loaded by the runtime's own ``load_delegate``, without pycoral. A library
that was built for another runtime kills the process that loads it, and a device can hang, so nothing here is called
before `protos.model.edge_tpu_trial` has done the same in a child process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protos.errors import ModelError

ACCELERATOR = "edgetpu"
LIBRARY = "libedgetpu.so.1"
# Any device, or one kind, or one by its place in the order that the library finds them. Source:
# tflite/edgetpu_delegate_for_custom_op_tflite_plugin.cc of google-coral/libedgetpu.
DEVICE = re.compile(r"(usb|pci)(:\d{1,3})?|:\d{1,3}")
_LINKER_CACHE = Path("/etc/ld.so.cache")
_LINKER_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


class EdgeTpuError(ModelError):
    """The Edge TPU, its library or the twin on it does not work."""


@dataclass(frozen=True, slots=True)
class EdgeTpu:
    """Which Edge TPU, through which library.

    Attributes:
        library: a path, or a name that the dynamic linker knows.
        device: ``usb``, ``pci``, ``usb:0``, ...; None for any.
    """

    library: str = LIBRARY
    device: str | None = None

    def options(self) -> dict[str, str]:
        """Options of the delegate."""
        return {} if self.device is None else {"device": self.device}


def is_installed(library: str) -> bool:
    """Whether the dynamic linker would find a library; it is not opened."""
    if "/" in library:
        return Path(library).is_file()
    folders = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *_LINKER_FOLDERS]
    if any((Path(folder) / library).is_file() for folder in folders if folder):
        return True
    try:
        # Names in the cache of ldconfig end with a zero byte, and follow one, or a slash.
        return re.search(rb"[\0/]" + re.escape(library.encode()) + rb"\0", _LINKER_CACHE.read_bytes()) is not None
    except OSError:
        return False


def load(edge_tpu: EdgeTpu, load_delegate: Callable[[str, dict[str, str]], Any]) -> Any:
    """The delegate, through ``load_delegate`` of a TFLite runtime.

    Raises:
        EdgeTpuError: no such library, it is none, or it finds no Edge TPU.
    """
    try:
        return load_delegate(edge_tpu.library, edge_tpu.options())
    except OSError as error:
        raise EdgeTpuError(f"cannot be opened: {_line(str(error))}", where=edge_tpu.library) from error
    except AttributeError as error:
        raise EdgeTpuError("is no delegate library", where=edge_tpu.library) from error
    except (ValueError, RuntimeError) as error:
        # The first line only repeats the name. libedgetpu gives no reason of its own.
        said = _line(" ".join(str(error).splitlines()[1:]))
        wanted = "" if edge_tpu.device is None else f" {edge_tpu.device}"
        reason = said or f"it finds no Edge TPU{wanted} that this user may open"
        raise EdgeTpuError(f"does not start: {reason}", where=edge_tpu.library) from error


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
