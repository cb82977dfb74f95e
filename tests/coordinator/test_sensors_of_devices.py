"""Sensors as operators see them: named once by the card, or in each phase by a device of before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from coordinator.operator.client import Operator
from protos.convert.energy import settled_to
from protos.convert.reports import serialise_report
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import MeterCard, SettledEnergy
from protos.v1 import edgejoule_pb2 as pb

Fleet = Callable[..., Any]
CARD = MeterCard("measured", "ina219:ttyUSB0#0", "none", "uncalibrated", id=77)


def test_joules_get_the_sensor_of_the_card_and_no_other(
    address: str, plain_bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(plain_bundle, devices=3), tmp_path)
        new, old, moved = fleet(address, "new", meter=CARD), fleet(address, "old"), fleet(address, "moved", meter=CARD)
        energy = (PhaseEnergy(Phase.TRAIN, 2.0, 1.0, 0.0, "measured", "ina219:/dev/ttyUSB0#0", 0.01),)
        for device in (new, old, moved):
            device.join()
        for device, meter in ((new, CARD), (old, None), (moved, replace(CARD, id=78))):
            order = device.order()
            data = serialise_report(device.answer(order, 1.0, energy=energy), meter)
            device.send_bytes(data, run_id, order.round)
        sent = PhaseEnergy(Phase.SEND, 0.1, 0.1, 0.0, "measured", "ina219:/dev/ttyUSB0#0", 0.01)
        new.stub.NextOrder(
            pb.NextOrderRequest(
                device_id="new",
                session=new.card.session,
                settled=settled_to([SettledEnergy(run_id, 1, (sent,), 1)], CARD),
            )
        )
        status = tools.finished(operator, run_id)
    seen = {device.device_id: [record.sensor for record in device.energy] for device in status.rounds[1].devices}
    assert seen == {"new": [CARD.sensor] * 2, "old": ["ina219:ttyUSB0#0"], "moved": [""]}
