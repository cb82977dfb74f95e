"""Names in certificates: which role a peer has, and who it is.

A certificate says this in one URI among its alternative names: ``urn:edgejoule:ROLE:NAME``. The common name is the
name again, for people. The coordinator's certificate also has the DNS name :data:`SERVER_NAME`, which is what its peers
look for: addresses of a lab change, and only one key of a fleet has the role.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

__all__ = ["NAME", "PREFIX", "SERVER_NAME", "PeerName", "Role", "is_name", "peer_name"]

PREFIX = "urn:edgejoule:"
SERVER_NAME = "coordinator.edgejoule.internal"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
"""Names of devices and operators: 1 to 64 letters, digits, dots, dashes and underlines."""


class Role(enum.Enum):
    """What a peer may do."""

    COORDINATOR = "coordinator"
    DEVICE = "device"
    OPERATOR = "operator"
    OBSERVER = "observer"
    AUDITOR = "auditor"


@dataclass(frozen=True)
class PeerName:
    """Role and name of a peer, as in its certificate."""

    role: Role
    name: str

    @property
    def uri(self) -> str:
        """As it stands in the certificate."""
        return f"{PREFIX}{self.role.value}:{self.name}"

    def __str__(self) -> str:
        return f"{self.role.value} {self.name}"


def is_name(name: str) -> bool:
    """Whether this can be the name of a device or an operator.

    >>> is_name("pi-1"), is_name(""), is_name("../x"), is_name("a:b")
    (True, False, False, False)
    """
    return NAME.fullmatch(name) is not None


def peer_name(uri: str) -> PeerName | None:
    """What a URI of a certificate says, or None when it is none of ours.

    >>> peer_name("urn:edgejoule:device:pi-1")
    PeerName(role=<Role.DEVICE: 'device'>, name='pi-1')
    >>> peer_name("urn:edgejoule:king:pi-1") is None
    True
    """
    role, colon, name = uri.removeprefix(PREFIX).partition(":")
    if not uri.startswith(PREFIX) or not colon or not is_name(name):
        return None
    try:
        return PeerName(Role(role), name)
    except ValueError:
        return None
