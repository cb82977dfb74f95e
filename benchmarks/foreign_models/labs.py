"""Environment files as labgrid users have them, read as a bench does.

Part of `benchmarks/any_model.py`, which makes the files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.foreign_models.data import RowFields
from hw_tests.environment.environment import read_environment
from protos.errors import EdgejouleError

KIND = "labgrid environment"
# The port that the bridge hangs on.
_PORTS = {"list_of_two": "/dev/ttyUSB1", "two_targets": "/dev/ttyUSB0", "imports": "/dev/ttyUSB0"}
# Words of right refusals: USB ports by match are those of the machine at hand, and none of these is plugged in here.
_REFUSED = {
    "usbserial_match": "ID_SERIAL_SHORT", "usbserial_devname": "DEVNAME", "pico_text": "500000",
    "remote_place": "RemotePlace", "network_serial": "NetworkSerialPort",
}  # fmt: skip
# The files lack one limit that a bench must give: that is told first, and then they are read with it.
_LACKING, _GIVEN = "clock_drift_ppm: 5000.0}", "clock_drift_ppm: 5000.0, recovery_s: 10.0}"


def lab_rows(folder: Path) -> Iterator[RowFields]:
    """Rows of the files in ``H01-labgrid``: case, kind, expected, got, ok."""
    os.environ.setdefault("LG_PLACE", "nano-place")
    for name in (*_PORTS, *_REFUSED):
        path = folder / "H01-labgrid" / f"{name}.yaml"
        if name in _PORTS:
            yield _row(path, None, "tolerances.recovery_s")
        text = path.read_text()
        with tempfile.TemporaryDirectory(prefix="edgejoule-lab-") as scratch:
            whole = Path(scratch) / path.name
            whole.write_text(text.replace(_LACKING, _GIVEN))
            yield _row(whole, _PORTS.get(name), _REFUSED.get(name, ""))


def _row(path: Path, wanted: str | None, words: str) -> RowFields:
    expected = f"refused with a way on; names {words}" if wanted is None else f"the port {wanted}"
    try:
        port = read_environment(path).port
        got, ok = f"the port {port}", wanted is not None and port == wanted
    except EdgejouleError as error:
        got = f"refused {error.exit_code}: {error}".replace(str(path.parent), "CASES")
        ok = wanted is None and words in got and ";" in got
    return f"H01-labgrid/{path.name}", KIND, expected, got, ok
