"""OpenTelemetry: a trace for each run, in OTLP's JSON, which the Collector's ``otlpjsonfile`` receiver reads.

A span for the run, below it one for each round, below that one for each device that was asked. Ids are made of the
run's own, so the same run is the same trace however often it is written. A coordinator knows when a round opened and
closed, and not when each device began: a device's span is as long as its round.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coordinator.operator.status import DeviceRound, RoundStatus
from coordinator.results.figures import RunFigures
from protos.atomic import write_whole

__all__ = ["span_of", "write"]

_IDS = ("traceId", "spanId", "parentSpanId")


def write(found: RunFigures, folder: Path) -> list[Path]:
    """Write ``RUN.otlp.jsonl`` into ``folder``; the path."""
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    content = _as_otlp(MessageToDict(encode_spans(_spans(found))))
    path = folder / f"{found.run.run_id}.otlp.jsonl"
    with write_whole(path) as file:
        file.write((json.dumps(content, allow_nan=False) + "\n").encode())
    return [path]


def _as_otlp(value: Any) -> Any:
    """OTLP's JSON has ids in hexadecimal, and enumerations as numbers, where protobuf's has base64 and names."""
    if isinstance(value, list):
        return [_as_otlp(item) for item in value]
    if not isinstance(value, dict):
        return value
    numbers = {"SPAN_KIND_INTERNAL": 1, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
    return {
        key: base64.b64decode(item).hex()
        if key in _IDS
        else numbers.get(item, item)
        if key in ("kind", "code")
        else _as_otlp(item)
        for key, item in value.items()
    }


def _spans(found: RunFigures) -> list[Any]:
    run = found.run
    ends = [this_round.closed_unix_s for this_round in run.rounds if this_round.closed_unix_s is not None]
    end_s = run.finished_unix_s or max(ends, default=run.started_unix_s)
    settings = {f"edgejoule.plan.{key}": value for key, value in found.settings.items()}
    about = {"edgejoule.run_id": run.run_id, "edgejoule.state": run.state, **settings}
    made = [_span(found, (), run.name, run.started_unix_s, end_s, about, failed=run.state == "failed")]
    figures = {this_round.round: this_round.figures for this_round in found.rounds}
    for this_round in run.rounds:
        if not this_round.round or this_round.closed_unix_s is None:
            continue
        told = {f"edgejoule.{key}": value for key, value in figures.get(this_round.round, {}).items()}
        failed = this_round.state == "abandoned"
        name, times = f"round {this_round.round}", (this_round.opened_unix_s, this_round.closed_unix_s)
        made.append(
            _span(
                found, (this_round.round,), name, *times, {"edgejoule.round": this_round.round, **told}, failed=failed
            )
        )
        made += [_device(found, this_round, device) for device in this_round.devices]
    return made


def _device(found: RunFigures, this_round: RoundStatus, device: DeviceRound) -> Any:
    assert this_round.closed_unix_s is not None
    told = {
        "edgejoule.device": device.device_id,
        "edgejoule.outcome": device.outcome,
        "edgejoule.steps_done": device.steps_done,
        "edgejoule.bytes_up": device.bytes_up,
        "edgejoule.bytes_down": device.bytes_down,
        **{
            f"edgejoule.{phase_energy.phase}_j": phase_energy.energy_j
            for phase_energy in device.energy
            if phase_energy.energy_j is not None
        },
    }
    times, failed = (this_round.opened_unix_s, this_round.closed_unix_s), device.outcome in ("rejected", "missing")
    return _span(found, (this_round.round, device.device_id), device.device_id, *times, told, failed=failed)


def _span(
    found: RunFigures,
    path: tuple[object, ...],
    name: str,
    start_s: float,
    end_s: float,
    attributes: Mapping[str, Any],
    *,
    failed: bool,
) -> Any:
    version = found.details.software_version
    return span_of(found.run.run_id, version, path, name, start_s, end_s, attributes, failed=failed)


def span_of(
    run_id: str,
    version: str,
    path: tuple[object, ...],
    name: str,
    start_s: float,
    end_s: float,
    attributes: Mapping[str, Any],
    *,
    failed: bool,
) -> Any:
    """A finished span; ``path`` is () for the run, (round,) or (round, device), and what is below has more of it. Times
    are unix seconds."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    def context(path: tuple[object, ...]) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(_number(run_id, 16), _number(json.dumps([run_id, *path]), 8), False, flags)

    return ReadableSpan(
        name=name,
        context=context(path),
        parent=context(path[:-1]) if path else None,
        resource=Resource({"service.name": "edgejoule-coordinator", "service.version": version}),
        attributes=dict(attributes),
        status=Status(StatusCode.ERROR if failed else StatusCode.OK),
        start_time=round(start_s * 1e9),
        end_time=round(end_s * 1e9),
        instrumentation_scope=InstrumentationScope("edgejoule", version),
    )


def _number(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
