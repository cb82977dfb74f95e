"""Tokens of enrolment: what an operator gives to a new board, as one line of text.

``ej1.`` and base64url of: JSON, then the first 4 bytes of its SHA-256, so that a line that was cut in copying is told
from one that is not known. The secret has 160 bits and never travels: see :mod:`protos.trust.proofs`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

from protos.errors import UsageError
from protos.trust.names import is_name

__all__ = ["MARK", "SECRET_BYTES", "EnrolmentToken", "read_token", "token_id"]

MARK = "ej1."
SECRET_BYTES = 20
_CHECK_BYTES = 4


@dataclass(frozen=True)
class EnrolmentToken:
    """All that a board needs to find its coordinator, know it, and be known.

    Attributes:
        device_id: the name that the board will have.
        addresses: HOST:PORT of the coordinator, the likeliest first.
        enroll_port: where enrolment is spoken, on the same hosts.
        fingerprint: SHA-256 of the root certificate, DER: 32 bytes.
        secret: good for one enrolment.
    """

    device_id: str
    addresses: tuple[str, ...]
    enroll_port: int
    fingerprint: bytes
    secret: bytes

    def text(self) -> str:
        """The line that an operator copies."""
        body = json.dumps(
            {
                "d": self.device_id,
                "a": list(self.addresses),
                "e": self.enroll_port,
                "f": _encoded(self.fingerprint),
                "s": _encoded(self.secret),
            },
            separators=(",", ":"),
        ).encode()
        return MARK + _encoded(body + hashlib.sha256(body).digest()[:_CHECK_BYTES])


def token_id(secret: bytes) -> bytes:
    """Which token a secret belongs to, without the secret: 8 bytes."""
    return hashlib.sha256(b"edgejoule token" + secret).digest()[:8]


def read_token(text: str) -> EnrolmentToken:
    """A token from its line.

    Raises:
        UsageError: it is none, or was damaged in copying.
    """
    cut = UsageError(
        "is not whole", where="TOKEN", fix="copy the whole line that `coordinator enroll` printed, from ej1. on"
    )
    text = "".join(text.split())
    if not text.startswith(MARK):
        raise UsageError("is no token", where="TOKEN", fix="it begins with ej1., see `coordinator enroll --help`")
    if len(text) > 4096:
        raise cut
    try:
        data = _decoded(text.removeprefix(MARK))
    except (ValueError, binascii.Error) as error:
        raise cut from error
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if not body or hashlib.sha256(body).digest()[:_CHECK_BYTES] != check:
        raise cut
    try:
        fields = json.loads(body)
        token = EnrolmentToken(
            str(fields["d"]),
            tuple(str(one) for one in fields["a"]),
            int(fields["e"]),
            _decoded(fields["f"]),
            _decoded(fields["s"]),
        )
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise UsageError(
            "is a token of another version", where="TOKEN", fix="install the same release on both ends"
        ) from error
    good = is_name(token.device_id) and token.addresses and 1 <= token.enroll_port <= 65535
    if not good or len(token.fingerprint) != 32 or len(token.secret) != SECRET_BYTES:
        raise UsageError("is a token of another version", where="TOKEN", fix="install the same release on both ends")
    return token


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
