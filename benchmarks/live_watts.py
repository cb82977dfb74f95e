"""What looking at one board costs, in a fleet of 200: processor time of the coordinator, of the page, and of the board.

    .venv/bin/python benchmarks/live_watts.py --json OUT

A real coordinator, a real dashboard and a real daemon, whose sensor is a simulated bridge on a pseudo-terminal; the
other boards are connections that wait for an order, as idle boards do. The page has one viewer, first of the run alone,
then of the board's watts as well. Processor time is that of whole processes, user and system.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402
import numpy as np  # noqa: E402

from firmware_tools.bridge.simulator.bench import Bench, BridgeSpec, SimulatedBridge  # noqa: E402
from protos.convert.cards import card_to  # noqa: E402
from protos.orders import PROTOCOL, DeviceCard, Engine, MeterCard  # noqa: E402
from protos.v1 import edgejoule_pb2 as pb  # noqa: E402
from protos.v1 import edgejoule_pb2_grpc as rpc  # noqa: E402

EACH_CONNECTION = 50
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
WATCHED = "pi-watched"


@contextmanager
def program(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command, ended with the block."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def ready(path: Path, process: subprocess.Popen[bytes]) -> str:
    """What a ready file says, when it is there."""
    while not path.exists():
        if process.poll() is not None:
            raise SystemExit(f"a program ended with {process.returncode}")
        time.sleep(0.05)
    return path.read_text().strip()


def idle(address: str, number: int, stack: ExitStack) -> None:
    """Boards that wait for an order."""
    for first in range(0, number, EACH_CONNECTION):
        channel = stack.enter_context(grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]))
        stub = rpc.DeviceServiceStub(channel)
        for at in range(first, min(number, first + EACH_CONNECTION)):
            name = f"pi-{at:03d}"
            card = DeviceCard(name, name, "0", "pi4", Engine("x", "1", "none"), MeterCard("measured", "x"), 9, 0)
            stub.Join(card_to(card, PROTOCOL), timeout=60, wait_for_ready=True)
            stub.NextOrder.future(pb.NextOrderRequest(device_id=name, session=name, waits_s=480), timeout=600)


class Viewer:
    """A reader of one stream of events, which counts them."""

    def __init__(self, url: str, path: str) -> None:
        self.events = self.size_bytes = 0
        host = url.removeprefix("http://").rstrip("/")
        self._connection = http.client.HTTPConnection(host, timeout=120)
        self._connection.request("GET", path)
        self._answer = self._connection.getresponse()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while line := self._answer.readline():
            self.size_bytes += len(line)
            self.events += line.startswith(b"data: ")


def spent_s(process: subprocess.Popen[bytes]) -> float:
    """Processor time of a process so far, s."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def measured(processes: dict[str, subprocess.Popen[bytes]], seconds: float) -> dict[str, float]:
    """Percent of a core that each takes."""
    before, began_s = {name: spent_s(process) for name, process in processes.items()}, time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    return {name: round(100 * (spent_s(process) - before[name]) / took_s, 2) for name, process in processes.items()}


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        at = Path(folder)
        np.savez(at / "data.npz", x=np.zeros((40, 8, 8, 1), np.uint8), y=np.arange(40, dtype=np.int32) % 4)
        bridge = SimulatedBridge(BridgeSpec(link=at / "ttyINA", load="square:2,6,0.5"))
        stack.enter_context(Bench([bridge]))
        serve = ("serve", "--state", str(at / "state"), "--listen", "127.0.0.1:0", "--ready-file", str(at / "c"))
        coordinator = stack.enter_context(program("coordinator.cli", *serve))
        address = ready(at / "c", coordinator)
        show = ("dashboard", "--coordinator", address, "--listen", "127.0.0.1:0", "--ready-file", str(at / "p"))
        page = stack.enter_context(program("coordinator.cli", *show))
        url = ready(at / "p", page)
        idle(address, given.devices - 1, stack)
        run = ("run", "--coordinator", address, "--device-id", WATCHED, "--state", str(at / "board"))
        board = stack.enter_context(
            program("edge_runtime.cli", *run, "--data", str(at / "data.npz"), "--sensor", f"serial:{at / 'ttyINA'}")
        )
        processes = {"coordinator": coordinator, "page": page, "board": board}
        time.sleep(20)
        viewers = []
        for looked in ("at nothing", "at the run", "at the watts of one board"):
            if looked != "at nothing":
                viewers.append(Viewer(url, "/events" if len(viewers) == 0 else f"/watts?device={WATCHED}"))
            time.sleep(5)
            before = [(viewer.events, viewer.size_bytes) for viewer in viewers]
            shares = measured(processes, given.seconds)
            told = [
                (viewer.events - events, viewer.size_bytes - size)
                for viewer, (events, size) in zip(viewers, before, strict=True)
            ]
            rows.append(
                {
                    "looked": looked,
                    "devices": given.devices,
                    "seconds": given.seconds,
                    **{f"{name}_percent": share for name, share in shares.items()},
                    "events_per_s": round(sum(one for one, _ in told) / given.seconds, 2),
                    "bytes_per_s": round(sum(size for _, size in told) / given.seconds),
                }
            )
            given.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
