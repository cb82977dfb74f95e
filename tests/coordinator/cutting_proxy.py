"""A TCP proxy that cuts a connection after so many bytes up, as a bad line does, and counts all that goes up."""

from __future__ import annotations

import contextlib
import socket
import threading

_WAIT_S = 60.0


class CuttingProxy:
    """Passes bytes on in both directions.

    Attributes:
        target_port: where connections that are made from now on lead.
        port: where it listens.
        up_bytes: of all connections, that were passed on.
        reached: set when a connection has passed on as many bytes as it may; it passes no more up, and is cut by
            :meth:`cut`.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.up_bytes, self.reached = 0, threading.Event()
        self._left: int | None = None
        self._lock = threading.Lock()
        self._ends, self._pairs = threading.Event(), list[tuple[socket.socket, socket.socket]]()
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(50)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stop_after(self, more_bytes: int) -> None:
        """Pass on so many more bytes up, and none after them until :meth:`cut`."""
        with self._lock:
            self.reached.clear()
            self._ends.clear()
            self._left = more_bytes

    def cut(self) -> None:
        """End every connection. Those that are made from now on have no limit."""
        with self._lock:
            self._left = None
            pairs, self._pairs = self._pairs, []
            self._ends.set()
        for pair in pairs:
            for sock in pair:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs.append((client, server))
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(self._may(65536) if up else 65536):
                far.sendall(data)
                if up:
                    self._passed(len(data))
        for sock in (near, far):
            sock.close()

    def _may(self, most: int) -> int:
        """How many bytes may be read now; waits for the cut when there are none left."""
        with self._lock:
            left = self._left
        if left is None:
            return most
        if left <= 0:
            self.reached.set()
            self._ends.wait(_WAIT_S)
            raise OSError("cut")
        return min(most, left)

    def _passed(self, count: int) -> None:
        with self._lock:
            self.up_bytes += count
            if self._left is not None:
                self._left -= count
