"""A run's trace at a real receiver of OTLP over HTTP while the run goes on, and nothing that waits for one."""

from __future__ import annotations

import asyncio
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from live.played_run import fleet_of, play_round, soon

from coordinator.cli import main
from coordinator.operator.client import Operator
from coordinator.server.operations import Operations
from coordinator.server.spans import Spans

ROOT = Path(__file__).resolve().parents[3]


def test_a_receiver_that_is_none_is_refused_and_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["serve", "--state", str(tmp_path / "s"), "--listen", "127.0.0.1:0", "--otlp"]
    assert main([*words, "127.0.0.1:4318"]) == 2
    assert "http://127.0.0.1:4318" in capsys.readouterr().err
    monkeypatch.setattr("protos.extras.importlib.util.find_spec", lambda name: None)
    assert main([*words, "http://127.0.0.1:4318"]) == 2
    assert "edgejoule[otel]" in capsys.readouterr().err


def test_a_look_reads_no_run_that_was_over_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "OTLPSpanExporter"),
        ("opentelemetry.sdk.trace.export", "BatchSpanProcessor"),
    ):
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: lambda *_, **__: None}))
    states = {**{f"old-{number}": "finished" for number in range(9)}, "on": "running"}
    read: list[str] = []

    class Asked:
        async def run_ids(self) -> list[str]:
            return list(states)

        async def status(self, name: str = "", since_round: int = 0, **_: Any) -> tuple[list[Any], None]:
            wanted = [name] if name else list(states)
            read.extend(wanted)
            return [SimpleNamespace(run_id=run, state=states[run], rounds=()) for run in wanted], None

    spans, asked = Spans("http://127.0.0.1:9"), cast(Operations, Asked())
    asyncio.run(spans.look(asked))
    assert sorted(read) == sorted(states)
    read.clear()
    asyncio.run(spans.look(asked))
    assert read == ["on"], "a second of a coordinator with years of runs is not spent on those"


def test_what_nobody_foresaw_ends_one_look_and_not_the_telling(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coordinator.server.spans.LOOK_S", 0.0)
    looks: list[int] = []

    async def look(operations: object) -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            raise ZeroDivisionError
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(Spans.follow(cast(Spans, SimpleNamespace(look=look)), cast(Operations, None)))
    assert looks == [0, 1]
    assert "not told" in caplog.text


class Receiver(http.server.ThreadingHTTPServer):
    """Takes traces, and keeps their spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.spans: list[Any] = []
        self.paths: set[str] = set()
        self.services: set[str] = set()


class _Taking(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        server = self.server
        assert isinstance(server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        server.paths.add(self.path)
        for resource_span in ExportTraceServiceRequest.FromString(body).resource_spans:
            server.services |= {
                value.value.string_value for value in resource_span.resource.attributes if value.key == "service.name"
            }
            for scope in resource_span.scope_spans:
                server.spans.extend(scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs OpenTelemetry: the extra otel")
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {
        attribute.key.removeprefix("edgejoule."): getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in span.attributes
    }


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_rounds_orders_and_reports_are_at_the_receiver_while_the_run_goes_on(
    receiver: Receiver, plain_bundle: Path, fleet: Callable[..., Any], tools: Any, tmp_path: Path
) -> None:
    ready, log = tmp_path / "ready", tmp_path / "log"
    url = f"http://127.0.0.1:{receiver.server_address[1]}"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(tmp_path / "state"), "--listen",
               "127.0.0.1:0", "--ready-file", str(ready), "--otlp", f"{url}/"]  # fmt: skip
    with (
        log.open("wb") as said,
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=said, stderr=said
        ) as process,
    ):
        try:
            soon(lambda: ready.exists() or process.poll() is not None, "the coordinator", 60)
            assert process.poll() is None, log.read_text()
            address = ready.read_text().strip()
            with Operator(address) as operator:
                text = tools.plan(plain_bundle, rounds=2, devices=3, quorum=0.5)
                run_id = operator.start_run(text, tmp_path)
                devices = fleet_of(address, fleet)
                began_s = time.time()
                play_round(devices, 1)
                # Before the second round has begun, the first is there.
                soon(lambda: any(span.name == "round 1" for span in receiver.spans), "the first round")
                assert not any(span.name == "round 2" for span in receiver.spans)
                play_round(devices, 2, refuse=True)
                operator.stop_run(run_id)
                soon(lambda: any(not span.parent_span_id for span in receiver.spans), "the run")
        finally:
            process.terminate()
            process.wait(30)
    assert receiver.paths == {"/v1/traces"}
    assert receiver.services == {"edgejoule-coordinator"}
    spans = {span.span_id: span for span in receiver.spans}
    assert len(spans) == len(receiver.spans), "each once"
    assert len({span.trace_id for span in receiver.spans}) == 1
    (whole,) = [span for span in spans.values() if not span.parent_span_id]
    assert (whole.name, attributes(whole)["run_id"]) == ("test", run_id)
    for span in spans.values():
        assert span.end_time_unix_nano >= span.start_time_unix_nano > (began_s - 60) * 1e9
        above = spans.get(span.parent_span_id)
        expected = {"round": "test", "order": "round", "report": "order"}.get(span.name.partition(" ")[0])
        # A round that was stopped never closed, and its orders hang below it all the same.
        if expected is not None and above is not None:
            assert above.name.partition(" ")[0] == expected.partition(" ")[0]
        if above is not None and expected == "order":
            assert attributes(above)["device"] == attributes(span)["device"]
            assert above.start_time_unix_nano <= span.start_time_unix_nano
    reports = [attributes(span) for span in spans.values() if span.name.startswith("report ")]
    assert sorted(report["verdict"] for report in reports) == ["accepted"] * 5 + ["rejected"]
    assert all(report["bytes_up"] > 100 for report in reports)
    orders = [attributes(span) for span in spans.values() if span.name.startswith("order ")]
    assert len(orders) == 6
    assert sorted(order["outcome"] for order in orders).count("accepted") == 5
    assert all(order["bytes_down"] > 100 for order in orders)
    (first,) = [attributes(span) for span in spans.values() if span.name == "round 1"]
    assert (first["devices_asked"], first["devices_accepted"]) == (3, 3)
    assert "spent_j" not in first, "one of them does not know its joules"


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore")
def test_a_receiver_that_is_away_holds_up_nothing(
    plain_bundle: Path, fleet: Callable[..., Any], tools: Any, tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs OpenTelemetry: the extra otel")
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(tmp_path / "state"), "--listen",
               "127.0.0.1:0", "--ready-file", str(ready), "--otlp", "http://127.0.0.1:9"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            soon(lambda: ready.exists() or process.poll() is not None, "the coordinator", 60)
            address = ready.read_text().strip()
            with Operator(address) as operator:
                run_id = operator.start_run(tools.plan(plain_bundle, rounds=2, devices=3), tmp_path)
                devices = fleet_of(address, fleet)
                for number in (1, 2):
                    play_round(devices, number)
                assert tools.finished(operator, run_id).state == "finished"
        finally:
            process.terminate()
            assert process.wait(60) == 0
