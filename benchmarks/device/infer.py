"""Latency and joules of one prediction, over a simulated bridge on a pseudo-terminal, as a user measures them.

The bridge shows constant watts, so joules beyond the board at rest are none but for its noise; what is shown is that
the interval holds that, and the gross figure, which is watts times seconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.device.faults import Rig
from edge_runtime.model.current import About, take
from protos.model.bundle import Bundle
from protos.update import trees

__all__ = ["measure"]

SECONDS, QUICK_S = 30.0, 5.0


def measure(folder: Path, bundle: Bundle, quick: bool) -> dict[str, Any]:
    """The part of ``field.py``."""
    rig = Rig(folder, bundle.path)
    try:
        state = folder / "work"
        state.mkdir(parents=True)
        head = bundle.initial_head()
        version = trees.version(head)
        take(state, bundle, head, About(version, version, bundle.bundle_id, "run-1", "infer", 1))
        _, link = rig.bridge()
        command = [sys.executable, "-m", "edge_runtime.cli", "bench", "--json", "--state", str(state)]
        command += ["--seconds", str(QUICK_S if quick else SECONDS), "--sensor", f"serial:{link}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
    finally:
        rig.close()
    keys = ("p50_ms", "p90_ms", "p99_ms", "interval_j", "gross_j", "predictions", "method", "flags")
    return {**{key: found[key] for key in keys}, "joules": found["energy_j"]}
