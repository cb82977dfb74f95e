"""Bytes that a recording needs for each sample, and how fast it is written and read.

Recorded 1 kHz power traces (the folder of reference data, see `benchmarks/inputs/reference_data.py`) are the load of a
simulated bridge on virtual time, at three settings, with the varied rhythm of the firmware; and, as they are, they are
rounded to INA219 registers at 1 kHz.

    .venv/bin/python benchmarks/recordings.py --json recordings.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.inputs.reference_data import root
from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.events import Batch, Event, Exchanged, Greeting
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.recording.entries import decode, encode, sample_count
from edge_runtime.power.recording.header import Header
from edge_runtime.power.recording.reader import Recording
from edge_runtime.power.recording.writer import BLOCK_S, BlockFile
from edge_runtime.power.sensor import Capabilities
from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.bridge.messages import Samples
from protos.energy.ina219 import PROFILES
from protos.energy.uncertainty import ErrorModel
from protos.errors import EdgejouleError

TRACES = ("stm32l4r5_kws", "stm32l4r5_ad", "pynq_z2_kws", "pynq_z2_ic_cnv")
LONGEST_S = 60.0
SUPPLY_V = 5.0
RATE_HZ = 1000.0


class TraceLoad:
    """A recorded trace as a load: mean watts of each millisecond, again from the beginning at its end."""

    known_from_s = float("-inf")

    def __init__(self, power_w: np.ndarray, start_s: float) -> None:
        self._start_s = start_s
        self._grown_j = np.concatenate([[0.0], np.cumsum(power_w / RATE_HZ)])

    def poll(self, now_s: float) -> None:
        return None

    def energy_j(self, t_s: Any) -> np.ndarray:
        steps = (np.asarray(t_s, np.float64) - self._start_s) * RATE_HZ
        last = len(self._grown_j) - 1
        rounds = np.floor(steps / last)
        return rounds * self._grown_j[-1] + np.interp(steps - rounds * last, np.arange(last + 1), self._grown_j)


def trace_w(name: str) -> np.ndarray:
    """Watts of a trace of the MLPerf Tiny results, one per millisecond."""
    path = root() / "power_traces" / "mlperf_tiny_1khz" / name / "trace1-energy.bin"
    return np.frombuffer(path.read_bytes()[5:], "<f4").astype(np.float64) * 1e-3


def shunt_for(power_w: np.ndarray) -> float:
    """The usual shunt whose 80 mV range holds the trace's peak."""
    peak_a = float(power_w.max()) / SUPPLY_V
    return next(ohm for ohm in (1.0, 0.1, 0.02, 0.01) if peak_a * ohm < 0.075)


def simulated(power_w: np.ndarray, profile: str, seconds: float) -> Iterator[list[Event]]:
    """Events of a bridge whose load is the trace, a list for each block."""
    now_s, rng = 1000.0, np.random.default_rng(5)
    shunt_ohm, errors = shunt_for(power_w), SensorErrors.drawn(rng)
    sensor = SimulatedIna219(
        TraceLoad(power_w, now_s), supply_v=SUPPLY_V, shunt_ohm=shunt_ohm, errors=errors, profile=PROFILES[profile],
        rng=rng, start_s=now_s, dither=True,
    )  # fmt: skip
    calibration = errors.calibrated(7, shunt_ohm, day=20_000)
    channel = Channel(sensor, calibration)
    device = Device([channel], profile=PROFILES[profile], uid=b"benchmrk", drift_ppm=40, now_s=now_s)
    heard: list[Event] = []
    session = BridgeSession(0, heard.append)
    end_s, block_s = now_s + seconds, now_s
    while now_s < end_s:
        now_s += 1e-3
        session.receive(device.advance(now_s), now_s)
        if commands := session.due(now_s):
            answer = device.receive(commands, now_s + float(rng.uniform(1e-4, 1.1e-3)))
            session.receive(answer, now_s + float(rng.uniform(1.2e-3, 2.2e-3)))
        if now_s - block_s >= BLOCK_S:
            block_s = now_s
            yield heard[:]
            heard.clear()
    yield heard


