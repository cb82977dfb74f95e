"""One life of the emulated 512 MB board, from outside: its disk, its two services one after the other, three runs.

The service of an environment does the first two runs, that of the Debian package the third, on the first of the same
examples. The coordinator is here, and so is a native device that does the first run to compare with.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arm_machine
import numpy as np
from arm_round import DEVICE_ID, PATIENCE_S, Outcome, coordinating, outcome, plain_environ, play

MACHINE = "512 MB machine"
EXAMPLES = 5000
EPOCHS = 2
FEW_EXAMPLES = 500
FEW_EPOCHS = 10
MEMORY_MAX_MB = 256
_SETTINGS = f"""
device_id = "{DEVICE_ID}"
data = "/var/lib/workshop/device.npz"
sensor = "estimate:pi-zero-2"
memory_max_mb = {MEMORY_MAX_MB}
require_delegate = "xnnpack"
"""
_SOCKET = "[Socket]\nListenStream=127.0.0.1:50461\n"
_FORWARDER = "[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd {host}:{port}\n"


@dataclass(frozen=True)
class Shown:
    """What the machine left, the head after each run, and what a native device made of the first order.

    ``packaged`` is None when the life of the package did not come to its run.
    """

    found: dict[str, Any]
    outcomes: tuple[Outcome, Outcome]
    packaged: Outcome | None
    native: Outcome


def show(parts: arm_machine.Parts, work: Path, package: Path, folder: Path) -> Shown:
    """Let it happen, with logs in ``folder``.

    Args:
        work: a bundle and :data:`EXAMPLES` examples, from ``benchmarks/inputs/wide_bundle.py``.
        package: the .deb for arm64.
    """
    native = play(folder / "native", work, [sys.executable, "-m", "edge_runtime.cli"], plain_environ(), epochs=EPOCHS)
    with coordinating(folder / "vm") as coordinator:
        forwarder = _FORWARDER.format(host=arm_machine.HOST, port=coordinator.port)
        files = {
            "/etc/edgejoule/device.toml": _SETTINGS.encode(),
            "/etc/edgejoule/device.key": b"a key for the service alone\n",
            "/var/lib/workshop/device.npz": (work / "device.npz").read_bytes(),
            "/var/lib/workshop/few.npz": _first(work / "device.npz", FEW_EXAMPLES),
            "/srv/edgejoule.deb": package.read_bytes(),
            "/etc/systemd/system/coordinator-tunnel.socket": _SOCKET.encode(),
            "/etc/systemd/system/coordinator-tunnel.service": forwarder.encode(),
        }
        image = arm_machine.disk(parts, folder, files)
        machine = arm_machine.boot(parts, image, folder)
        try:
            runs = [coordinator.begin(work, epochs=EPOCHS)]
            if machine.reaches("the service was started again", timeout_s=2 * PATIENCE_S):
                runs.append(coordinator.begin(work, epochs=EPOCHS))
            if machine.reaches("the package's service has joined", timeout_s=2 * PATIENCE_S):
                runs.append(coordinator.begin(work, epochs=FEW_EPOCHS))
            machine.until(lambda text: False, timeout_s=2 * PATIENCE_S)
            found = machine.result()
            (folder / "result.json").write_text(json.dumps(found, indent=2))
            assert "error" not in found, f"{found['error']}\n{found.get('journal')}"
            over = runs if "error" not in found["package"] else runs[:2]
            statuses = [coordinator.finished(run, timeout_s=60.0) for run in over]
        finally:
            machine.end()
            image.unlink()
    first, second, *third = (outcome(folder / "vm", status) for status in statuses)
    return Shown(found, (first, second), third[0] if third else None, native)


def _first(path: Path, count: int) -> bytes:
    """The first examples of an .npz, as one."""
    file = io.BytesIO()
    with np.load(path) as arrays:
        np.savez(file, **{name: arrays[name][:count] for name in arrays.files})
    return file.getvalue()
