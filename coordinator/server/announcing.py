"""The coordinator found by mDNS: a hint for boards whose token names an address that does not answer."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from typing import Any

from protos.addresses import bare
from protos.extras import missing
from protos.trust.hint import PORT, ROOT, SERVICE, tag_of

__all__ = ["Announcement"]

log = logging.getLogger("edgejoule.coordinator")

_ANY = ("0.0.0.0", "::")


class Announcement:
    """Says where enrolment is, until closed.

    Args:
        host: that is listened on; of all addresses, each of this machine's IPv4 ones is said.
        port, enroll_port: of devices, of enrolment.
        fingerprint: SHA-256 of the fleet's root.

    Raises:
        UsageError: the package zeroconf is not installed.
    """

    def __init__(self, host: str, port: int, enroll_port: int, fingerprint: bytes) -> None:
        try:
            self._zeroconf: Any = importlib.import_module("zeroconf")
            self._aio: Any = importlib.import_module("zeroconf.asyncio")
        except ModuleNotFoundError as error:
            raise missing("zeroconf") from error
        self._host, self._port, self._enroll_port = bare(host), port, enroll_port
        self._tag = tag_of(fingerprint)
        self._open: Any = None

    async def open(self) -> None:
        """Begin. What the network does not take is said, and is no reason not to serve."""
        try:
            at = [] if self._host in _ANY else await self._of_host()
            info = self._zeroconf.ServiceInfo(
                SERVICE,
                f"edgejoule-{self._tag}-{self._enroll_port}.{SERVICE}",
                addresses=[socket.inet_aton(text) for text in at or self._own()],
                port=self._enroll_port,
                properties={ROOT: self._tag, PORT: str(self._port)},
            )
            self._open = self._aio.AsyncZeroconf(interfaces=at or self._zeroconf.InterfaceChoice.All)
            await self._open.async_register_service(info)
        except Exception as error:
            log.warning("the coordinator cannot be announced by mDNS: %s", error)

    async def close(self) -> None:
        """Say goodbye."""
        if self._open is not None:
            await self._open.async_close()

    async def _of_host(self) -> list[str]:
        """IPv4 addresses of a host that may be a name. Raises OSError: it has none."""
        found = await asyncio.get_running_loop().getaddrinfo(self._host, None, family=socket.AF_INET)
        return sorted({str(entry[4][0]) for entry in found})

    @staticmethod
    def _own() -> list[str]:
        adapters: Any = importlib.import_module("ifaddr").get_adapters()
        found = [str(ip.ip) for adapter in adapters for ip in adapter.ips if ip.is_IPv4]
        return [text for text in found if not text.startswith("127.")] or found
