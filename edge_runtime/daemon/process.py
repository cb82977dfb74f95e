"""The daemon as a process: opens the device, serves, and gives everything back."""

from __future__ import annotations

import contextlib
import dataclasses
import os

from edge_runtime.board import software_version
from edge_runtime.config import Settings
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.link import Link, check_address
from edge_runtime.daemon.memory_guard import MemoryGuard
from edge_runtime.daemon.serving import Daemon
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.identity.identity import read_identity
from edge_runtime.identity.renewal import Renewals
from edge_runtime.state import pid_file
from edge_runtime.systemd.logging_setup import log
from edge_runtime.systemd.notify import Notifier
from edge_runtime.systemd.vitals import VitalsFile
from protos.errors import EdgejouleError


def run(
    settings: Settings, *, stopping: Stopping | None = None, rows: bool = False, notifier: Notifier | None = None
) -> None:
    """Open the device, serve, and give everything back.

    Args:
        notifier: None for the one that the environment names.

    Raises:
        CheckFailed: too much memory was in use.
        EdgejouleError: what ended it; a stop request is no error.
    """
    stopping = stopping or Stopping()
    guard = MemoryGuard(settings.memory_max_mb, stopping)
    with contextlib.closing(notifier or Notifier.of(os.environ)) as telling:
        stopping.tell_progress(telling.progress, guard.look)
        _run(settings, stopping, telling, rows=rows)
    guard.verdict()


def _run(settings: Settings, stopping: Stopping, notifier: Notifier, *, rows: bool) -> None:
    identity = read_identity(settings.state)
    check_address(settings.coordinator, identity)
    if identity is not None and identity.device_id != settings.device_id:
        log().info("this device is %s, as its certificate says, not %s", identity.device_id, settings.device_id)
        settings = dataclasses.replace(settings, device_id=identity.device_id)
    try:
        device = Device(settings)
    except EdgejouleError as error:
        # See Daemon._do in edge_runtime/daemon/serving.py: the signal may be what broke it.
        if not stopping.requested:
            raise
        log().info("stopped by %s before it was ready (%s)", stopping.reason, error)
        return
    with contextlib.closing(device), pid_file(settings.pid_file):
        meter, count, engine = device.meter.identity, device.summary.train_count, device.backbone_engine
        log().info("ready: %d examples, sensor %s (%s), engine %s", count, meter.sensor, meter.method, engine)
        vitals = VitalsFile.of(os.environ)
        vitals.ready(version=software_version(), engine=str(device.engine), delegate=device.engine.delegate)
        notifier.ready(f"{count} examples, engine {engine}; looking for {settings.coordinator}")
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(contextlib.closing(Link(settings.coordinator, stopping, state=settings.state)))
            if identity is not None:
                renewals = stack.enter_context(contextlib.closing(Renewals(settings.state, settings.coordinator)))
                renewals.start()
            Daemon(device, link, stopping, rows=rows, notifier=notifier, vitals=vitals).serve()
