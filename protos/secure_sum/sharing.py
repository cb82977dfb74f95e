"""A secret in shares, of which so many give it back and fewer say nothing of it (Shamir, CACM 1979).

A polynomial of degree t - 1 over the whole numbers modulo the prime 2^256 + 297, with the secret as its value at 0; a
share is its value at the holder's place, 1 or more. Secrets are 32 bytes; a share has 33.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from protos.errors import UpdateError

__all__ = ["SECRET_BYTES", "SHARE_BYTES", "combine", "split"]

PRIME = 2**256 + 297
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, threshold: int, holders: int) -> list[bytes]:
    """Shares for the places 1 to ``holders``; any ``threshold`` of them give the secret back."""
    assert len(secret) == SECRET_BYTES
    assert 1 <= threshold <= holders
    polynomial = [int.from_bytes(secret, "little"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = []
    for place in range(1, holders + 1):
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * place + coefficient) % PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "little"))
    return shares


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret of shares by place: the value at 0 of the polynomial through them (Lagrange).

    Raises:
        UpdateError: a share is none, or they are not of one secret of 32 bytes.
    """
    values = {place: int.from_bytes(share, "little") for place, share in shares.items()}
    if any(len(share) != SHARE_BYTES for share in shares.values()) or any(value >= PRIME for value in values.values()):
        raise UpdateError("is no share of a secret", where="share")
    secret = 0
    for place, value in values.items():
        above = below = 1
        for other in values:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        secret = (secret + value * above * pow(below, -1, PRIME)) % PRIME
    if secret >> 256:
        raise UpdateError("the shares are not of one secret", where="share")
    return secret.to_bytes(SECRET_BYTES, "little")
