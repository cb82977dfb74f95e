"""Figures of a fresh daemon process: how long until it is ready, and how much memory it takes.

The parent starts ``python3 -m edge_runtime.doctor.fresh_start`` with the settings as JSON, and takes the time until the
line that says ``ready`` arrives. The child opens the device as the daemon does, on a state folder of its own and
without the sensor (a running daemon may hold it), makes the gRPC channel without a coordinator, and, given data and a
bundle, does one local round of a few steps with everything in it but the sending.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.board import status_bytes
from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.round.work import work
from protos.convert.reports import serialise_report
from protos.errors import EdgejouleError
from protos.model.engine import engine_identity
from protos.orders import CodecOrder, DeviceReport, TrainOrder
from protos.update.codecs import DEFAULT_CODEC
from protos.update.tensors import as_float32

_STEPS = 20
_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class FreshStart:
    """What was measured; None for what was not reached.

    Attributes:
        ready_s: from the start of the process until it could join.
        rss_mb: highest resident memory (VmHWM), 10^6 bytes, at the end of what was done.
        rss_ready_mb: resident memory when ready.
        steps: local steps done, or None when no bundle and data were given.
        embedded: examples embedded.
        accelerator: ``edgetpu`` when they were embedded there, or empty.
        error: why it ended early.
        data: what became of the data, in one line.
        data_left_out: whether something of them was not read.
        data_unlike: how they differ from what the bundle was calibrated on.
    """

    ready_s: float | None = None
    rss_mb: float | None = None
    rss_ready_mb: float | None = None
    engine: str | None = None
    delegate: str | None = None
    steps: int | None = None
    embedded: int | None = None
    accelerator: str | None = None
    error: str | None = None
    data: str | None = None
    data_left_out: bool = False
    data_unlike: str = ""


def measure(settings: Settings) -> FreshStart:
    """Start a child process and measure it; an error in it is a part of the answer."""
    values = {
        name: str(value) if isinstance(value, os.PathLike) else value
        for name, value in dataclasses.asdict(settings).items()
    }
    root = str(Path(__file__).parents[2])
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    command = [sys.executable, "-P", "-m", "edge_runtime.doctor.fresh_start"]
    start_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="edgejoule-doctor-") as folder,
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=environ
        ) as child,
    ):
        assert child.stdin
        assert child.stdout
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps({**values, "state": folder}).encode() + b"\n")
            child.stdin.close()
        first = child.stdout.readline()
        ready_s = time.monotonic() - start_s
        try:
            child.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return FreshStart(ready_s=ready_s, error=f"a local round took more than {_TIMEOUT_S:.0f} s")
        rest = child.stdout.read()
        complaints.seek(0)
        last_words = complaints.read().decode(errors="replace").split("\n")
    found: dict[str, Any] = {}
    for line in (first, *rest.splitlines()):
        with contextlib.suppress(ValueError):
            found.update(json.loads(line))
    if child.returncode != 0 and "error" not in found:
        said = next((line.strip() for line in reversed(last_words) if line.strip()), "")
        found["error"] = f"the process ended with status {child.returncode} {said[:200]}".rstrip()
    if found.pop("ready", False):
        found["ready_s"] = round(ready_s, 3)
    return FreshStart(**found)


def _megabytes(field: str) -> float:
    return round(status_bytes(field) / 1e6, 1)


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


def _rehearse(device: Device, bundle: Path) -> DeviceReport:
    """One round of the bundle's own starting head, with everything in it but the sending."""
    bench = device.take_up(device.bundle_cache.adopt(bundle))
    order = TrainOrder(
        run_id="rehearsal",
        round=1,
        plan_id="rehearsal",
        bundle_id=bench.bundle.bundle_id,
        head_version="initial",
        head=as_float32(bench.bundle.initial_head()),
        steps=_STEPS,
        inputs={},
        codec=CodecOrder(DEFAULT_CODEC, {}),
        budget_j=None,
        deadline_s=3600.0,
        seed=0,
    )
    report = work(order, bench, lambda: False)
    serialise_report(report)
    return report


def main() -> int:
    """The child: see the module."""
    values = json.loads(sys.stdin.readline())
    values["state"] = Path(values["state"])
    values["bundle"] = Path(values["bundle"]) if values["bundle"] else None
    values["machine_root"] = Path(values["machine_root"])
    values.update(sensor="none", budget_j=None, pid_file=None)
    settings = Settings(**values)
    stopping = Stopping()
    device: Device | None = None
    try:
        identity = engine_identity()
        if settings.data is not None:
            device = Device(settings)
            if device.data_fault is not None:
                raise device.data_fault
        link = Link(settings.coordinator, stopping)
        _say(
            ready=True,
            rss_ready_mb=_megabytes("VmRSS"),
            rss_mb=_megabytes("VmHWM"),
            engine=f"{identity.name} {identity.version}",
            delegate=identity.delegate,
        )
        if device is not None:
            found = device.summary
            _say(data=found.account, data_left_out=bool(found.left_out), data_unlike=found.unlike)
        if device is not None and settings.bundle is not None:
            done = _rehearse(device, settings.bundle)
            _say(
                steps=done.steps_done,
                embedded=done.embedded,
                accelerator=done.engine.accelerator,
                rss_mb=_megabytes("VmHWM"),
            )
        link.close()
    except EdgejouleError as error:
        _say(error=str(error))
        return error.exit_code
    finally:
        if device is not None:
            device.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
