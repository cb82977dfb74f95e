"""Figures of the coordinator for Prometheus, on loopback, where an operator asked for them.

Names follow the conventions of Prometheus: base units in the name, ``_total`` for what only grows, ratios from 0 to 1.
A figure that is not known has no sample, which is not the same as 0. Rows are bounded: runs that are over are told for
the newest :data:`MOST_RUNS` alone. A page is made at most once in :data:`FRESH_S` seconds, however many ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.operator.status import DeviceStatus, RunStatus
from coordinator.server.operations import Operations
from coordinator.server.version import software_version
from protos.addresses import bare, host_and_port, is_loopback, with_port
from protos.errors import EdgejouleError, UsageError

__all__ = ["METRICS", "MOST_RUNS", "MetricsServer", "check_metrics", "exposition"]

log = logging.getLogger("edgejoule.coordinator")

MOST_RUNS = 20
FRESH_S = 2.0
_PATIENCE_S = 5.0
_MOST_BYTES = 8 << 10
_STATES = ("scheduled", "waiting", "running", "paused", "finished", "stopped", "failed")
_DEVICE_STATES = ("present", "away", "left")

METRICS: Mapping[str, tuple[str, str]] = {
    "edgejoule_build_info": ("gauge", "1, with the version of the coordinator."),
    "edgejoule_runs": ("gauge", "Runs by state."),
    "edgejoule_run_closed_rounds": ("gauge", "Newest closed round of a run."),
    "edgejoule_run_planned_rounds": ("gauge", "Rounds that its plan names."),
    "edgejoule_run_accuracy_ratio": ("gauge", "Accuracy after the newest closed round, on held-out data, 0 to 1."),
    "edgejoule_run_loss": ("gauge", "Loss after the newest closed round, on held-out data."),
    "edgejoule_devices": ("gauge", "Devices by state."),
    "edgejoule_device_present": ("gauge", "1 when the device is there, 0 when it is away or has left."),
    "edgejoule_device_last_seen_timestamp_seconds": ("gauge", "Unix time of the device's last call."),
    "edgejoule_device_energy_joules_total": ("counter", "Joules that the device reported, idling left out."),
    "edgejoule_device_unknown_phases_total": ("counter", "Phases that it reported without joules."),
    "edgejoule_device_examples": ("gauge", "Training examples that it holds."),
    "edgejoule_reports_total": ("counter", "Reports by what became of them, since the coordinator started."),
    "edgejoule_metrics_duration_seconds": ("gauge", "What making this page took."),
}
"""Kind and meaning by name."""


@dataclass
class _Samples:
    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, value: float | None, /, **labels: str) -> None:
        if value is None:
            return
        said = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        self.rows.setdefault(name, []).append(f"{name}{f'{{{said}}}' if said else ''} {float(value)!r}")

    def text(self) -> str:
        lines = []
        for name, (kind, meaning) in METRICS.items():
            if name in self.rows:
                lines += [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}", *self.rows[name]]
        return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """
    >>> print(_escaped('a"b' + chr(10)))
    a\\"b\\n
    """
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def exposition(
    runs: Sequence[RunStatus],
    devices: Iterable[DeviceStatus],
    reports: Mapping[str, int],
    *,
    version: str,
    took_s: float,
) -> str:
    """The page, in Prometheus' text format 0.0.4.

    Args:
        runs: each with its newest closed round, in the order in which they were started.
        reports: counts by reason.
    """
    made = _Samples()
    made.add("edgejoule_build_info", 1, version=version)
    by_state = Counter(run.state for run in runs)
    for state in _STATES:
        made.add("edgejoule_runs", by_state[state], state=state)
    shown = {run.run_id for run in runs if not run.is_over} | {run.run_id for run in runs[-MOST_RUNS:]}
    for run in runs:
        if run.run_id not in shown:
            continue
        labels = {"run": run.run_id, "name": run.name}
        newest = run.rounds[-1] if run.rounds else None
        made.add("edgejoule_run_closed_rounds", 0 if newest is None else newest.round, **labels)
        made.add("edgejoule_run_planned_rounds", run.rounds_planned, **labels)
        if newest is not None:
            made.add("edgejoule_run_accuracy_ratio", newest.accuracy, **labels)
            made.add("edgejoule_run_loss", newest.loss, **labels)
    states: Counter[str] = Counter()
    for device in devices:
        states[device.state] += 1
        made.add("edgejoule_device_present", device.state == "present", device=device.device_id, board=device.board)
        made.add("edgejoule_device_last_seen_timestamp_seconds", device.last_seen_unix_s, device=device.device_id)
        made.add("edgejoule_device_energy_joules_total", device.energy_j, device=device.device_id)
        made.add("edgejoule_device_unknown_phases_total", device.unknown_phases, device=device.device_id)
        made.add("edgejoule_device_examples", device.train_examples, device=device.device_id)
    for state in _DEVICE_STATES:
        made.add("edgejoule_devices", states[state], state=state)
    for reason, count in reports.items():
        made.add("edgejoule_reports_total", count, reason=reason)
    made.add("edgejoule_metrics_duration_seconds", took_s)
    return made.text()


def check_metrics(listen: str) -> tuple[str, int]:
    """Host and port of an address on loopback.

    Raises:
        UsageError: it is none, or not on loopback.
    """
    found = host_and_port(listen, least_port=0)
    if found is None:
        raise UsageError(f"{listen!r} is not HOST:PORT", where="--metrics", fix="such as 127.0.0.1:9464")
    if not is_loopback(found[0]):
        fix = "listen on 127.0.0.1, and let Prometheus scrape through an agent or a tunnel on this machine"
        raise UsageError(f"{found[0]} is not loopback, and metrics ask nobody who they are", where="--metrics", fix=fix)
    return bare(found[0]), found[1]


class MetricsServer:
    """Answers ``GET /metrics``, and nothing else."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._server: asyncio.Server | None = None
        self._making = asyncio.Lock()
        self._page, self._made_s = "", float("-inf")

    async def open(self, listen: str) -> str:
        """Listen; returns the page's address.

        Raises:
            UsageError: see :func:`check_metrics`, or the port is in use.
        """
        host, port = check_metrics(listen)
        try:
            self._server = await asyncio.start_server(self._answer, host, port, limit=_MOST_BYTES)
        except OSError as error:
            fix = "choose another port, or 0 for any"
            raise UsageError(f"cannot listen on {listen} ({error.strerror})", where="--metrics", fix=fix) from error
        bound = self._server.sockets[0].getsockname()
        return f"http://{with_port(bound[0], bound[1])}/metrics"

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def page(self) -> str:
        """The page; one that was made just now does for all who ask."""
        async with self._making:
            if time.monotonic() - self._made_s >= FRESH_S:
                began_s = time.monotonic()
                runs, _ = await self._operations.status(newest_only=True)
                devices, _ = await self._operations.devices()
                counts = self._operations.report_counts()
                took_s = time.monotonic() - began_s
                self._page = exposition(runs, devices, counts, version=software_version(), took_s=took_s)
                self._made_s = time.monotonic()
            return self._page

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                status, kind, body = await self._said(head)
                content = body.encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
                    "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode()
                )
                writer.write(content)
                async with asyncio.timeout(_PATIENCE_S):
                    await writer.drain()
            finally:
                writer.close()

    async def _said(self, head: str) -> tuple[str, str, str]:
        words = "text/plain; charset=utf-8"
        first, *fields = head.split("\r\n")
        hosts = [line.partition(":")[2].strip() for line in fields if line.lower().startswith("host:")]
        name = (
            hosts[0].rpartition(":")[0] if hosts and ":" in hosts[0] and not hosts[0].endswith("]") else "".join(hosts)
        )
        # A page from elsewhere whose name was bound to this machine asks under that name.
        if not is_loopback(name):
            return "421 Misdirected Request", words, "these metrics are served to this machine alone\n"
        method, _, rest = first.partition(" ")
        if method != "GET":
            return "405 Method Not Allowed", words, "GET alone\n"
        if rest.partition(" ")[0].partition("?")[0] != "/metrics":
            return "404 Not Found", words, "see /metrics\n"
        try:
            return "200 OK", "text/plain; version=0.0.4; charset=utf-8", await self.page()
        except EdgejouleError as error:
            log.warning("metrics: %s", error)
            return "503 Service Unavailable", words, f"{error}\n"
        except Exception:
            # Whoever scrapes is answered, and the coordinator goes on.
            log.exception("metrics cannot be told")
            return "500 Internal Server Error", words, "the coordinator's log says why\n"
