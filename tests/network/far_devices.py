"""Devices at the other end of a bad line, each with its identity: the real link, and work of no time.

    python tests/network/far_devices.py COORDINATOR STATE... [--seconds S]

Each joins, does every order by adding one to each number of the head, and sends the report until it is answered. Prints
a line of JSON for each report: its size, seconds, tries and verdict. Ends when no order came for so long.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

from edge_runtime.daemon.link import Away, Link
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity.identity import read_identity
from protos.convert.reports import serialise_report
from protos.errors import RefusedError
from protos.orders import DeviceCard, DeviceReport, Engine, Holding, MeterCard, RejoinOrder, StopReason, TrainOrder
from protos.update.tensors import as_float32, decode

LITERT = Engine("ai-edge-litert", "2.3.0", "xnnpack")


class Far:
    """One device."""

    def __init__(self, address: str, state: Path, waits_s: float) -> None:
        self.waits_s = waits_s
        identity = read_identity(state)
        assert identity is not None
        self.card = DeviceCard(
            identity.device_id,
            "s1",
            "0",
            "pi4",
            LITERT,
            MeterCard("measured", "ina219:test"),
            40,
            10,
            instance=str(state),
        )
        self.link = Link(address, Stopping(), state=state)

    def work(self, seconds: float) -> None:
        """Until no order came for so long."""
        joined, last_s = False, time.monotonic()
        while time.monotonic() - last_s < seconds:
            try:
                if not joined:
                    self.link.join(self.card)
                    joined = True
                # It waits as a real one does: an order that carries a large head takes long to come.
                order, _ = self.link.next_order(
                    self.card.device_id, "s1", (), bundle_id="", holding=Holding(), waits_s=self.waits_s
                )
            except (Away, RefusedError):
                time.sleep(0.2)
                continue
            if isinstance(order, RejoinOrder):
                joined = False
            if isinstance(order, TrainOrder):
                self._answer(order)
                last_s = time.monotonic()

    def _answer(self, order: TrainOrder) -> None:
        head = decode(order.head, {tensor.name: tensor.shape for tensor in order.head})
        made = DeviceReport(
            order.run_id, order.round, self.card.device_id, order.plan_id, order.bundle_id, order.head_version,
            order.steps, order.steps, 40, float(order.steps), StopReason.COMPLETED, 2.0, 1.0, LITERT, (),
            as_float32({name: np.ones_like(array) for name, array in head.items()}), 40, 0.1,
        )  # fmt: skip
        data = serialise_report(dataclasses.replace(made, attempt=order.attempt))
        begun_s, tries, receipt = time.monotonic(), 0, None
        while receipt is None:
            tries += 1
            try:
                receipt = self.link.report(self.card.device_id, order.run_id, order.round, data)
            except Away:
                time.sleep(0.5)
        row = {
            "device": self.card.device_id, "round": order.round, "bytes": len(data), "tries": tries,
            "took_s": round(time.monotonic() - begun_s, 2), "verdict": receipt.verdict, "reason": receipt.reason,
        }  # fmt: skip
        print(json.dumps(row), flush=True)


def main() -> int:
    """Work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", metavar="COORDINATOR")
    parser.add_argument("states", metavar="STATE", type=Path, nargs="+")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="without an order until it ends (60)")
    parser.add_argument("--waits-s", type=float, default=20.0, metavar="S", help="for each order (20)")
    given = parser.parse_args()
    devices = [Far(given.address, state, given.waits_s) for state in given.states]
    threads = [threading.Thread(target=device.work, args=(given.seconds,)) for device in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
