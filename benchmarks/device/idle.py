"""What a device costs that has nothing to do: CPU, calls and bytes, with a sensor that is read all the time.

A coordinator, a bridge and a daemon are processes; between daemon and coordinator stands a proxy that counts bytes both
ways, and calls: new streams of HTTP/2 (RFC 9113), which are HEADERS frames that the daemon sends. CPU and bytes of a
window are scaled to a day. A call is held for minutes, so that a window may have none: calls a day are by the time from
one call to the next.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.device.faults import NAME, Rig, until
from edge_runtime.daemon.link import ORDER_S
from protos.model.bundle import Bundle

__all__ = ["Counting", "measure"]

DAY_S = 86_400.0
SETTLE_S = 20.0
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS = 1


class Counting:
    """A proxy for one address; counts what goes through it.

    Args:
        target: host:port of the coordinator.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.bytes = self.calls = 0
        self.called_s: list[float] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                # The coordinator has ended: the device learns it as it would without a proxy.
                near.close()
                continue
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counts_calls: bool) -> None:
        held, begun = b"", False
        while True:
            try:
                data = source.recv(65536)
                if data:
                    target.sendall(data)
            except OSError:
                data = b""
            if not data:
                for sock in (source, target):
                    sock.close()
                return
            with self._lock:
                self.bytes += len(data)
            if not counts_calls:
                continue
            held += data
            if not begun and len(held) >= len(_PREFACE):
                held, begun = held.removeprefix(_PREFACE), True
            while begun and len(held) >= 9:
                length, kind = int.from_bytes(held[:3], "big"), held[3]
                if len(held) < 9 + length:
                    break
                held = held[9 + length :]
                if kind == _HEADERS:
                    with self._lock:
                        self.calls += 1
                        self.called_s.append(time.monotonic())


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class _Watch(threading.Thread):
    """Notes when each of two programs says its words, looking each 2 ms; begun before either can.

    Args:
        lines: a program's name and the words, in the order in which they come.
    """

    def __init__(self, rig: Rig, lines: Sequence[tuple[str, str]]) -> None:
        super().__init__(daemon=True)
        self._rig, self._lines = rig, lines
        self.seen_s: list[float] = []

    def run(self) -> None:
        """Look until all is said."""
        for name, words in self._lines:
            while not any(words in line for line in self._rig.log(name)):
                time.sleep(0.002)
            self.seen_s.append(time.monotonic())


def measure(folder: Path, bundle: Bundle, seconds: float, *, counts_calls: bool = True) -> dict[str, Any]:
    """CPU share, calls and bytes a day, of a device that waits, with a bridge that sends.

    Args:
        counts_calls: wait for the next call, which takes minutes; else nobody knows how many there are in a day, nor
            bytes.
    """
    rig = Rig(folder / "idle", bundle.path)
    try:
        rig.serve()
        proxy = Counting(rig.address)
        rig.write_data()
        _, link = rig.bridge()
        direct, rig.address = rig.address, proxy.address
        daemon = rig.device("--sensor", f"serial:{link}")
        rig.address = direct
        until(lambda: (one := rig.shown(NAME)) is not None and one.meter.method == "measured")
        time.sleep(SETTLE_S)
        begun_s, used_s, calls, size = time.monotonic(), cpu_s(daemon.pid), proxy.calls, proxy.bytes
        time.sleep(seconds)
        if counts_calls:
            until(lambda: proxy.calls > calls, ORDER_S + 60.0)
        took_s = time.monotonic() - begun_s
        found = {
            "cpu_share": (cpu_s(daemon.pid) - used_s) / took_s,
            "calls_per_day": DAY_S / (proxy.called_s[-1] - proxy.called_s[-2]) if counts_calls else None,
            "bytes_per_day": (proxy.bytes - size) * DAY_S / took_s if counts_calls else None,
            "seconds": took_s,
        }
        # An order must still come at once: from the line that the round is open to the device's first one about it.
        watch = _Watch(rig, [("coordinator", "opened for"), (NAME, "fetching bundle")])
        watch.start()
        rig.round_works()
        watch.join(60.0)
        opened_s, begun_s = watch.seen_s
        found["order_latency_s"] = begun_s - opened_s
        proxy.close()
        return found
    finally:
        rig.close()
