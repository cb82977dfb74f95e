"""A TCP proxy before PostgreSQL that loses the answer to a COMMIT, as a failing network does."""

from __future__ import annotations

import socket
import threading
import time


class LossyProxy:
    """Passes bytes on in both directions. After :meth:`lose_next_commit` the next COMMIT reaches the server, and the
    connection ends before its answer comes back.

    Attributes:
        port: where it listens.
        lost: answers lost so far.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._armed_with: bytes | None = None
        self.lost = 0
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(50)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_next_commit(self, after: bytes) -> None:
        """Lose the answer to the first COMMIT of a connection on which these bytes were seen from now on."""
        self._armed_with = after

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target_port))
            cut = threading.Event()
            threading.Thread(target=self._up, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client, cut), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        seen = False
        while data := _received(client):
            seen = seen or (self._armed_with is not None and self._armed_with in data)
            if seen and b"COMMIT" in data:
                self._armed_with = None
                cut.set()
                server.sendall(data)
                time.sleep(0.3)
                self.lost += 1
                break
            server.sendall(data)
        for sock in (client, server):
            sock.close()

    def _down(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        while data := _received(server):
            if not cut.is_set():
                try:
                    client.sendall(data)
                except OSError:
                    return


def _received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except OSError:
        return b""
