"""Highest resident memory of a daemon over a folder of photographs of 12 megapixels, of few and of very many.

Photographs of a large folder are files of their own, about 1 MB each: one picture of random hills, whose header then
names for each photograph another step of quantisation for the mean of a block (`Qk` for `k = 0` of ISO/IEC 10918-1,
B.2.4.1) and other bytes behind its end. So each has pixels of its own and has to be hashed, decoded and embedded, and
making them costs no encoding. The resident memory on the way shows whether it grows with the count.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.device.faults import NAME, Rig, until
from benchmarks.device.runs import begin
from protos.model.bundle import Bundle

__all__ = ["FEW", "MANY", "counts", "row"]

FEW, MANY = 50, 5000
QUICK = (10, 40)
WIDTH, HEIGHT = 4000, 3000
_PICTURES = 8
# Seconds for which a photograph may be waited for; a busy board decodes two a second at least.
_EACH_S = 0.5
_QUANTISERS = b"\xff\xdb"


def counts(quick: bool) -> tuple[int, int]:
    """How many photographs the folders have."""
    return QUICK if quick else (FEW, MANY)


def row(folder: Path, bundle: Bundle, count: int) -> dict[str, Any]:
    """A row of the part `memory` of ``field.py``: one round over so many photographs.

    It has the highest resident memory of the round, and that of quarters of the way.
    """
    rig = Rig(folder, bundle.path)
    limit_s = 90.0 + _EACH_S * count
    seen: list[float] = []
    try:
        rig.serve()
        rig.data = folder / "photographs"
        _photographs(rig, count)
        daemon = rig.device()
        until(lambda: (one := rig.shown(NAME)) is not None and one.train_examples == count, limit_s)
        run_id = begin(rig, deadline_s=round(limit_s))

        def is_over() -> bool:
            if rows_done(folder) >= (len(seen) + 1) * count // 4:
                seen.append(memory_mb(daemon.pid, "VmRSS:"))
            return rig.state_of(run_id) not in ("waiting", "running")

        took_s = until(is_over, limit_s)
        if (state := rig.state_of(run_id)) != "finished":
            raise AssertionError(f"the run over {count} photographs {state}")
        peak_mb, rows = memory_mb(daemon.pid, "VmHWM:"), rows_done(folder)
    finally:
        rig.close()
    if rows != count:
        raise AssertionError(f"{rows} of {count} photographs were embedded")
    return {
        "case": f"after a round of {count} photographs of 12 MP",
        "rss_mb": peak_mb,
        "on_the_way_mb": seen,
        "round_s": round(took_s, 1),
    }


def rows_done(folder: Path) -> int:
    """Embeddings that the device has on disk, of as many as its largest file is to have."""
    found = 0
    for path in (folder / "state" / "embeddings").glob("*/progress.json"):
        record = json.loads(path.read_bytes())
        found = max(found, int(record["rows"]))
    return found


def memory_mb(pid: int, what: str) -> float:
    """Resident memory of a process, 10^6 bytes: VmRSS now, VmHWM the highest so far (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith(what))
    return round(kilobytes * 1024 / 1e6, 1)


def _photographs(rig: Rig, count: int) -> None:
    """Fill a folder with photographs of the bundle's classes, each with pixels of its own."""
    from io import BytesIO

    from PIL import Image

    random, pictures = np.random.default_rng(0), []
    for _ in range(_PICTURES):
        hills = random.integers(0, 255, (30, 40, 3), np.uint8)
        file = BytesIO()
        Image.fromarray(hills).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        pictures.append(file.getvalue())
    classes = rig.bundle.manifest.classes
    for number in range(count):
        data = bytearray(pictures[number % _PICTURES])
        # Marker, length (2), precision and table (1), then the step of the mean, 1 to 255: for luminance and colours.
        first = data.index(_QUANTISERS) + 5
        second = data.index(_QUANTISERS, first + 64) + 5
        data[first], data[second] = 2 + number // _PICTURES % 30, 2 + number // _PICTURES // 30
        path = rig.data / classes[number % len(classes)] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(data) + number.to_bytes(8, "big"))
