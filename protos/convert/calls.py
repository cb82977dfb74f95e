"""What every caller of a coordinator says alike, be it a device or a site: a report in parts, and how long to wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from protos.convert.uploads import UploadKey
from protos.errors import RefusedError
from protos.orders import PART_BYTES, PROTOCOL, RESUMED_PART_BYTES, RESUMES_BYTES
from protos.v1 import edgejoule_pb2 as pb

__all__ = ["CALL_S", "FETCH_S", "LATER_S", "check_protocol", "report_parts", "report_timeout_s", "resumes"]

CALL_S = 15.0
FETCH_S = 900.0
# A call that waits for an order ends a little later than what the coordinator is told.
LATER_S = 30.0
# The slowest uplink that a report is waited for on.
_UPLINK_BYTES_PER_S = 20_000
# The same, of one that goes on where it was cut: a line of 400 ms that loses a third brings so much.
_BAD_UPLINK_BYTES_PER_S = 1_500
# A little less than what a coordinator waits for a report.
_LONGEST_UPLOAD_S = 590.0


def report_parts(key: UploadKey, data: bytes, from_byte: int = 0) -> Iterator[pb.ReportRequest]:
    """The bytes of a report as a stream: its header with length and SHA-256, then its parts.

    Args:
        from_byte: what comes before is with the coordinator already.
    """
    yield pb.ReportRequest(
        header=pb.ReportHeader(
            run_id=key.run_id,
            round=key.round,
            device_id=key.device_id,
            total_bytes=key.total_bytes,
            sha256=key.sha256,
            from_byte=from_byte,
        )
    )
    part_bytes = RESUMED_PART_BYTES if resumes(len(data)) else PART_BYTES
    for start in range(from_byte, len(data), part_bytes):
        yield pb.ReportRequest(data=data[start : start + part_bytes])


def resumes(size_bytes: int) -> bool:
    """Whether a report of this size goes on where its way up was cut."""
    return size_bytes > RESUMES_BYTES


def report_timeout_s(size_bytes: int, *, left_bytes: int | None = None) -> float:
    """How long a report of this size may take, seconds.

    Args:
        left_bytes: of a report that goes on, what is still to be sent.
    """
    if not resumes(size_bytes):
        return CALL_S + size_bytes / _UPLINK_BYTES_PER_S
    left_bytes = size_bytes if left_bytes is None else left_bytes
    # Nothing of it is lost by waiting longer, and keepalive finds a line that is dead.
    return min(_LONGEST_UPLOAD_S, CALL_S + left_bytes / _BAD_UPLINK_BYTES_PER_S)


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
