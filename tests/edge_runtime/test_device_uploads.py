"""What sending a large report costs is all in the phase SEND: each try of it, and the question how much is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from peer_coordinator import PeerCoordinator
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.config import Settings
from edge_runtime.daemon.delivery import Delivery
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.stopping import Stopping
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase
from protos.orders import DeviceReport, Engine, StopReason, Verdict
from protos.update.tensors import as_float32
from protos.v1 import edgejoule_pb2 as pb

ASKS_S, SENDS_S = 0.5, 2.0


class Keeping(PeerCoordinator):
    """Keeps what a call brings, and hangs up on each but the last; virtual seconds pass meanwhile."""

    def __init__(self, clock: VirtualClock, hang_up: list[int]) -> None:
        super().__init__()
        self.clock, self.hang_up, self.held, self.begun = clock, hang_up, b"", list[int]()

    def ReportHeld(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.clock.pass_(ASKS_S)
        return pb.ReportHeldResponse(held_bytes=len(self.held))

    def Report(self, request_iterator: Iterator[Any], context: Any) -> Any:  # noqa: N802
        self.begun.append(next(request_iterator).header.from_byte)
        self.clock.pass_(SENDS_S)
        parts = self.hang_up.pop(0) if self.hang_up else None
        for count, part in enumerate(request_iterator):
            if count == parts:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the line is gone")
            self.held += part.data
        return pb.ReportResponse(verdict=pb.VERDICT_ACCEPTED)


def test_joules_of_every_try_are_in_send_and_the_bytes_go_once(
    settings: Callable[..., Settings], tmp_path: Path
) -> None:
    clock = VirtualClock()
    peer = Keeping(clock, [4, 2])
    update = as_float32({"kernel": np.random.default_rng(1).normal(size=(300, 200)).astype(np.float32)})
    report = DeviceReport(
        "run-1", 1, "pi-1", "plan-1", "bundle-1", "head-1", 5, 5, 40, 5.0, StopReason.COMPLETED, 2.0, 1.0,
        Engine("e", "1", "x"), (), update, 40, 0.1,
    )  # fmt: skip
    stopping = Stopping()
    meter = ScriptedMeter(clock, {Phase.SEND: 3.0, Phase.IDLE: 1.0})
    device = Device(settings(), clock=clock, meter=meter)
    link = Link(peer.address, stopping)
    try:
        receipt = Delivery(device, link, stopping, rows=False).send(report, 0)
        assert receipt is not None
        assert receipt.verdict is Verdict.ACCEPTED
        assert peer.begun == [0, 4 * 32768, 6 * 32768]
        assert peer.held == serialise_report(report)
        (settled,) = device.outbox.settled()
        (sent,) = [record for record in settled.energy if record.phase is Phase.SEND]
        assert sent.covered_s == 3 * (ASKS_S + SENDS_S)
        assert sent.energy_j == 3.0 * sent.covered_s
    finally:
        link.close()
        device.close()
        peer.stop()
