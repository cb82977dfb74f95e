"""``edge-runtime bench``: latency and joules of one prediction of the model at work, on this board."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.config import Settings
from edge_runtime.model.settings_of import model_at, settings_from
from protos.commands.json_document import document
from protos.errors import UsageError

__all__ = ["measured", "run"]

_MOST_S = 3600.0


def run(given: argparse.Namespace) -> int:
    """Measure and print."""
    if not 0 < given.seconds <= _MOST_S:
        raise UsageError(f"{given.seconds:g} s cannot be measured", where="--seconds", fix=f"give 1 to {_MOST_S:g}")
    settings = settings_from(given)
    found = measured(settings, given.sensor or settings.sensor, given.seconds)
    print(json.dumps(document("bench", found), indent=2) if given.json else _table(found))
    return 0


def measured(settings: Settings, sensor: str, seconds: float) -> dict[str, Any]:
    """The figures of the model at work."""
    from edge_runtime.api import Meter
    from edge_runtime.health.condition import Watch
    from edge_runtime.model.bench import bench
    from edge_runtime.model.predictor import Predictor

    predictor = Predictor(model_at(settings), threads=settings.threads)
    spec = predictor.model.bundle.manifest.backbone
    x = np.random.default_rng(0).integers(0, min(256, spec.vocabulary or 256), (1, *spec.input_shape)).astype(np.uint8)
    root = Path(settings.machine_root)
    watch = Watch(root, now_s=time.monotonic, own_cpu_s=time.process_time, load=False)
    with Meter(sensor) as meter:
        found = bench(lambda: predictor.predict(x), meter, watch.look, seconds)
        return found.as_dict(predictor.version)


def _table(found: dict[str, Any]) -> str:
    def number(value: float | None, unit: str) -> str:
        return "?" if value is None else f"{value:.4g} {unit}"

    interval = found["interval_j"]
    spread = "" if interval is None else f" (95 %: {interval[0]:.4g} to {interval[1]:.4g})"
    heat, flags = found["temperature_c"], found["flags"]
    slow = [word for key, word in (("throttled", "its clock was held down"), ("under_voltage", "the supply sagged"))
            if found[key]]  # fmt: skip
    rows = [
        ("model", found["version"]),
        ("predictions", f"{found['predictions']} in {found['seconds']:.1f} s"),
        ("latency", f"p50 {found['p50_ms']:.3f} ms, p90 {found['p90_ms']:.3f} ms, p99 {found['p99_ms']:.3f} ms"),
        ("joules each", f"{number(found['energy_j'], 'J')}{spread}, beyond the board at rest; {found['method']}"),
        ("with the rest", number(found["gross_j"], "J")),
        ("board at rest", number(found["idle_w"], "W")),
        ("temperature", f"{number(heat['before'], 'degrees')} before, {number(heat['highest'], 'degrees')} at most"),
    ]
    rows += [("not typical", ", ".join(slow))] if slow else []
    rows += [("flags", ", ".join(flags))] if flags else []
    return "\n".join(f"{name:<14} {text}" for name, text in rows)
