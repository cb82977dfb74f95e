"""The dashboard's page server in a thread of this process, on a real port."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from live.played_run import soon

from coordinator.live.hub import Hubs
from coordinator.live.page_server import bound, serve_page
from coordinator.live.trace_stream import TraceStreams
from coordinator.operator.client import Operator


@dataclass
class Page:
    """A page that is served.

    Attributes:
        connections: that were made to the coordinator.
    """

    url: str
    hubs: Hubs
    traces: TraceStreams
    connections: list[Operator] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request: status, headers by their names in lower case, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.putrequest(method, path, skip_host="Host" in given)
            for name, value in given.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    @contextmanager
    def events(self, run: str = "") -> Iterator[Callable[[], tuple[str, dict[str, Any]]]]:
        """A viewer's stream: a function that waits for the next event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", f"/events?run={run}")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("content-type", "").startswith("text/event-stream")

        def following() -> tuple[str, dict[str, Any]]:
            kind = ""
            while True:
                line = answer.readline().decode().rstrip("\n")
                if line.startswith("event: "):
                    kind = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return kind, json.loads(line.removeprefix("data: "))

        try:
            yield following
        finally:
            answer.close()
            connection.close()


@contextmanager
def served_page(connect: Callable[[], Operator]) -> Iterator[Page]:
    """A dashboard of one coordinator."""
    made: list[Operator] = []

    def counted() -> Operator:
        made.append(connect())
        return made[-1]

    hubs, traces, addresses, ended = Hubs(counted), TraceStreams(counted), [], []
    loops: dict[str, Any] = {}

    async def run() -> None:
        loops["loop"], loops["stop"] = asyncio.get_running_loop(), asyncio.Event()
        await serve_page(
            counted,
            bound("127.0.0.1:0"),
            on_ready=addresses.append,
            stop=loops["stop"],
            hubs=hubs,
            traces=traces,
        )

    def body() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            ended.append(error)
            raise

    thread = threading.Thread(target=body)
    thread.start()
    try:
        soon(lambda: addresses or ended, "the page")
        yield Page(addresses[0], hubs, traces, made)
    finally:
        loops["loop"].call_soon_threadsafe(loops["stop"].set)
        thread.join(30)
        assert not thread.is_alive()
