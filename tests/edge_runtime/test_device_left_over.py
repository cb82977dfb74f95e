"""Reports that an earlier start left without an answer: what sending them costs is told as sending, and no more."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_meter import ScriptedMeter, VirtualClock

from edge_runtime.daemon.delivery import Delivery
from edge_runtime.daemon.outbox import Outbox
from edge_runtime.daemon.stopping import Stopping
from protos.energy.trace import Phase
from protos.errors import RefusedError
from protos.orders import Receipt, Verdict

WATTS = {Phase.SEND: 3.0, Phase.IDLE: 2.0}


class SlowLink:
    """Each report takes two seconds to be answered."""

    def __init__(self, clock: VirtualClock, answer: Receipt | Exception) -> None:
        self._clock, self._answer = clock, answer

    def report(self, device_id: str, run_id: str, round: int, data: bytes) -> Receipt:
        self._clock.pass_(2.0)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", [Receipt(Verdict.ACCEPTED), RefusedError("nobody knows this run")])
def test_only_the_time_of_sending_what_was_left_over_is_sending(tmp_path: Path, answer: Any) -> None:
    clock = VirtualClock()
    meter, outbox = ScriptedMeter(clock, WATTS), Outbox(tmp_path)
    for number in (1, 2):
        outbox.put("run", number, b"a report")
    device = SimpleNamespace(
        outbox=outbox, meter=meter, settings=SimpleNamespace(device_id="a"),
        memory=SimpleNamespace(settle=lambda *told, **more: None),
    )  # fmt: skip
    clock.pass_(7.0)
    delivery = Delivery(device, SlowLink(clock, answer), Stopping(), rows=False)  # type: ignore[arg-type]
    delivery.send_left_over()
    assert outbox.pending() == []
    clock.pass_(5.0)
    meter.mark(Phase.SEND)
    assert [(part.phase, part.energy_j) for part in meter.settle()] == [(Phase.IDLE, 10.0)]
    told = [(one.round, part.phase, part.energy_j) for one in outbox.settled() for part in one.energy]
    if isinstance(answer, Receipt):
        # How much an earlier start spent on them went with it: the whole is unknown, the seconds are told.
        assert [(number, phase) for number, phase, _ in told] == [(1, Phase.SEND), (2, Phase.SEND)]
        assert [part.covered_s for one in outbox.settled() for part in one.energy] == [2.0, 2.0]
    else:
        assert told == []
