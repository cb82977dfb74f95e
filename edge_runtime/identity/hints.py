"""Where the coordinator of a token may be, when no address of the token answers: what the network says by mDNS.

A hint, never identity: see :mod:`protos.trust.hint`. Needs the package zeroconf; without it there are no hints.
"""

from __future__ import annotations

import importlib
import threading
from typing import Any

from protos.trust.hint import PORT, ROOT, SERVICE, tag_of

__all__ = ["HINTS_S", "hinted"]

HINTS_S = 3.0
_MOST = 8


def hinted(fingerprint: bytes, *, wait_s: float = HINTS_S, interfaces: list[str] | None = None) -> dict[str, int]:
    """HOST:PORT of coordinators that say they are of the fleet with that root, each with its port of enrolment.

    Args:
        fingerprint: SHA-256 of the root, from the token.
        wait_s: how long the network is listened to; the first answer ends it.
        interfaces: addresses of this machine to listen on; None: all.
    """
    try:
        zeroconf: Any = importlib.import_module("zeroconf")
    except ModuleNotFoundError:
        return {}
    found: dict[str, int] = {}
    heard = threading.Event()

    class Listener:
        def add_service(self, network: Any, kind: str, name: str) -> None:
            info = network.get_service_info(kind, name)
            if info is None:
                return
            said = {key: (value or b"").decode("ascii", "replace") for key, value in info.properties.items()}
            port = said.get(PORT.encode(), "")
            if said.get(ROOT.encode()) != tag_of(fingerprint) or not port.isdecimal() or not 0 < int(port) < 65536:
                return
            for address in info.parsed_addresses()[:_MOST]:
                if len(found) < _MOST and ":" not in address:
                    found[f"{address}:{int(port)}"] = int(info.port)
                    heard.set()

        def update_service(self, network: Any, kind: str, name: str) -> None:
            self.add_service(network, kind, name)

        def remove_service(self, network: Any, kind: str, name: str) -> None: ...

    try:
        network = zeroconf.Zeroconf(interfaces=interfaces or zeroconf.InterfaceChoice.All)
    except OSError:
        return {}
    try:
        browser = zeroconf.ServiceBrowser(network, SERVICE, Listener())
        heard.wait(wait_s)
        browser.cancel()
    finally:
        network.close()
    return dict(found)
