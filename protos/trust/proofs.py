"""Proofs that both ends of an enrolment compute: HMAC-SHA256 under the token's secret.

The secret itself is never sent, so neither a listener nor a false coordinator learns it, and the answer proves that who
sent it knows the secret as well. Each field goes in with its length before it, so that no two lists of fields give the
same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

__all__ = ["request_mac", "response_mac", "same"]


def request_mac(secret: bytes, token_id: bytes, machine: str, certificate_request: bytes) -> bytes:
    """Of an EnrollRequest: 32 bytes."""
    return _mac(secret, b"edgejoule enroll request 1", token_id, machine.encode(), certificate_request)


def response_mac(
    secret: bytes,
    request: bytes,
    device_id: str,
    chain_pem: bytes,
    root_pem: bytes,
    unix_s: float,
    above_root_pem: bytes = b"",
) -> bytes:
    """Of an EnrollResponse; ``request`` is the mac of the request that it answers: 32 bytes."""
    fields = [request, device_id.encode(), chain_pem, root_pem, struct.pack("<d", unix_s)]
    # One that is taken out or put in on the way makes another mac: an empty field is none.
    fields += [above_root_pem] if above_root_pem else []
    return _mac(secret, b"edgejoule enroll response 1", *fields)


def same(one: bytes, other: bytes) -> bool:
    """Whether two proofs are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(one, other)


def _mac(secret: bytes, *fields: bytes) -> bytes:
    whole = b"".join(struct.pack("<Q", len(field)) + field for field in fields)
    return hmac.new(secret, whole, hashlib.sha256).digest()
