"""How long a daemon takes to end after SIGTERM, phase by phase, as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.device.faults import NAME, Rig, until
from benchmarks.device.runs import begin
from protos.model.bundle import Bundle

__all__ = ["PHASES", "measure"]

LIMIT_S = 2.0
PHOTOS = 80


def measure(folder: Path, bundle: Bundle, name: str) -> float:
    """Seconds from SIGTERM to the end of the process, of a phase of :data:`PHASES`."""
    rig = Rig(folder / name.replace(" ", "-"), bundle.path)
    try:
        return round(PHASES[name](rig), 2)
    finally:
        rig.close()


def _stop(process: subprocess.Popen[bytes]) -> float:
    """Seconds from the signal to the end."""
    begun_s = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(120.0)
    return time.monotonic() - begun_s


def _photographs(rig: Rig) -> None:
    """A folder of photographs of 12 megapixels, each of which takes a good part of a second to decode."""
    from PIL import Image

    original = rig.folder / "original.png"
    Image.fromarray(np.zeros((3000, 4000), np.uint8)).save(original)
    rig.data = rig.folder / "photographs"
    classes = rig.bundle.manifest.classes
    for number in range(PHOTOS):
        path = rig.data / classes[number % len(classes)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, path)


def _reads(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Whether the process has a file of this folder open."""
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            if str(link.readlink()).startswith(str(folder)):
                return True
        except OSError:
            continue
    return False


def _photographs_at_start(rig: Rig) -> float:
    rig.serve()
    _photographs(rig)
    daemon = rig.device("--bundle", rig.bundle.path)
    until(lambda: _reads(daemon, rig.data))
    return _stop(daemon)


def _photographs_for_order(rig: Rig) -> float:
    rig.serve()
    _photographs(rig)
    daemon = rig.device()
    rig.begin_run()
    until(lambda: any("bundle" in line for line in rig.log(NAME)) and _reads(daemon, rig.data))
    return _stop(daemon)


def _training(rig: Rig) -> float:
    rig.serve()
    rig.write_data(900)
    daemon = rig.device()
    begin(rig, epochs=100_000, deadline_s=900)
    until(lambda: (rig.folder / "state" / "embeddings").is_dir())
    time.sleep(5.0)
    return _stop(daemon)


def _idle(rig: Rig) -> float:
    rig.serve()
    rig.write_data()
    daemon = rig.device()
    until(lambda: (one := rig.shown(NAME)) is not None and one.state == "present")
    return _stop(daemon)


def _away(rig: Rig) -> float:
    coordinator = rig.serve()
    rig.write_data()
    daemon = rig.device()
    until(lambda: rig.shown(NAME) is not None)
    coordinator.terminate()
    coordinator.wait()
    until(lambda: any("does not answer" in line for line in rig.log(NAME)))
    return _stop(daemon)


def _hangs(rig: Rig) -> float:
    coordinator = rig.serve()
    rig.write_data()
    daemon = rig.device()
    until(lambda: rig.shown(NAME) is not None)
    coordinator.send_signal(signal.SIGSTOP)
    found = _stop(daemon)
    coordinator.send_signal(signal.SIGCONT)
    return found


def _hangs_in_training(rig: Rig) -> float:
    """There is a report that cannot be sent, and then a goodbye."""
    coordinator = rig.serve()
    rig.write_data(900)
    daemon = rig.device()
    begin(rig, epochs=100_000, deadline_s=900)
    until(lambda: (rig.folder / "state" / "embeddings").is_dir())
    time.sleep(5.0)
    coordinator.send_signal(signal.SIGSTOP)
    found = _stop(daemon)
    coordinator.send_signal(signal.SIGCONT)
    return found


PHASES: dict[str, Callable[[Rig], float]] = {
    "reading photographs at the start": _photographs_at_start,
    "reading photographs for an order": _photographs_for_order,
    "training": _training,
    "waiting for an order": _idle,
    "coordinator away": _away,
    "coordinator hangs": _hangs,
    "coordinator hangs while it trains": _hangs_in_training,
}
