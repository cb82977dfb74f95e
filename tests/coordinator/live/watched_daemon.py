"""A real daemon whose sensor is a bridge on a pseudo-terminal, for those who look at its watts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from running_daemon import RunningDaemon

from edge_runtime.config import resolve
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge

LOW_W, HIGH_W, PERIOD_S = 2.0, 6.0, 0.5


@contextmanager
def watched_daemon(
    folder: Path, address: str, name: str = "pi-watts", *, sensor: bool = True
) -> Iterator[SimulatedBridge]:
    """A daemon that waits for orders, its board's power a square of 2 and 6 W; with ``sensor`` False it has none."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    labels = np.arange(40, dtype=np.int32) % 4
    np.savez(folder / "data.npz", x=rng.integers(0, 255, (40, 8, 8, 1)).astype(np.uint8), y=labels)
    bridge = SimulatedBridge(BridgeSpec(link=folder / "ttyINA", load=f"square:{LOW_W},{HIGH_W},{PERIOD_S}"))
    given = {
        "coordinator": address,
        "device_id": name,
        "state": str(folder / "state"),
        "data": str(folder / "data.npz"),
        "sensor": f"serial:{bridge.spec.link}" if sensor else "none",
        "pause_above_c": "0",
        "throttled_from": "none",
    }
    with Bench([bridge]):
        daemon = RunningDaemon(resolve(given, {}, None).settings)
        try:
            yield bridge
        finally:
            daemon.stop()
