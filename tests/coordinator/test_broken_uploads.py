"""Reports whose way up is cut, by a proxy: they go on where they broke, count once, and are what they were."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cutting_proxy import CuttingProxy

from coordinator.operator.client import Operator
from coordinator.server.upstream.link import UpstreamLink
from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.stopping import Stopping
from protos.convert.calls import report_parts
from protos.convert.reports import receipt_from, serialise_report
from protos.convert.uploads import held_request, upload_of
from protos.errors import UnreachableError
from protos.orders import RESUMED_PART_BYTES, Receipt, TrainOrder, Verdict
from protos.update.tensors import decode
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

Fleet = Callable[..., Any]
ROOT = Path(__file__).parents[2]
# What a connection and a call cost besides: HTTP/2's preface, settings, windows, pings, headers; frames of 16 KiB.
CALL_BYTES = 4096
WIDTH, CLASSES = 2048, 128


def framed(size_bytes: int) -> int:
    """What so many bytes weigh in frames and messages, at most."""
    return size_bytes + size_bytes // 500


@pytest.fixture
def large_bundle(tools: Any, tmp_path: Path) -> Path:
    return tools.bundle(tmp_path / "large", width=WIDTH, classes=CLASSES)  # type: ignore[no-any-return]


@pytest.fixture
def line() -> Iterator[Callable[[str], CuttingProxy]]:
    """`line(address)`: a line to there that can be cut."""
    made: list[CuttingProxy] = []

    def make(address: str) -> CuttingProxy:
        made.append(CuttingProxy(int(address.rpartition(":")[2])))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


class Sender:
    """The link of a real device, which tries until it is answered."""

    def __init__(self, port: int) -> None:
        self.link = Link(f"127.0.0.1:{port}", Stopping())
        self.away: list[Away] = []
        self._outcome: list[Receipt | BaseException] = []

    def begin(self, data: bytes, run_id: str, device_id: str = "a") -> None:
        self.thread = threading.Thread(target=self._try, args=(data, run_id, device_id), daemon=True)
        self.thread.start()

    def _try(self, data: bytes, run_id: str, device_id: str) -> None:
        wait = threading.Event()
        while not self._outcome:
            try:
                self._outcome.append(self.link.report(device_id, run_id, 1, data))
            except Away as error:
                self.away.append(error)
                wait.wait(0.05)
            except BaseException as error:
                self._outcome.append(error)

    def answer(self) -> Receipt:
        self.thread.join(120)
        (outcome,) = self._outcome
        assert isinstance(outcome, Receipt), outcome
        self.link.close()
        return outcome


def report_of(device: Any, order: TrainOrder, seed: int = 3) -> bytes:
    head = decode(order.head, {tensor.name: tensor.shape for tensor in order.head})
    dice = np.random.default_rng(seed)
    change = {name: dice.normal(size=array.shape).astype(np.float32) for name, array in head.items()}
    return serialise_report(device.answer(order, change))


def held(device: Any, data: bytes, run_id: str) -> int:
    key = upload_of(run_id, 1, device.card.device_id, data)
    return int(device.stub.ReportHeld(held_request(key), timeout=20, wait_for_ready=True).held_bytes)


def cut_at(proxy: CuttingProxy, share_bytes: int, arrived: Callable[[], int], tools: Any) -> None:
    """Cut what is on its way when all that was passed on has been read at the other end, but for a part."""
    before = arrived()
    assert proxy.reached.wait(60)
    least = before + share_bytes - RESUMED_PART_BYTES - share_bytes // 500 - CALL_BYTES
    tools.until(lambda: arrived() >= least, "what was passed on")
    proxy.cut()


def test_an_upload_that_is_cut_twice_goes_on_where_it_broke(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, line: Any
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        device, proxy = fleet(address, "a"), line(address)
        device.join()
        data = report_of(device, device.order())
        assert len(data) > 1 << 20
        sender = Sender(proxy.port)
        proxy.stop_after(int(0.6 * len(data)))
        sender.begin(data, run_id)
        cut_at(proxy, int(0.6 * len(data)), lambda: held(device, data, run_id), tools)
        proxy.stop_after(200_000)
        cut_at(proxy, 200_000, lambda: held(device, data, run_id), tools)
        assert sender.answer().verdict is Verdict.ACCEPTED
        assert len(sender.away) >= 2
        # Each cut costs the part that was on its way, and a few calls that were made anew.
        tries = 1 + len(sender.away)
        assert proxy.up_bytes <= framed(len(data) + 2 * RESUMED_PART_BYTES) + tries * CALL_BYTES
        status = tools.finished(operator, run_id)
        assert [(row.outcome, row.bytes_up) for row in status.rounds[1].devices] == [("accepted", len(data))]
        counts = operator.report_counts()
    assert counts["accepted"] == 1
    assert "damaged" not in counts


def test_what_a_site_sends_upwards_goes_on_where_it_broke(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, line: Any
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        device, proxy = fleet(address, "a"), line(address)
        device.join()
        data = report_of(device, device.order())
        outcome: list[Verdict] = []

        async def of_a_site() -> None:
            link = UpstreamLink(f"127.0.0.1:{proxy.port}")
            try:
                while not outcome:
                    try:
                        outcome.append((await link.report(run_id, 1, "a", data)).verdict)
                    except UnreachableError:
                        await asyncio.sleep(0.05)
            finally:
                await link.close()

        thread = threading.Thread(target=lambda: asyncio.run(of_a_site()), daemon=True)
        proxy.stop_after(int(0.6 * len(data)))
        thread.start()
        cut_at(proxy, int(0.6 * len(data)), lambda: held(device, data, run_id), tools)
        thread.join(120)
        assert outcome == [Verdict.ACCEPTED]
        assert proxy.up_bytes <= framed(len(data) + RESUMED_PART_BYTES) + 40 * CALL_BYTES


def test_an_answer_that_was_lost_is_given_again_without_the_bytes(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, line: Any
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        device, proxy = fleet(address, "a"), line(address)
        device.join()
        data = report_of(device, device.order())
        sender = Sender(proxy.port)
        sender.begin(data, run_id)
        assert sender.answer().verdict is Verdict.ACCEPTED
        before, again = proxy.up_bytes, Sender(proxy.port)
        again.begin(data, run_id)
        assert again.answer().verdict is Verdict.DUPLICATE
        assert proxy.up_bytes - before < 2 * CALL_BYTES


@pytest.mark.parametrize("wrong_part", ["the first", "the last"])
def test_a_part_that_lies_is_found_by_the_hash_and_all_is_sent_again(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, wrong_part: str
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        device = fleet(address, "a")
        device.join()
        data = report_of(device, device.order())
        key, lie = upload_of(run_id, 1, "a", data), bytearray(data)
        lie[70_000 if wrong_part == "the first" else -7] ^= 1
        parts = list(report_parts(key, bytes(lie)))
        if wrong_part == "the first":
            # A stream that ends too soon is kept; the rest is honest, and is no good any more.
            with pytest.raises(grpc.RpcError) as short:
                device.stub.Report(iter(parts[:10]), timeout=20)
            assert short.value.code() is grpc.StatusCode.DATA_LOSS
            assert held(device, data, run_id) == 9 * RESUMED_PART_BYTES
            parts = list(report_parts(key, data, 9 * RESUMED_PART_BYTES))
        with pytest.raises(grpc.RpcError) as failure:
            device.stub.Report(iter(parts), timeout=20)
        assert failure.value.code() is grpc.StatusCode.DATA_LOSS
        assert "whole" in failure.value.details()
        assert held(device, data, run_id) == 0
        sender = Sender(int(address.rpartition(":")[2]))
        sender.begin(data, run_id)
        assert sender.answer().verdict is Verdict.ACCEPTED


def test_a_call_that_is_out_of_step_is_told_so_and_the_newest_of_two_brings_the_rest(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        device = fleet(address, "a")
        device.join()
        data = report_of(device, device.order())
        key = upload_of(run_id, 1, "a", data)
        parts = list(report_parts(key, data))
        for from_byte in (1, RESUMED_PART_BYTES, len(data), len(data) + 1):
            with pytest.raises(grpc.RpcError) as failure:
                device.stub.Report(report_parts(key, data, from_byte), timeout=20)
            assert failure.value.code() is grpc.StatusCode.ABORTED
        # One whose line hangs, as a half-open connection does, holds up nobody.
        hangs, gone = threading.Event(), threading.Event()

        def slowly() -> Iterator[Any]:
            yield from parts[:4]
            hangs.wait(60)
            yield parts[4]

        old = device.stub.Report.future(slowly(), timeout=60)
        old.add_done_callback(lambda _: gone.set())
        tools.until(lambda: held(device, data, run_id) == 3 * RESUMED_PART_BYTES, "three parts")
        newer = receipt_from(device.stub.Report(report_parts(key, data, 3 * RESUMED_PART_BYTES), timeout=60))
        assert newer.verdict is Verdict.ACCEPTED
        hangs.set()
        assert gone.wait(60)
        assert old.exception().code() is grpc.StatusCode.ABORTED
        assert operator.report_counts()["out_of_step"] == 5
        small = upload_of(run_id, 1, "a", b"x" * 100)
        with pytest.raises(grpc.RpcError) as failure:
            device.stub.Report(report_parts(small, b"x" * 100, 50), timeout=20)
        assert failure.value.code() is grpc.StatusCode.ABORTED


def test_what_is_asked_of_a_report_is_bounded_as_the_report_is(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
    device = fleet(address, "a")
    good: dict[str, Any] = {"device_id": "a", "run_id": run_id, "round": 1, "total_bytes": 1 << 20, "sha256": b"h" * 32}
    assert device.stub.ReportHeld(pb.ReportHeldRequest(**good), timeout=20).held_bytes == 0
    cases: tuple[tuple[grpc.StatusCode, dict[str, Any]], ...] = (
        (grpc.StatusCode.INVALID_ARGUMENT, {"device_id": ""}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"device_id": "a\x07"}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"run_id": "r" * 300}),
        (grpc.StatusCode.INVALID_ARGUMENT, {"sha256": b"h" * 31}),
        (grpc.StatusCode.NOT_FOUND, {"run_id": "run-none"}),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, {"total_bytes": 1 << 40}),
    )
    for code, wrong in cases:
        with pytest.raises(grpc.RpcError) as failure:
            device.stub.ReportHeld(pb.ReportHeldRequest(**{**good, **wrong}), timeout=20)
        assert failure.value.code() is code, wrong


def test_a_device_of_an_earlier_release_sends_all_of_it_each_time(
    address: str, large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        old = fleet(address, "old")
        old.join()
        data = report_of(old, old.order())
        # It cuts its parts as it likes, and knows of no byte to go on from.
        with pytest.raises(grpc.RpcError):
            old.stub.Report(iter(list(report_parts(upload_of(run_id, 1, "old", data), data))[:5]), timeout=20)
        assert old.send_bytes(data, run_id, 1, part=250_000).verdict is Verdict.ACCEPTED
        assert operator.report_counts()["accepted"] == 1


class _Earlier(rpc.DeviceServiceServicer):
    """A coordinator that does not know the call, and answers it as gRPC does."""

    def __init__(self) -> None:
        self.received: list[bytes] = []

    def Report(self, request_iterator: Iterator[Any], context: Any) -> Any:  # noqa: N802
        assert next(request_iterator).header.from_byte == 0
        self.received.append(b"".join(part.data for part in request_iterator))
        return pb.ReportResponse(verdict=pb.VERDICT_ACCEPTED)


def test_to_a_coordinator_of_an_earlier_release_all_of_it_is_sent() -> None:
    earlier, data = _Earlier(), bytes(1 << 20)
    server = grpc.server(ThreadPoolExecutor(2))
    rpc.add_DeviceServiceServicer_to_server(earlier, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        sender = Sender(port)
        sender.begin(data, "run")
        assert sender.answer().verdict is Verdict.ACCEPTED
        assert earlier.received == [data]

        async def of_a_site() -> Verdict:
            above = UpstreamLink(f"127.0.0.1:{port}")
            try:
                return (await above.report("run", 1, "site", data)).verdict
            finally:
                await above.close()

        assert asyncio.run(of_a_site()) is Verdict.ACCEPTED
    finally:
        server.stop(0).wait()


@pytest.mark.processes
def test_a_coordinator_that_is_killed_between_two_tries_knows_what_it_had(
    large_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, line: Any
) -> None:
    running: list[subprocess.Popen[bytes]] = []

    def serve() -> str:
        ready = tmp_path / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(tmp_path / "state"),
                   "--listen", "127.0.0.1:0", "--ready-file", str(ready)]  # fmt: skip
        running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT))
        tools.until(lambda: ready.exists() or running[-1].poll() is not None, "the coordinator")
        return ready.read_text().strip()

    try:
        address = serve()
        with Operator(address) as operator:
            run_id = operator.start_run(tools.plan(large_bundle, devices=1), tmp_path)
        device, proxy = fleet(address, "a"), line(address)
        device.join()
        data = report_of(device, device.order())
        first = Sender(proxy.port)
        share = int(0.6 * len(data))
        proxy.stop_after(share)
        first.begin(data, run_id)
        asks = fleet(address, "a")
        cut_after_kill = held(asks, data, run_id) + share - 2 * RESUMED_PART_BYTES - CALL_BYTES
        assert proxy.reached.wait(60)
        tools.until(lambda: held(asks, data, run_id) >= cut_after_kill, "what was passed on")
        running[-1].kill()
        running[-1].wait()
        address = serve()
        proxy.target_port = int(address.rpartition(":")[2])
        proxy.cut()
        assert first.answer().verdict is Verdict.ACCEPTED
        tries = 1 + len(first.away)
        assert proxy.up_bytes <= framed(len(data) + 2 * RESUMED_PART_BYTES) + tries * CALL_BYTES
        with Operator(address) as operator:
            status = tools.finished(operator, run_id)
        assert [row.outcome for row in status.rounds[1].devices] == ["accepted"]
        (kept,) = (tmp_path / "state" / "uploads").iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.parent.stat().st_mode & 0o777 == 0o700
    finally:
        for process in running:
            process.kill()
            process.communicate()
