"""Errors across the wire: an EdgejouleError on the coordinator is the same error for who called.

The gRPC status says the kind, its details say the line, and trailing metadata carry the parts, so that the other end
can raise the same class with the same exit code.
"""

from __future__ import annotations

import json
from typing import Any

import grpc

from protos import errors
from protos.errors import EdgejouleError, UnreachableError

METADATA_KEY = "edgejoule-error-bin"
# For whoever does not read JSON: the exit code of the same mistake on a command line, and its name.
CODE_KEY, NAME_KEY = "edgejoule-code", "edgejoule-error"

_CODES: dict[type[EdgejouleError], grpc.StatusCode] = {
    errors.UsageError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CheckFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConfigError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnreachableError: grpc.StatusCode.UNAVAILABLE,
    errors.IntegrityError: grpc.StatusCode.DATA_LOSS,
    errors.StoreError: grpc.StatusCode.UNAVAILABLE,
    errors.RefusedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WaitExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnknownRunError: grpc.StatusCode.NOT_FOUND,
}
_CLASSES = {
    kind.exit_code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, EdgejouleError)
}


def status_of(error: EdgejouleError) -> grpc.StatusCode:
    """The gRPC status of an error; a bad argument unless the table says otherwise."""
    for code in type(error).__mro__:
        if code in _CODES:
            return _CODES[code]
    return grpc.StatusCode.INVALID_ARGUMENT


def metadata_of(error: EdgejouleError) -> tuple[tuple[str, str | bytes], ...]:
    """The parts of an error, as trailing metadata, and its code and name by themselves."""
    parts = {"exit_code": error.exit_code, "what": error.what, "where": error.where, "fix": error.fix}
    # Metadata are bounded (8 KiB by default); a line that long is no line.
    cut = {key: value[:1000] if isinstance(value, str) else value for key, value in parts.items()}
    kind = _CLASSES.get(error.exit_code, EdgejouleError)
    return (
        (METADATA_KEY, json.dumps(cut).encode()),
        (CODE_KEY, str(error.exit_code)),
        (NAME_KEY, kind.__name__),
    )


def error_of(failure: Any, address: str) -> EdgejouleError:
    """What a failed call means, on the side of the caller."""
    for key, value in failure.trailing_metadata() or ():
        if key == METADATA_KEY:
            parts = json.loads(value)
            kind = _CLASSES.get(parts["exit_code"], EdgejouleError)
            return kind(parts["what"], where=parts["where"], fix=parts["fix"])
    details = (failure.details() or "").strip()
    where = f"coordinator {address}"
    fix = "start it with `coordinator serve`, or give its address with --coordinator"
    match failure.code():
        case grpc.StatusCode.UNAVAILABLE:
            return UnreachableError("no coordinator answers", where=where, fix=fix)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError("does not answer in time", where=where, fix=fix)
        case grpc.StatusCode.CANCELLED:
            return UnreachableError("ended while it was asked", where=where, fix=fix)
        case code:
            return EdgejouleError(f"{code.name.lower().replace('_', ' ')}: {details}", where=where)
