"""What every caller of a coordinator says alike, be it a device or a site: a report in parts, and how long to wait."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from protos.errors import RefusedError
from protos.orders import PART_BYTES, PROTOCOL
from protos.v1 import edgejoule_pb2 as pb

__all__ = ["CALL_S", "FETCH_S", "LATER_S", "check_protocol", "report_parts", "report_timeout_s"]

CALL_S = 15.0
FETCH_S = 900.0
# A call that waits for an order ends a little later than what the coordinator is told.
LATER_S = 30.0
# The slowest uplink that a report is waited for on.
_UPLINK_BYTES_PER_S = 20_000


def report_parts(run_id: str, round: int, device_id: str, data: bytes) -> Iterator[pb.ReportRequest]:
    """The bytes of a report as a stream: its header with length and SHA-256, then parts of at most PART_BYTES."""
    yield pb.ReportRequest(
        header=pb.ReportHeader(
            run_id=run_id,
            round=round,
            device_id=device_id,
            total_bytes=len(data),
            sha256=hashlib.sha256(data).digest(),
        )
    )
    for start in range(0, len(data), PART_BYTES):
        yield pb.ReportRequest(data=data[start : start + PART_BYTES])


def report_timeout_s(size_bytes: int) -> float:
    """How long a report of this size may take, seconds."""
    return CALL_S + size_bytes / _UPLINK_BYTES_PER_S


def check_protocol(answer: Any, address: str) -> tuple[int, int]:
    """Major and minor version that a coordinator speaks by its answer to a join.

    Raises:
        RefusedError: another major version than ours.
    """
    theirs = (int(answer.protocol_major), int(answer.protocol_minor))
    if theirs[0] != PROTOCOL[0]:
        raise RefusedError(
            f"speaks protocol {theirs[0]}.{theirs[1]}, this device speaks {PROTOCOL[0]}.{PROTOCOL[1]}",
            where=f"coordinator {address}",
            fix="install the same release on both",
        )
    return theirs
