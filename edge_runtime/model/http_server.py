"""The same over HTTP on loopback, for what cannot speak to a Unix socket. Off unless a setting names a port.

    POST /predict?top=3                            body: an image file
    POST /predict?dtype=uint8&shape=1,28,28,1      body: raw values
    POST /add?label=cat                            body likewise
    GET  /info

Anybody on this machine may ask; a web page may not: a request with an Origin, or for another host than loopback, is
refused, so that a browser here does not become a way in.
"""

from __future__ import annotations

import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from edge_runtime.model.limits import MOST_EXAMPLE_BYTES
from edge_runtime.model.service import ModelService, failure
from edge_runtime.model.socket_server import (
    BEGUN_S,
    LARGE_BYTES,
    MOST_CONNECTIONS,
    MOST_LARGE,
    TimedSocket,
    answer_to,
)
from edge_runtime.systemd.logging_setup import log
from protos.errors import DataError, EdgejouleError, StoreError

__all__ = ["HttpServer"]

_HOSTS = ("127.0.0.1", "localhost", "[::1]")


class HttpServer:
    """Answers on 127.0.0.1 until it is closed.

    Raises:
        StoreError: the port is taken.
    """

    def __init__(self, port: int, service: ModelService) -> None:
        try:
            self._server = _Server(("127.0.0.1", port), _handler(service))
        except OSError as error:
            what = f"port {port} cannot be used ({error.strerror})"
            raise StoreError(what, where="model_http", fix="name another") from error
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="model-http", daemon=True).start()

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Takes so many connections at a time; further ones are told to come again, and closed."""

    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(*given)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        with contextlib.suppress(OSError):
            request.settimeout(1.0)
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An application that goes away in the middle of a question is no reason for a traceback."""
        log().debug("an application went away in the middle of a question, or was too slow")


def _handler(service: ModelService) -> type[BaseHTTPRequestHandler]:
    large = threading.BoundedSemaphore(MOST_LARGE)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def setup(self) -> None:
            super().setup()
            self.rfile.close()
            self._timed = TimedSocket(self.connection, "r")
            self.rfile = io.BufferedReader(self._timed)

        def do_GET(self) -> None:
            if self._is_foreign():
                self._answer(403, {"ok": False, "error": "only programs of this machine are answered"})
            elif urlsplit(self.path).path == "/info":
                self._answer(200, {"ok": True, **service.info()})
            else:
                self._answer(404, {"ok": False, "error": "ask for /predict, /add or /info"})

        def do_POST(self) -> None:
            found = urlsplit(self.path)
            if self._is_foreign():
                self._answer(403, {"ok": False, "error": "only programs of this machine are answered"})
                return
            if found.path not in ("/predict", "/add"):
                self._answer(404, {"ok": False, "error": "ask for /predict, /add or /info"})
                return
            size = self.headers.get("Content-Length", "")
            if not size.isdecimal() or int(size) > MOST_EXAMPLE_BYTES:
                self._answer(413, {"ok": False, "error": f"a body of 1 to {MOST_EXAMPLE_BYTES} bytes is needed"})
                return
            with large if int(size) > LARGE_BYTES else contextlib.nullcontext():
                self._timed.within(BEGUN_S)
                data = self.rfile.read(int(size))
                self._timed.until_s = None
                self.connection.settimeout(self.timeout)
                try:
                    asked = _asked(found.path, parse_qs(found.query))
                    self._answer(200, {"ok": True, **answer_to(service, asked, data)})
                except EdgejouleError as error:
                    self._answer(400, {"ok": False, **failure(error)})
                except Exception as error:
                    self._answer(500, {"ok": False, **failure(error)})

        def _is_foreign(self) -> bool:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            return self.headers.get("Origin") is not None or host not in _HOSTS

        def _answer(self, code: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if code == 413:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """A line for each request is nothing that a board should write."""

    return Handler


def _asked(path: str, query: dict[str, list[str]]) -> dict[str, Any]:
    """The question of a request's path, as it would come on the socket."""
    last = {key: values[-1] for key, values in query.items()}
    asked: dict[str, Any] = {"call": path[1:]}
    try:
        if "shape" in last:
            asked["dtype"], asked["shape"] = (
                last.get("dtype", "uint8"),
                [int(part) for part in last["shape"].split(",")],
            )
        else:
            asked["format"] = "image"
        if "top" in last:
            asked["top"] = int(last["top"])
    except ValueError as error:
        raise DataError(f"a number is none ({error})", where="request", fix="write top=3, shape=1,28,28,1") from error
    if "label" in last:
        asked["label"] = last["label"]
    asked["energy"] = last.get("energy", "0") not in ("0", "false")
    return asked
