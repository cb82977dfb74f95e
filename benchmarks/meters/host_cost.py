"""What metering costs the processor that is metered: CPU seconds for a million samples.

Twice: the arithmetic alone (bytes of a simulated bridge, on virtual time, through parser, track and meter), and all of
it (a bridge in another process, a pseudo-terminal, the reading thread, with a clock exchange each half second).

    .venv/bin/python benchmarks/meters/host_cost.py --seconds 20 --json host-cost.json
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edge_runtime.power.bridge.bridge_opening import bridge_sensor
from edge_runtime.power.meters.sensor_meter import SensorMeter
from edge_runtime.power.sensor_factory import open_meter
from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import SquareLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Calibration
from protos.energy.trace import Phase

ROOT = Path(__file__).resolve().parents[2]
READ_EACH_S = 0.1
LOAD = "square:2,6,0.2"


class VirtualClock:
    """Time that the benchmark moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return 0.0

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        return True


def arithmetic(profile: str, seconds: float) -> tuple[float, int]:
    """CPU seconds of parsing and adding up ``seconds`` of samples, and how many there were."""
    clock = VirtualClock()
    rng = np.random.default_rng(1)
    chip = SimulatedIna219(
        SquareLoad(2.0, 6.0, 0.2), supply_v=5.0, shunt_ohm=0.02, errors=SensorErrors.drawn(rng),
        profile=PROFILES[profile], rng=rng, start_s=0.0,
    )  # fmt: skip
    device = Device([Channel(chip, Calibration(1, 20_000))], profile=PROFILES[profile], now_s=0.0)
    sensor = bridge_sensor("virtual", {}, clock)
    meter = SensorMeter(sensor, clock)
    meter.start()
    meter.mark(Phase.TRAIN)
    cpu_s, samples, answer = 0.0, 0, b""
    while clock.now_s < seconds:
        clock.now_s += READ_EACH_S
        data = answer + device.advance(clock.now_s)
        begin_s = time.process_time()
        sensor.session.receive(data, clock.now_s)
        sensor.track.work()
        question = sensor.session.due(clock.now_s)
        cpu_s += time.process_time() - begin_s
        answer = device.receive(question, clock.now_s)
    samples = len(sensor.trace())
    return cpu_s, samples


def live(profile: str, seconds: float) -> tuple[float, float]:
    """CPU seconds of this process while it meters a bridge of another one, and the seconds that passed."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "bridge.tty"
        bridge = subprocess.Popen(
            [sys.executable, "-m", "firmware_tools.cli", "bridge", "sim", "--link", str(link), "--load", LOAD,
             "--sensor-profile", profile, "--seed", "3"], cwd=ROOT, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            give_up_s = time.monotonic() + 20.0
            while not link.exists():
                if bridge.poll() is not None or time.monotonic() > give_up_s:
                    raise SystemExit("the simulated bridge did not start")
                time.sleep(0.05)
            meter = open_meter(f"serial:{link}")
            try:
                meter.start()
                meter.mark(Phase.TRAIN)
                time.sleep(2.0)
                cpu_s, begin_s = time.process_time(), time.monotonic()
                time.sleep(seconds)
                return time.process_time() - cpu_s, time.monotonic() - begin_s
            finally:
                meter.close()
        finally:
            bridge.send_signal(signal.SIGINT)
            bridge.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each measurement (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    given = parser.parse_args()
    rows = []
    for name, profile in PROFILES.items():
        sums_s, samples = arithmetic(name, given.seconds)
        cpu_s, passed_s = live(name, given.seconds)
        rate_hz = samples / given.seconds
        rows.append(
            {
                "profile": name,
                "rate_hz": rate_hz,
                "arithmetic_cpu_s_per_million": sums_s / samples * 1e6,
                "live_cpu_s_per_million": cpu_s / passed_s / profile.rate_hz * 1e6,
                "live_share_of_a_core": cpu_s / passed_s,
            }
        )
    print("profile       samples/s   arithmetic, CPU s / 1e6   live, CPU s / 1e6   live, share of a core")
    for row in rows:
        print(
            f"{row['profile']:10} {row['rate_hz']:12.0f} {row['arithmetic_cpu_s_per_million']:25.1f} "
            f"{row['live_cpu_s_per_million']:19.1f} {row['live_share_of_a_core']:22.2%}"
        )
    if given.json:
        document = {"machine": platform.processor() or platform.machine(), "python": platform.python_version()}
        given.json.write_text(json.dumps({**document, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
