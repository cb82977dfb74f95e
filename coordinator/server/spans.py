"""A run as a trace of OpenTelemetry while it goes on, sent by OTLP over HTTP where an operator asked for it.

A span for the run, below it one for each round, below that one for each order, from when it was handed out to when its
report was answered, and below that one for the report, as long as the coordinator took for it. Ids are those of
``coordinator export-results --format otlp``: both tell of one trace.

Rules kept here:

* Nothing waits for the receiver: spans that it does not take in time are dropped, the newest last.
* What happened before this process began is not told again; a run or round that was open then is told when it closes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from coordinator.operator.status import RoundStatus, RunStatus
from coordinator.results.to_otlp import span_of
from coordinator.server.operations import Operations
from coordinator.server.version import software_version
from coordinator.store import clock
from protos.errors import EdgejouleError, UsageError
from protos.extras import require
from protos.orders import Receipt, TrainOrder, Verdict

__all__ = ["Spans", "check_receiver"]

log = logging.getLogger("edgejoule.coordinator")

LOOK_S = 1.0
MOST_OPEN = 20_000
"""Orders that wait for their reports; the oldest of more are told when their round closes no more."""
_NEEDS = ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_LAST_S = 5.0
_OVER = ("finished", "stopped", "failed")


def check_receiver(url: str) -> str:
    """Where traces go: ``url`` without a last slash.

    Raises:
        UsageError: no http or https, or the extra is not installed.
    """
    if not url.startswith(("http://", "https://")) or len(url.split("://", 1)[1]) == 0:
        raise UsageError(f"{url!r} is no URL of a receiver", where="--otlp", fix="such as http://127.0.0.1:4318")
    require(_NEEDS, "otel")
    return url.rstrip("/")


@dataclass
class _Handed:
    attempt: int
    at_s: float
    size_bytes: int


class Spans:
    """What is told.

    Args:
        url: of the receiver, see :func:`check_receiver`; ``/v1/traces`` is asked for there.
    """

    def __init__(self, url: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._processor = BatchSpanProcessor(
            OTLPSpanExporter(endpoint=f"{url}/v1/traces", timeout=_LAST_S), schedule_delay_millis=1000
        )
        self._version = software_version()
        self._open: OrderedDict[tuple[str, int, str], _Handed] = OrderedDict()
        # By run, the newest round that was told; runs that are over are told once.
        self._told: dict[str, int] = {}
        self._over: set[str] = set()
        self._first = True
        self.made = 0
        """Spans so far."""

    def _make(
        self,
        run_id: str,
        path: tuple[object, ...],
        name: str,
        times: tuple[float, float],
        about: dict[str, Any],
        *,
        failed: bool = False,
    ) -> None:
        known = {f"edgejoule.{key}": value for key, value in about.items() if value is not None}
        self._processor.on_end(span_of(run_id, self._version, path, name, *times, known, failed=failed))
        self.made += 1

    def ordered(self, order: TrainOrder, device_id: str, size_bytes: int) -> None:
        """An order was handed out; again and again, if it is asked for so often."""
        key, attempt = (order.run_id, order.round, device_id), order.attempt or 0
        before = self._open.get(key)
        if before is not None and before.attempt == attempt:
            return
        self._open[key] = _Handed(attempt, clock.unix_s(), size_bytes)
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def reported(
        self, run_id: str, number: int, device_id: str, size_bytes: int, began_s: float, receipt: Receipt
    ) -> None:
        """A report was answered. It ends its order, unless it was refused or held already."""
        now_s, handed = clock.unix_s(), self._open.get((run_id, number, device_id))
        verdict = receipt.verdict.name.lower()
        told = {"device": device_id, "verdict": verdict, "reason": receipt.reason or None, "bytes_up": size_bytes}
        attempt = handed.attempt if handed is not None else receipt.attempt or 0
        path = (*_path(number, device_id, attempt), f"report {began_s!r}")
        refused = receipt.verdict is Verdict.REJECTED
        self._make(run_id, path, f"report {device_id}", (began_s, now_s), told, failed=refused)
        if handed is not None and receipt.verdict is Verdict.ACCEPTED:
            self._ends(run_id, number, device_id, handed, now_s, verdict)

    def _ends(self, run_id: str, number: int, device_id: str, handed: _Handed, end_s: float, outcome: str) -> None:
        self._open.pop((run_id, number, device_id), None)
        told = {
            "device": device_id,
            "round": number,
            "attempt": handed.attempt,
            "outcome": outcome,
            "bytes_down": handed.size_bytes,
        }
        path = _path(number, device_id, handed.attempt)
        self._make(run_id, path, f"order {device_id}", (handed.at_s, end_s), told, failed=outcome != "accepted")

    async def follow(self, operations: Operations) -> None:
        """Tell of rounds and runs as they close, until cancelled."""
        while True:
            try:
                await self.look(operations)
            except EdgejouleError as error:
                log.warning("rounds are not told to the receiver of traces now: %s", error)
            except Exception:
                # Whatever it is, it ends no more than this look.
                log.exception("rounds are not told to the receiver of traces now")
            await asyncio.sleep(LOOK_S)

    async def look(self, operations: Operations) -> None:
        """Tell what has closed since the last look."""
        # One that is over is not read again: a look costs what the runs cost that go on.
        for run_id in await operations.run_ids():
            if run_id in self._over:
                continue
            ((run, *_), _) = await operations.status(run_id, newest_only=True)
            newest = max((this_round.round for this_round in run.rounds if this_round.state == "closed"), default=0)
            if self._first:
                self._told[run.run_id] = newest
                if run.state in _OVER:
                    self._over.add(run.run_id)
                continue
            if newest > self._told.get(run.run_id, 0) or run.state in _OVER:
                await self._closed(operations, run.run_id)
        self._first = False

    async def _closed(self, operations: Operations, run_id: str) -> None:
        since = self._told.get(run_id, 0) + 1
        ((run, *_), _) = await operations.status(run_id, since)
        for this_round in run.rounds:
            if (
                this_round.round >= since
                and this_round.round
                and this_round.closed_unix_s is not None
                and this_round.state == "closed"
            ):
                self._round(run, this_round)
                self._told[run_id] = this_round.round
        if run.state in _OVER:
            self._over.add(run_id)
            self._told.pop(run_id, None)
            end_s = run.finished_unix_s or clock.unix_s()
            for key in [key for key in self._open if key[0] == run_id]:
                self._ends(run_id, key[1], key[2], self._open[key], end_s, "missing")
            told = {"run_id": run_id, "state": run.state, "reason": run.reason or None}
            self._make(run_id, (), run.name, (run.started_unix_s, end_s), told, failed=run.state == "failed")

    def _round(self, run: RunStatus, this_round: RoundStatus) -> None:
        assert this_round.closed_unix_s is not None
        outcomes = {device.device_id: device.outcome for device in this_round.devices}
        for key in [key for key in self._open if key[:2] == (run.run_id, this_round.round)]:
            self._ends(
                run.run_id,
                this_round.round,
                key[2],
                self._open[key],
                this_round.closed_unix_s,
                outcomes.get(key[2], "missing"),
            )
        known = [device.spent_j for device in this_round.devices if device.outcome == "accepted"]
        told = {
            "round": this_round.round,
            this_round.measure: this_round.score,
            "loss": this_round.loss,
            "devices_asked": len(this_round.devices),
            "devices_accepted": list(outcomes.values()).count("accepted"),
            "bytes_up": this_round.bytes_up,
            "bytes_down": this_round.bytes_down,
            "spent_j": None if None in known or not known else sum(value for value in known if value is not None),
        }
        self._make(
            run.run_id,
            (this_round.round,),
            f"round {this_round.round}",
            (this_round.opened_unix_s, this_round.closed_unix_s),
            told,
        )

    async def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        await asyncio.to_thread(self._processor.shutdown)


def _path(number: int, device_id: str, attempt: int) -> tuple[object, ...]:
    """Of an order: that of a first attempt is the device's span in an exported trace."""
    return (number, device_id) if attempt <= 1 else (number, f"{device_id} attempt {attempt}")
