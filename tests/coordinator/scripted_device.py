"""A device that speaks the real protocol through the generated stub, and whose training is a given change."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np

from protos.convert.cards import card_to
from protos.convert.energy import settled_to
from protos.convert.orders import order_from
from protos.convert.publications import receptions_to
from protos.convert.reports import receipt_from, serialise_report
from protos.energy.trace import Method, Phase, PhaseEnergy
from protos.orders import (
    PROTOCOL,
    DeviceCard,
    DeviceReport,
    Engine,
    Holding,
    MeterCard,
    Receipt,
    Reception,
    RejoinOrder,
    SettledEnergy,
    StopReason,
    TrainOrder,
    WaitOrder,
)
from protos.update.tensors import as_float32, decode
from protos.update.trees import Tree
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

# What a device says that cannot make heads from others.
NOTHING = Holding()
# Connections that were refused are tried again soon: tests kill coordinators, and start them anew.
_AGAIN_SOON = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 50),
]
LITERT = Engine("ai-edge-litert", "2.3.0", "xnnpack")


def joules(phase: Phase, energy_j: float | None) -> PhaseEnergy:
    """One energy record."""
    method: Method = "unknown" if energy_j is None else "measured"
    return PhaseEnergy(phase, energy_j, 1.0, 0.0, method, "ina219:test", 0.01 if energy_j else None)


class ScriptedDevice:
    """Speaks for one device. ``change`` is added to the head in each round."""

    def __init__(self, address: str, device_id: str, channel: grpc.Channel | None = None, **card: Any) -> None:
        given = {
            "device_id": device_id,
            "session": f"{device_id}-1",
            "software_version": "0",
            "board": "pi4",
            "engine": LITERT,
            "meter": MeterCard("measured", "ina219:test"),
            "train_examples": 40,
            "test_examples": 10,
            **card,
        }
        self.card = DeviceCard(**given)
        plain = [("grpc.max_receive_message_length", 64 << 20), *_AGAIN_SOON]
        self.channel = channel or grpc.insecure_channel(address, options=plain)
        self.stub: Any = rpc.DeviceServiceStub(self.channel)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        self.channel.close()

    def join(self, protocol: tuple[int, int] = PROTOCOL) -> Any:
        return self.stub.Join(card_to(self.card, protocol), timeout=60, wait_for_ready=True)

    def ask(
        self,
        *settled: SettledEnergy,
        holding: Holding = NOTHING,
        receptions: tuple[Reception, ...] = (),
        waits_s: float = 0.0,
    ) -> TrainOrder | WaitOrder | RejoinOrder:
        """Ask for an order. With ``waits_s`` the call is held so long at most, less what an answer takes; else as long
        as the coordinator likes."""
        request = pb.NextOrderRequest(
            device_id=self.card.device_id,
            session=self.card.session,
            settled=settled_to(settled),
            head_version=holding.head_version,
            rebuilds=holding.rebuilds,
            basis_version=holding.basis_version,
            bundle_id=holding.bundle_id,
            published=holding.published,
            receptions=receptions_to(receptions),
            waits_s=waits_s,
        )
        return order_from(self.stub.NextOrder(request, timeout=20))

    def order(self, round: int | None = None, holding: Holding = NOTHING) -> TrainOrder:
        """Ask until there is an order (of this round)."""
        for _ in range(3000):
            order = self.ask(holding=holding)
            if isinstance(order, TrainOrder) and round in (None, order.round):
                return order
            assert not isinstance(order, RejoinOrder)
            time.sleep(0.02)
        raise AssertionError(f"{self.card.device_id}: no order came")

    def answer(self, order: TrainOrder, change: Tree | float, **fields: Any) -> DeviceReport:
        """An honest report of an order, but for ``fields``."""
        if not isinstance(change, dict):
            head = decode(order.head, {tensor.name: tensor.shape for tensor in order.head})
            change = {name: np.full_like(array, change) for name, array in head.items()}
        steps = int(fields.get("steps_done", order.steps))
        report = DeviceReport(
            run_id=order.run_id,
            round=order.round,
            device_id=self.card.device_id,
            plan_id=order.plan_id,
            bundle_id=order.bundle_id,
            head_version=order.head_version,
            steps_planned=order.steps,
            steps_done=steps,
            examples=self.card.train_examples,
            local_normaliser=float(steps),
            stop_reason=StopReason.COMPLETED,
            loss_first=2.0,
            loss_last=1.0,
            engine=self.card.engine,
            energy=(joules(Phase.EMBED, 1.0), joules(Phase.TRAIN, 2.0), joules(Phase.ENCODE, 0.5)),
            update=as_float32(change),
            embedded=self.card.train_examples,
            train_s=0.1,
        )
        return dataclasses.replace(report, **fields)

    def send(self, report: DeviceReport) -> Receipt:
        return self.send_bytes(serialise_report(report), report.run_id, report.round)

    def send_bytes(self, data: bytes, run_id: str, round: int, *, part: int = 1000, **header: Any) -> Receipt:
        fields = {
            "run_id": run_id,
            "round": round,
            "device_id": self.card.device_id,
            "total_bytes": len(data),
            "sha256": hashlib.sha256(data).digest(),
            **header,
        }

        def parts() -> Iterator[Any]:
            yield pb.ReportRequest(header=pb.ReportHeader(**fields))
            for start in range(0, len(data), part):
                yield pb.ReportRequest(data=data[start : start + part])

        return receipt_from(self.stub.Report(parts(), timeout=60))

    def leave(self, *settled: SettledEnergy) -> None:
        self.stub.Leave(
            pb.LeaveRequest(device_id=self.card.device_id, session=self.card.session, settled=settled_to(settled)),
            timeout=60,
        )
