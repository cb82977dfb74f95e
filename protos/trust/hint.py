"""What a coordinator says of itself by mDNS, and what a board may make of it: a place to try, never who is there.

Service ``_edgejoule._tcp`` with the port of enrolment, and two texts: ``root``, the first 8 bytes of the SHA-256 of the
fleet's root in hexadecimal, by which a board finds the fleet that its token names; and ``port``, where devices are
served. Anybody on the network can say the same. Who answers must still prove that it knows the token's secret, and show
the root that the token names (:mod:`protos.trust.proofs`).
"""

from __future__ import annotations

__all__ = ["PORT", "ROOT", "SERVICE", "tag_of"]

SERVICE = "_edgejoule._tcp.local."
ROOT, PORT = "root", "port"


def tag_of(fingerprint: bytes) -> str:
    """How a fleet is told from others, from the SHA-256 of its root.

    >>> tag_of(bytes(32))
    '0000000000000000'
    """
    return fingerprint[:8].hex()
