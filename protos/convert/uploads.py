"""Reports whose way up may be cut: how they are named on the wire, and how much of one is there already."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from protos.convert.checks import checked_name
from protos.errors import UpdateError
from protos.v1 import edgejoule_pb2 as pb

__all__ = ["UploadKey", "held_from", "held_request", "upload_from", "upload_of"]

_HASH_BYTES = 32


@dataclass(frozen=True)
class UploadKey:
    """Names a report on its way: by all that its header says, so that no two reports share bytes.

    Attributes:
        sha256: of all of its bytes.
    """

    device_id: str
    run_id: str
    round: int
    total_bytes: int
    sha256: bytes


def upload_of(run_id: str, round: int, device_id: str, data: bytes) -> UploadKey:
    """The name of these bytes."""
    return UploadKey(device_id, run_id, round, len(data), hashlib.sha256(data).digest())


def upload_from(said: Any) -> UploadKey:
    """The name that a ReportHeader or a ReportHeldRequest says.

    Raises:
        UpdateError: a name that is none, or no SHA-256.
    """
    if len(said.sha256) != _HASH_BYTES:
        raise UpdateError(f"{len(said.sha256)} bytes are no SHA-256", where="report.sha256")
    return UploadKey(
        checked_name(said.device_id, "report.device_id"),
        checked_name(said.run_id, "report.run_id"),
        int(said.round),
        int(said.total_bytes),
        bytes(said.sha256),
    )


def held_request(key: UploadKey) -> pb.ReportHeldRequest:
    """Asks how much of it is there."""
    return pb.ReportHeldRequest(
        device_id=key.device_id,
        run_id=key.run_id,
        round=key.round,
        total_bytes=key.total_bytes,
        sha256=key.sha256,
    )


def held_from(answer: Any, key: UploadKey) -> int:
    """How many of its bytes are there, 0 to all. An answer of more than all means none: then all are sent."""
    held_bytes = int(answer.held_bytes)
    return held_bytes if held_bytes <= key.total_bytes else 0
