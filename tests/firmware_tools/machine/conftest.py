"""Machines for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine_host import IMAGE, Host

from firmware_tools.bridge.machine.bootloader import find_optiboot
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from protos.errors import EdgejouleError


@pytest.fixture
def start() -> Iterator[Callable[..., FirmwareMachine]]:
    """Start a machine in lock-step: sensors, then fields of MachineSpec; ``hex=None`` for an empty flash."""
    with contextlib.ExitStack() as stack:

        def begin(*sensors: SensorSpec, hex: Path | None = IMAGE, **fields) -> FirmwareMachine:
            spec = MachineSpec(hex, sensors or (SensorSpec(),), **fields)
            return stack.enter_context(FirmwareMachine.start(spec))

        yield begin


@pytest.fixture
def bridge(start: Callable[..., FirmwareMachine]) -> Callable[..., Host]:
    """Start a machine with the committed firmware, and let it boot."""

    def begin(*sensors: SensorSpec, **fields) -> Host:
        host = Host(start(*sensors, **fields))
        host.run(0.2)
        return host

    return begin


@pytest.fixture(scope="session")
def optiboot() -> Path:
    try:
        return find_optiboot()
    except EdgejouleError as error:
        pytest.skip(str(error))
