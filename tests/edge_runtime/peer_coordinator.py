"""The other end of the wire: a gRPC server on loopback that does what a test tells it to."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from protos.convert.cards import card_from
from protos.convert.energy import settled_from
from protos.convert.orders import order_to
from protos.convert.publications import receptions_from
from protos.convert.reports import parse_report
from protos.model.bundle import Bundle
from protos.model.manifest import MANIFEST_FILE
from protos.orders import (
    CodecOrder,
    DeviceReport,
    Holding,
    Order,
    Publication,
    Reception,
    SettledEnergy,
    TrainOrder,
    WaitOrder,
)
from protos.update.tensors import as_float32
from protos.update.trees import Tree, version
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc


def order(bundle: Bundle, round: int = 1, head: Tree | None = None, **changes: Any) -> TrainOrder:
    """An order for the bundle's own starting head."""
    tree = bundle.initial_head() if head is None else head
    values: dict[str, Any] = {
        "run_id": "run-1",
        "round": round,
        "plan_id": "plan-1",
        "bundle_id": bundle.bundle_id,
        "head_version": version(tree),
        "head": as_float32(tree),
        "steps": 12,
        "inputs": {"rate": 0.1, "weight_decay": 0.0},
        "codec": CodecOrder("uniform_stochastic", {"bits": 8.0}),
        "budget_j": None,
        "deadline_s": 60.0,
        "seed": 7,
    }
    return TrainOrder(**{**values, **changes})


def publication(bundle: Bundle, head: Tree, run_id: str = "run-1", **changes: Any) -> WaitOrder:
    """The answer that brings the head that a run ended with."""
    values: dict[str, Any] = {
        "run_id": run_id,
        "name": "stripes",
        "bundle_id": bundle.bundle_id,
        "round": 3,
        "head_version": version(head),
        "head": as_float32(head),
        "accuracy": 0.9,
        "evaluate": True,
    }
    return WaitOrder(0.0, "a head", Publication(**{**values, **changes}))


class PeerCoordinator(rpc.DeviceServiceServicer):
    """Hands out ``orders`` one by one, then waits; keeps all that it is told.

    Attributes:
        before_verdict: called with the report's bytes after they were kept; may abort the call, so that the
            acknowledgement is lost.
        refusals: questions for an order that are refused before one is answered.
        damage: changes the bytes of bundle files on their way.
        holds_s: how long a question is kept waiting while there is no order.
        goodbyes_s: seconds that each goodbye had when it came.
        goes_down: cancels a goodbye, as a server does that is stopping.
    """

    def __init__(
        self,
        bundle: Bundle | None = None,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.bundle = bundle
        self.orders: deque[Order] = deque()
        self.joins: list[Any] = []
        self.reports: list[bytes] = []
        self.settled: list[SettledEnergy] = []
        self.holdings: list[Holding] = []
        self.leaves: list[str] = []
        self.receptions: list[Reception] = []
        self.fetches = 0
        self.twins_asked: list[bool] = []
        self.verdict = pb.VERDICT_ACCEPTED
        self.before_verdict: Callable[[Any], None] = lambda context: None
        self.damage: Callable[[bytes], bytes] = lambda data: data
        self.protocol = (1, 0)
        self.check_in_s = 0.05
        self.refusals = 0
        self.goes_down = False
        self.goodbyes_s: list[float] = []
        self.holds_s = 0.0
        self._known: set[str] = set()
        self.seen = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        rpc.add_DeviceServiceServicer_to_server(self, self._server)
        port = (
            self._server.add_insecure_port(address)
            if credentials is None
            else self._server.add_secure_port(address, credentials)
        )
        assert port, address
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(0).wait()

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something that was told to this end makes ``holds`` true."""
        with self.seen:
            assert self.seen.wait_for(holds, 60.0), f"{self.leaves=} {len(self.reports)=} {len(self.joins)=}"

    def forget(self) -> None:
        """Like a coordinator that lost its state."""
        self._known.clear()

    def read(self, index: int = -1) -> DeviceReport:
        return parse_report(self.reports[index])

    def _note(self, action: Callable[[], Any]) -> None:
        with self.seen:
            action()
            self.seen.notify_all()

    def Join(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._known.add(request.session)
        self._note(lambda: self.joins.append(card_from(request)))
        return pb.JoinResponse(
            protocol_major=self.protocol[0],
            protocol_minor=self.protocol[1],
            software_version="test",
            check_in_s=self.check_in_s,
        )

    def NextOrder(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self.refusals > 0:
            self.refusals -= 1
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not now")
        if request.session not in self._known:
            return pb.NextOrderResponse(rejoin=pb.Rejoin())
        published = request.published if request.HasField("published") else None
        holding = Holding(request.head_version, request.rebuilds, published=published)
        self._note(
            lambda: (
                self.settled.extend(settled_from(request.settled)),
                self.holdings.append(holding),
                self.receptions.extend(receptions_from(request.receptions)),
            )
        )
        held_to_s = time.monotonic() + self.holds_s
        while not self.orders and time.monotonic() < held_to_s and context.is_active():
            time.sleep(0.01)
        order: Order = self.orders.popleft() if self.orders else WaitOrder(0.05, "nothing to do")
        return order_to(order)

    def FetchBundle(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        assert self.bundle is not None
        self.fetches += 1
        if request.bundle_id != self.bundle.bundle_id:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such bundle")
        self.twins_asked.append(request.edge_tpu_twin)
        twin = self.bundle.manifest.edge_tpu
        left_out = twin.file if twin is not None and not request.edge_tpu_twin else None
        for name in (MANIFEST_FILE, *(path for path in self.bundle.manifest.files if path != left_out)):
            data = (Path(self.bundle.path) / name).read_bytes()
            file = pb.BundleFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).digest())
            yield pb.FetchBundleResponse(file=file)
            data = self.damage(data)
            for start in range(0, len(data), 5000):
                yield pb.FetchBundleResponse(data=data[start : start + 5000])

    def Report(self, request_iterator: Iterator[Any], context: Any) -> Any:  # noqa: N802
        header = next(request_iterator).header
        data = b"".join(part.data for part in request_iterator)
        assert len(data) == header.total_bytes
        assert hashlib.sha256(data).digest() == header.sha256
        self._note(lambda: self.reports.append(data))
        self.before_verdict(context)
        return pb.ReportResponse(verdict=self.verdict)

    def Leave(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.goodbyes_s.append(context.time_remaining())
        if self.goes_down:
            context.abort(grpc.StatusCode.CANCELLED, "going down")
        self._known.discard(request.session)
        self._note(lambda: (self.settled.extend(settled_from(request.settled)), self.leaves.append(request.reason)))
        return pb.LeaveResponse()
