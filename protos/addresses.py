"""Addresses as people write them: ``HOST:PORT``, with an IPv6 address in brackets."""

from __future__ import annotations

import ipaddress

__all__ = ["bare", "host_and_port", "is_loopback", "several", "with_port"]

_LARGEST_PORT = 65535


def host_and_port(text: str, *, least_port: int = 1) -> tuple[str, int] | None:
    """Host, as it was written, and port; None when it is no HOST:PORT.

    >>> host_and_port("127.0.0.1:50461"), host_and_port("[::1]:50461"), host_and_port("lab.example:1")
    (('127.0.0.1', 50461), ('[::1]', 50461), ('lab.example', 1))
    >>> [host_and_port(text) for text in ("50461", ":1", "a:0", "a:65536", "a:x")]
    [None, None, None, None, None]
    >>> host_and_port("127.0.0.1:0", least_port=0)
    ('127.0.0.1', 0)
    """
    host, colon, port = text.rpartition(":")
    if not colon or not bare(host) or not port.isascii() or not port.isdecimal():
        return None
    return (host, int(port)) if least_port <= int(port) <= _LARGEST_PORT else None


def several(text: str) -> tuple[str, ...]:
    """Addresses with commas between them, in their order, each once.

    >>> several("10.0.0.1:1, lab:2,10.0.0.1:1"), several("lab:2")
    (('10.0.0.1:1', 'lab:2'), ('lab:2',))
    """
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def bare(host: str) -> str:
    """A host without the brackets of IPv6, as sockets take it.

    >>> bare("[::1]")
    '::1'
    """
    return host.removeprefix("[").removesuffix("]")


def with_port(host: str, port: int) -> str:
    """HOST:PORT of a host with or without brackets.

    >>> with_port("::1", 7), with_port("[::1]", 7), with_port("lab", 7)
    ('[::1]:7', '[::1]:7', 'lab:7')
    """
    return f"[{bare(host)}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own.

    >>> [is_loopback(host) for host in ("127.3.2.1", "[::1]", "localhost", "lab", "0.0.0.0")]
    [True, True, True, False, False]
    """
    try:
        return bare(host) == "localhost" or ipaddress.ip_address(bare(host)).is_loopback
    except ValueError:
        return False
