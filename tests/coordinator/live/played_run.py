"""A run with everything in it that a report and a live view must tell: limits, heat, refusals, late and missing
devices, joules that nobody knows, and a device whose name is a piece of HTML."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from coordinator.operator.client import Operator
from protos.energy.trace import Phase, PhaseEnergy
from protos.orders import DeviceReport, MeterCard, SettledEnergy, Strain, TrainOrder, Verdict

EVIL = "<script>alert(1)</script>&\"'"
SENSORS = {EVIL: "ina219:one", "pi-b": "ina219:two"}


def measured(phase: Phase, energy_j: float, sensor: str) -> PhaseEnergy:
    return PhaseEnergy(phase, energy_j, 2.0, 0.5, "measured", sensor, energy_j / 20, ("clipped",))


def energy_of(device_id: str, number: int) -> tuple[PhaseEnergy, ...]:
    """What a device says that it spent in a round; nobody knows what "pi-c" did."""
    if device_id not in SENSORS:
        return (PhaseEnergy(Phase.TRAIN, None, 0.0, 3.0, "unknown", "", None, ("no-sensor",)),)
    sensor = SENSORS[device_id]
    return (
        measured(Phase.IDLE, 1.5, sensor),
        measured(Phase.EMBED, 0.25 * number, sensor),
        measured(Phase.TRAIN, 2.0 + number, sensor),
        measured(Phase.ENCODE, 0.5, sensor),
    )


def fleet_of(address: str, fleet: Any) -> list[Any]:
    """Three devices that have joined: two with meters, one without."""
    devices = [
        fleet(address, EVIL, meter=MeterCard("measured", SENSORS[EVIL])),
        fleet(address, "pi-b", meter=MeterCard("measured", SENSORS["pi-b"])),
        fleet(address, "pi-c", meter=MeterCard("unknown", "")),
    ]
    for device in devices:
        device.join()
    return devices


def play_round(devices: list[Any], number: int, *, refuse: bool = False) -> None:
    """All devices answer a round; that of the last one is refused where that is asked for."""
    orders: list[TrainOrder] = [device.order(round=number) for device in devices]
    for device, order in zip(devices, orders, strict=True):
        name = device.card.device_id
        report: DeviceReport = device.answer(
            order,
            0.1,
            energy=energy_of(name, number),
            strain=Strain(heat_s=4.0, hottest_c=60.0 + number, throttled=True) if name == "pi-b" else None,
        )
        if refuse and name == "pi-c":
            assert (
                device.send(device.answer(order, 0.1, plan_id="another", energy=report.energy)).verdict
                is Verdict.REJECTED
            )
            continue
        assert device.send(report).verdict is Verdict.ACCEPTED


def played(address: str, bundle: Path, fleet: Any, tools: Any, folder: Path, *, rounds: int = 3, name: str = "") -> str:
    """A finished run of so many rounds; joules of sending come with the calls after them. The last device's report of
    round 2 is refused."""
    # A device without a meter is given no limit: it could not keep one.
    budget = (
        "[budget.device]\n"
        + "".join(f"{json.dumps(name)} = 8.0\n" for name in SENSORS)
        + '[aggregate]\nweight = ["by_examples"]\n'
    )
    text = tools.plan(bundle, rounds=rounds, devices=3, more=budget)
    if name:
        text = text.replace('name = "test"', f'name = "{name}"')
    with Operator(address) as operator:
        run_id = operator.start_run(text, folder)
        devices = fleet_of(address, fleet)
        for number in range(1, rounds + 1):
            play_round(devices, number, refuse=number == 2)
            for device in devices[:2]:
                sensor = SENSORS[device.card.device_id]
                device.ask(SettledEnergy(run_id, number, (measured(Phase.SEND, 0.125, sensor),), attempt=1))
        tools.finished(operator, run_id)
    return run_id


def soon(check: Any, what: str, patience_s: float = 90.0) -> Any:
    """Wait for something that must come about."""
    end = time.monotonic() + patience_s
    while not (found := check()):
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.02)
    return found
