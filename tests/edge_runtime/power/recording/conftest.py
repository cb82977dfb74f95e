"""Events of a simulated bridge on virtual time, and files made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.power.bridge.session import BridgeSession
from edge_runtime.power.events import Event
from edge_runtime.power.meters.meter import MeterIdentity
from edge_runtime.power.recording.header import Header
from edge_runtime.power.recording.writer import BlockFile
from edge_runtime.power.sensor import Capabilities
from firmware_tools.bridge.simulator.loads import SquareLoad
from protos.energy.uncertainty import ErrorModel

HEADER = Header(
    MeterIdentity("measured", "ina219:virtual#0", "00000001", "calibrated"),
    Capabilities(208.7, "device", raw_shunt=True),
    ErrorModel(gain_relative=0.01),
    1000.0,
    "2026-01-01T00:00:00.000+00:00",
    "bench",
    "boot",
    "0",
)


@pytest.fixture
def header() -> Header:
    return HEADER


@pytest.fixture
def bridge_events(clock, make_device) -> Callable[..., list[Event]]:
    """What a bridge says in some seconds of virtual time; ``until`` of them lose every n-th batch."""

    def make(seconds: float, *, profile: str = "balanced", lose: int = 0, reboot_after_s: float | None = None):
        rng = np.random.default_rng(11)
        device = make_device(SquareLoad(1.0, 4.0, 0.37), profile=profile, drift_ppm=60.0)
        events: list[Event] = []
        session = BridgeSession(0, events.append)
        begun_s, sent, rebooted = clock.now_s, 0, False
        while clock.now_s < begun_s + seconds:
            clock.now_s += 1e-3
            if reboot_after_s is not None and not rebooted and clock.now_s > begun_s + reboot_after_s:
                rebooted = True
                device.reboot(clock.now_s)
            out = device.advance(clock.now_s)
            sent += bool(out)
            if out and not (lose and sent % lose == 0):
                session.receive(out, clock.now_s)
            if commands := session.due(clock.now_s):
                asked_s = clock.now_s + float(rng.uniform(1e-4, 1e-3))
                session.receive(device.receive(commands, asked_s), asked_s + float(rng.uniform(1e-4, 1e-3)))
        return events

    return make


@pytest.fixture
def write_file(tmp_path: Path, header: Header) -> Callable[..., Path]:
    """A recording whose blocks hold the lists of entries given."""

    def write(*blocks, name: str = "run.ejr", of: Header = header) -> Path:
        file = BlockFile(tmp_path / name, of)
        for entries in blocks:
            file.append(entries)
        file.close()
        return tmp_path / name

    return write
