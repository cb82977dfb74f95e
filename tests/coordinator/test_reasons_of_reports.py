"""What can become of a report, over real gRPC: every reason has its answer, one counter and one line of the log."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.run.reports.reasons import REASONS, reason_of
from protos.convert.reports import receipt_from, serialise_report
from protos.energy.trace import Phase
from protos.errors import UnknownRunError
from protos.orders import DeviceReport, Receipt, TrainOrder, Verdict
from protos.update.tensors import EncodedTensor, Float32, decode
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, "edgejoule.coordinator"):
        yield caplog


def bad(report: DeviceReport, **fields: Any) -> bytes:
    return serialise_report(dataclasses.replace(report, **fields))


def changed(device: Any, report: DeviceReport, joules: Any) -> dict[str, bytes]:
    """Reports that are refused, by reason."""
    twice = (joules(Phase.TRAIN, 1.0), joules(Phase.TRAIN, 1.0))
    nan = tuple(
        EncodedTensor(tensor.name, tensor.shape, Float32(np.full(tensor.shape, np.nan, "<f4").tobytes()))
        for tensor in report.update
    )
    return {
        "unreadable": b"\xff" * 40,
        "wrong_plan": bad(report, plan_id="plan-other"),
        "wrong_bundle": bad(report, bundle_id="bundle-other"),
        "wrong_head": bad(report, head_version="head-other"),
        "wrong_steps": bad(report, steps_done=report.steps_planned + 1),
        "too_many_examples": bad(report, examples=10**9),
        "wrong_normaliser": bad(report, local_normaliser=1e6),
        "bad_energy": bad(report, energy=twice),
        "bad_update": bad(report, update=nan),
        "wrong_basis": bad(report, basis_version="basis-other"),
        "not_ordered": bad(report, attempt=7),
    }


def test_every_refusal_is_answered_counted_and_logged_by_its_row(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    names = sorted(changed(None, _some_report(), tools.joules))
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=len(names) + 1, quorum=1.0), tmp_path)
        devices = {name: fleet(address, name) for name in (*names, "honest")}
        for device in devices.values():
            device.join()
        orders: dict[str, TrainOrder] = {name: device.order() for name, device in devices.items()}
        for name in names:
            report = devices[name].answer(orders[name], 0.1)
            told.clear()
            receipt = devices[name].send_bytes(changed(devices[name], report, tools.joules)[name], run_id, 1)
            assert receipt.verdict is Verdict.REJECTED
            assert reason_of(receipt) == name
            lines = [record.getMessage() for record in told.records if name in record.getMessage()]
            (line,) = [text for text in lines if text.startswith("report of")]
            assert "\n" not in line
            assert len(line) < 700
            assert "ina219:test" not in line, "a line has names and figures, and nothing else of a report"
        honest = devices["honest"]
        # A cut one, one that announces too much, one of no run, and one that is no report at all.
        data = serialise_report(honest.answer(orders["honest"], 0.1))
        for status, error, send in (
            ("DATA_LOSS", "damaged", lambda: honest.send_bytes(data, run_id, 1, sha256=b"0" * 32)),
            ("RESOURCE_EXHAUSTED", "oversized", lambda: honest.send_bytes(data, run_id, 1, total_bytes=1 << 40)),
            ("NOT_FOUND", "unknown_run", lambda: honest.send_bytes(data, "run-no", 1)),
            ("INVALID_ARGUMENT", "malformed", lambda: honest.stub.Report(iter([pb.ReportRequest(data=b"x")]))),
        ):
            with pytest.raises((grpc.RpcError, UnknownRunError)) as caught:
                send()
            assert caught.value.code().name == status == REASONS[error].answer
        for _ in range(3):
            honest.send_bytes(data, run_id, 1)
        other = serialise_report(honest.answer(orders["honest"], 0.2))
        assert reason_of(honest.send_bytes(other, run_id, 1)) in ("other_report", "late")
        tools.until(lambda: operator.report_counts().get("accepted"), "the count")
        counts = operator.report_counts()
        assert {name: counts[name] for name in names} == dict.fromkeys(names, 1)
        assert counts["accepted"] == 1
        assert counts["duplicate"] == 2
        assert sum(counts[text] for text in ("damaged", "oversized", "unknown_run", "malformed")) == 4
        assert set(counts) <= set(REASONS)


def _some_report() -> DeviceReport:
    from scripted_device import ScriptedDevice

    device = ScriptedDevice("127.0.0.1:1", "nobody")
    order = TrainOrder("r", 1, "p", "b", "h", (), 1, {}, None, None, 1.0, 0)  # type: ignore[arg-type]
    return device.answer(order, {"x": np.zeros(1, np.float32)})


def test_every_reason_that_the_code_gives_is_a_row_and_every_row_is_in_the_document() -> None:
    given: set[str] = set()
    for path in (ROOT / "coordinator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("RejectedError", "Receipt"):
                first = node.args[0] if getattr(node.func, "id", "") == "RejectedError" else [*node.args, None][1]
                text = ast.unparse(first) if first is not None else ""
                if found := re.match(r"f?['\"]([a-z_]+)(?:: |['\"]$)", text):
                    given.add(found[1])
    assert len(given) >= 8
    assert given <= set(REASONS)
    page = (ROOT / "docs/protocol.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| ([A-Z_]+) \|", page, re.MULTILINE))
    assert rows == {code: reason.answer.upper() for code, reason in REASONS.items()}


def verdicts(address: str, data: bytes, run_id: str, times: int) -> set[Verdict]:
    """The same report of round 1 so often, sixteen at a time; the different answers."""
    header = pb.ReportHeader(
        run_id=run_id, round=1, device_id="one", total_bytes=len(data), sha256=hashlib.sha256(data).digest()
    )
    # Bytes that are made once: what costs time is to be the coordinator's part.
    parts = [one.SerializeToString() for one in (pb.ReportRequest(header=header), pb.ReportRequest(data=data))]
    answers: set[bytes] = set()

    async def send() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_unary("/edgejoule.v1.DeviceService/Report")
            left = iter(range(times))

            async def again() -> None:
                for _ in left:
                    answers.add(await call(parts, timeout=60))

            await asyncio.gather(*(again() for _ in range(16)))

    asyncio.run(send())
    return {receipt_from(pb.ReportResponse.FromString(answer)).verdict for answer in answers}


def replayed(times: int, plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path) -> None:
    """The same report again and again, before and after its round closed: the head has the bits of one."""
    with Operator(address) as operator:
        # The round must outlast the replays, which take minutes.
        plan = tools.plan(plain_bundle, rounds=2, devices=2, quorum=1.0, deadline_s=36_000)
        run_id = operator.start_run(plan, tmp_path)
        one, two = fleet(address, "one"), fleet(address, "two")
        one.join()
        two.join()
        first, second = one.order(round=1), two.order(round=1)
        mine = one.answer(first, 0.3)
        data = serialise_report(mine)
        assert one.send_bytes(data, run_id, 1, part=1 << 20).verdict is Verdict.ACCEPTED
        assert verdicts(address, data, run_id, times // 2 - 1) == {Verdict.DUPLICATE}
        theirs = two.answer(second, 0.1)
        two.send(theirs)
        order = one.order(round=2)
        assert verdicts(address, data, run_id, times // 2) == {Verdict.DUPLICATE}
        # In the name of the open round the same bytes are not what their header says.
        assert reason_of(one.send_bytes(data, run_id, 2)) == "unreadable"
    before = decode(first.head, {t.name: t.shape for t in first.head})
    after = decode(order.head, {t.name: t.shape for t in order.head})
    for name, value in before.items():
        # Equal examples and steps: the mean of 0.3 and 0.1, in float64, added to the head.
        change = (40.0 * np.float32(0.3).astype(np.float64) + 40.0 * np.float32(0.1).astype(np.float64)) / 80.0
        np.testing.assert_array_equal(after[name], (value.astype(np.float64) + change).astype(np.float32))
    counts = counts_at(address)
    assert counts["accepted"] == 2
    assert counts["duplicate"] == times - 1


def counts_at(address: str) -> dict[str, int]:
    with Operator(address) as operator:
        return operator.report_counts()


def test_a_report_that_is_replayed_changes_nothing(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    replayed(400, plain_bundle, address, fleet, tools, tmp_path)


@pytest.mark.slow
def test_a_report_that_is_replayed_a_hundred_thousand_times_changes_nothing(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    replayed(100_000, plain_bundle, address, fleet, tools, tmp_path)


def test_status_shows_what_was_not_taken(
    plain_bundle: Path, address: str, fleet: Fleet, tools: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from coordinator.cli import main

    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=1), tmp_path)
    device = fleet(address, "a")
    device.join()
    order = device.order()
    assert device.send_bytes(b"\xff", run_id, order.round).verdict is Verdict.REJECTED
    assert main(["status", "--coordinator", address]) == 0
    shown = capsys.readouterr()
    assert "reports not taken since the coordinator started: 1 unreadable" in " ".join((shown.out + shown.err).split())


def test_the_reason_of_a_receipt() -> None:
    assert reason_of(Receipt(Verdict.LATE, "round 1 is closed")) == "late"
    assert reason_of(Receipt(Verdict.DUPLICATE, "held already")) == "duplicate"
