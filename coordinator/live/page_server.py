"""The page's own web server: its files and two streams of events, for this machine alone; nothing changes a run.

Rules kept here:

* Only loopback is listened on: the page asks nobody who they are. Another machine gets there through SSH.
* The Host header must name this machine, so that a page from elsewhere whose name was bound to 127.0.0.1 gets nothing
  (DNS rebinding).
* GET and HEAD alone; the page may load from here alone, and stand in no frame.
* What the browser is given are figures and names. Credentials, addresses of the fleet and paths are not among them.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from coordinator.live.hub import Hubs
from coordinator.live.trace_stream import TraceStreams
from coordinator.operator.client import Operator
from protos.addresses import bare, host_and_port, is_loopback, with_port
from protos.errors import RefusedError, UsageError

__all__ = ["application", "serve_page"]

_Scope = MutableMapping[str, Any]
_App = Callable[[_Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/watts.js": ("watts.js", "text/javascript; charset=utf-8"),
    "/window.js": ("window.js", "text/javascript; charset=utf-8"),
    "/live.css": ("live.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST_NAME = 300


def application(hubs: Hubs, traces: TraceStreams) -> _App:
    """The application: pure ASGI around starlette's routes."""
    routes = [Route(path, _file(*what)) for path, what in _FILES.items()]
    inner = Starlette(routes=[*routes, Route("/events", _events(hubs)), Route("/watts", _watts(traces))])

    async def guarded(
        scope: _Scope, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *own]
            await send(message)

        refusal = _refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        await inner(scope, receive, with_headers)

    return guarded


def _refusal(scope: _Scope) -> Response | None:
    headers = {name.lower(): value for name, value in scope["headers"]}
    host = headers.get(b"host", b"").decode("latin-1")
    if not _is_here(host):
        return PlainTextResponse("this page is served to http://localhost and http://127.0.0.1 alone\n", 421)
    if scope["method"] not in ("GET", "HEAD"):
        return PlainTextResponse("this page only shows\n", 405, headers={"Allow": "GET, HEAD"})
    if headers.get(b"sec-fetch-site") == b"cross-site" and scope["path"] != "/":
        return PlainTextResponse("asked for by another site\n", 403)
    return None


def _is_here(host: str) -> bool:
    """Whether a Host header names this machine; a tunnel may end at any port.

    >>> [_is_here(one) for one in ("localhost:8", "127.0.0.1", "[::1]:8", "evil.example:8", "127.0.0.1.evil", "")]
    [True, True, True, False, False, False]
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return name in ("localhost", "127.0.0.1", "[::1]")


def _file(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = files("coordinator.live").joinpath("page", name).read_bytes()

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _events(hubs: Hubs) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        run = request.query_params.get("run", "")
        if len(run) > _LONGEST_NAME:
            return PlainTextResponse("no run is called so\n", 404)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        try:
            events = await hubs.watch(run)
        except RefusedError as error:
            return PlainTextResponse(f"{error}\n", 503, headers={"Retry-After": "30"})
        return StreamingResponse(events, media_type="text/event-stream")

    return answer


def _watts(traces: TraceStreams) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        device_id = request.query_params.get("device", "")
        if not 0 < len(device_id) <= _LONGEST_NAME:
            return PlainTextResponse("no device is called so\n", 404)
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        try:
            events = traces.watch(device_id)
        except RefusedError as error:
            return PlainTextResponse(f"{error}\n", 503, headers={"Retry-After": "30"})
        return StreamingResponse(events, media_type="text/event-stream")

    return answer


class _Server(uvicorn.Server):
    """One whose signals are ours: it ends with code 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bound(listen: str) -> socket.socket:
    """A socket that listens.

    Raises:
        UsageError: the address is none, not on loopback, or in use.
    """
    where = host_and_port(listen, least_port=0)
    if where is None:
        raise UsageError(f"{listen!r} is not HOST:PORT", where="--listen", fix="such as 127.0.0.1:8050")
    if not is_loopback(where[0]):
        fix = "listen on 127.0.0.1, and come from elsewhere through: ssh -L 8050:127.0.0.1:8050 HOST"
        raise UsageError(
            f"{where[0]} is not loopback, and the page asks nobody who they are", where="--listen", fix=fix
        )
    host = bare(where[0])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, where[1]))
        made.listen(128)
    except OSError as error:
        made.close()
        fix = "choose another port, or 0 for any"
        raise UsageError(f"cannot listen on {listen} ({error.strerror})", where="--listen", fix=fix) from error
    return made


async def serve_page(
    connect: Callable[[], Operator],
    listen: socket.socket,
    *,
    on_ready: Callable[[str], None],
    stop: asyncio.Event | None = None,
    hubs: Hubs | None = None,
    traces: TraceStreams | None = None,
) -> None:
    """Serve the page until SIGINT, SIGTERM or ``stop``.

    Args:
        connect: makes a connection to the coordinator, one for each run that is watched.
        listen: see :func:`bound`; closed at the end.
        on_ready: told the page's address.
        hubs, traces: those of a test that counts.
    """
    watched = hubs if hubs is not None else Hubs(connect)
    seen = traces if traces is not None else TraceStreams(connect)
    config = uvicorn.Config(
        application(watched, seen),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=2,
        limit_concurrency=200,
    )
    server = _Server(config)
    stopping = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    if stop is None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError):
                loop.add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(server.serve(sockets=[listen]))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if not serving.done():
            host, port = listen.getsockname()[:2]
            on_ready(f"http://{with_port(host, port)}/")
        waiting = asyncio.create_task(stopping.wait())
        await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
    finally:
        await watched.close()
        await seen.close()
        server.should_exit = True
        await serving
        listen.close()