def rounded(power_w: np.ndarray) -> Iterator[list[Event]]:
    """The trace itself as registers, a sample each millisecond, a list for each block."""
    shunt_ohm = shunt_for(power_w)
    greeting = next(e for es in simulated(power_w, "balanced", 1.0) for e in es if isinstance(e, Greeting))
    shunt = np.rint(power_w / SUPPLY_V * shunt_ohm / 10e-6).astype(np.int16)
    bus = np.full(len(shunt), round(SUPPLY_V / 4e-3) << 3 | 2, np.uint16)
    dt_us = np.full(16, 1000, np.int64)
    for begin in range(0, len(shunt) - 16, 2000):
        batches: list[Event] = [greeting] if begin == 0 else []
        for at in range(begin, min(begin + 2000, len(shunt) - 16), 16):
            part, t0 = slice(at, at + 16), at * 1000 & 0xFFFFFFFF
            batches.append(Batch(Samples(0, 1, at // 16 & 0xFFFF, 0, 3, t0, dt_us, shunt[part], bus[part])))
        yield batches


def measured(name: str, source: str, blocks: Iterator[list[Event]]) -> dict[str, Any]:
    """Write the events as a file in memory-backed storage; bytes per sample, and seconds of work per million."""
    lists = list(blocks)
    samples = sum(sample_count(event) for events in lists for event in events)
    header = Header(
        MeterIdentity("measured", "ina219:bench#0", "00000007", "calibrated"), Capabilities(1000.0, "device"),
        ErrorModel(), 1000.0, "2026-01-01T00:00:00.000+00:00", "bench", "", "bench",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = BlockFile(Path(folder) / "trace.ejr", header)
        for events in lists:
            file.append(events)
        file.close()
        recording = Recording(Path(folder) / "trace.ejr")
        began = time.process_time()
        recording.overview()
        looked_s = time.process_time() - began
        read = sum(sample_count(entry) for entry in recording.entries())
    assert read == samples
    began = time.process_time()
    bodies = [encode(events) for events in lists]
    encoded_s = time.process_time() - began
    began = time.process_time()
    for body in bodies:
        decode(body)
    decoded_s = time.process_time() - began
    return {
        "trace": name,
        "source": source,
        "samples": samples,
        "exchanges": sum(isinstance(event, Exchanged) for events in lists for event in events),
        "file_bytes": file.written_bytes,
        "bytes_per_sample": file.written_bytes / samples,
        "encode_s_per_million": encoded_s / samples * 1e6,
        "decode_s_per_million": decoded_s / samples * 1e6,
        "overview_s_per_million": looked_s / samples * 1e6,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="OUT", type=Path, help="write the rows to OUT as well")
    given = parser.parse_args(arguments)
    rows = []
    print(f"{'trace':>16}  {'source':>20}  {'samples':>8}  {'bytes/sample':>12}  {'s/1e6 written':>13}  {'read':>6}")
    try:
        for name in TRACES:
            power_w = trace_w(name)
            for profile in ("energy", "balanced", "transient"):
                seconds = min(LONGEST_S, len(power_w) / RATE_HZ)
                rows.append(measured(name, f"bridge, {profile}", simulated(power_w, profile, seconds)))
                _print(rows[-1])
            rows.append(measured(name, "registers at 1 kHz", rounded(power_w)))
            _print(rows[-1])
    except EdgejouleError as error:
        print(f"recordings: {error}", file=sys.stderr)
        return error.exit_code
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def _print(row: dict[str, Any]) -> None:
    print(
        f"{row['trace']:>16}  {row['source']:>20}  {row['samples']:>8}  {row['bytes_per_sample']:>12.2f}"
        f"  {row['encode_s_per_million']:>13.2f}  {row['decode_s_per_million']:>6.2f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
