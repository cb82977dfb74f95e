"""Benches of metering."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from metering_bench import IDEAL, IMAGE, Bench

from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.energy.ina219 import Calibration


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Start a bench: sensors, then ``profile``, ``record``, ``usb_seed`` and fields of MachineSpec."""
    with contextlib.ExitStack() as stack:

        def begin(
            *sensors: SensorSpec,
            profile: str = "balanced",
            record: Calibration | None = IDEAL,
            usb_seed: int = 0,
            **fields,
        ) -> Bench:
            spec = MachineSpec(IMAGE, sensors or (SensorSpec("constant:2.5"),), **{"seed": 3, **fields})
            machine = stack.enter_context(FirmwareMachine.start(spec))
            made = Bench(machine, profile=profile, record=record, usb_seed=usb_seed)
            stack.callback(made.close)
            return made

        yield begin
