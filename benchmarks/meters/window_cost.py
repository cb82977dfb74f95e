"""What a window of :mod:`edge_runtime.api` costs the program that is measured: over a simulated bridge.

    .venv/bin/python benchmarks/meters/window_cost.py [--json OUT]

Seconds are CPU seconds of the thread that begins, ends and reads windows, so other load on the machine hardly counts;
the wait for the last samples is wall time, the median of many.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from edge_runtime.api import Meter
from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge

WINDOWS = 2000
READS = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for profile in ("energy", "transient"):
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / "ttyINA"
            bridge = SimulatedBridge(BridgeSpec(link=link, load="square:2,6,0.05", profile=profile, seed=1))
            with Bench([bridge]), Meter(f"serial:{link}") as meter, meter.window("outer"):
                # With a window around, so that nothing can be forgotten meanwhile.
                before_s = time.thread_time()
                for _ in range(WINDOWS):
                    with meter.window("inner"):
                        pass
                each_s = (time.thread_time() - before_s) / WINDOWS
                before_s = time.thread_time()
                meter.total("inner")
                settle_s = (time.thread_time() - before_s) / WINDOWS
                waits = []
                for _ in range(READS):
                    with meter.window("read") as window:
                        time.sleep(0.02)
                    begun_s = time.perf_counter()
                    assert window.energy_j is not None
                    waits.append(time.perf_counter() - begun_s)
                quartiles = statistics.quantiles(waits, n=20)
                found[profile] = {
                    "window_us": 1e6 * each_s,
                    "settle_us": 1e6 * settle_s,
                    "wait_ms": 1e3 * statistics.median(waits),
                    "wait_95_ms": 1e3 * quartiles[-1],
                }
    print("| Profile | CPU to begin and end | CPU to settle | Wait for a figure, median | 95 % of them |")
    print("|---|---:|---:|---:|---:|")
    for profile, row in found.items():
        cost = f"{row['window_us']:.0f} µs | {row['settle_us']:.0f} µs"
        print(f"| `{profile}` | {cost} | {row['wait_ms']:.0f} ms | {row['wait_95_ms']:.0f} ms |")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
