"""Highest resident memory of a daemon over a folder of photographs of 12 megapixels, of so many and of four times.

Photographs are one file under many names, so that the disk need not hold them: each is decoded as if it were its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.device.faults import NAME, Rig, until
from protos.model.bundle import Bundle

__all__ = ["measure"]

FEW, MANY = 50, 200


def measure(folder: Path, bundle: Bundle, quick: bool) -> list[dict[str, Any]]:
    """Rows of the part `memory` of ``field.py``."""
    return [_row(folder / str(count), bundle, count) for count in ((10, 40) if quick else (FEW, MANY))]


def _row(folder: Path, bundle: Bundle, count: int) -> dict[str, Any]:
    rig = Rig(folder, bundle.path)
    try:
        rig.serve()
        rig.data = folder / "photographs"
        _photographs(rig, folder / "original.jpg", count)
        daemon = rig.device()
        until(lambda: (one := rig.shown(NAME)) is not None and one.train_examples == count)
        rig.await_run(rig.begin_run())
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    finally:
        rig.close()
    return {"case": f"after a round of {count} photographs of 12 MP", "rss_mb": round(peak_kb * 1024 / 1e6, 1)}


def _photographs(rig: Rig, original: Path, count: int) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    small = random.integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(small).resize((4000, 3000), Image.Resampling.BICUBIC).save(original, quality=90)
    classes = rig.bundle.manifest.classes
    for number in range(count):
        path = rig.data / classes[number % len(classes)] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(original, path)
