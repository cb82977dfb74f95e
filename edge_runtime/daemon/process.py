"""The daemon as a process: opens the device, serves, and gives everything back."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import os
import time
from pathlib import Path

from edge_runtime.board import software_version
from edge_runtime.config import Settings
from edge_runtime.daemon.backoff import Backoff
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.link import Link, check_addresses
from edge_runtime.daemon.memory_guard import MemoryGuard
from edge_runtime.daemon.serving import Daemon
from edge_runtime.daemon.stopping import Interrupted, Stopping
from edge_runtime.identity.identity import read_identity
from edge_runtime.identity.renewal import Renewals
from edge_runtime.model.limits import SOCKET
from edge_runtime.model.socket_server import SocketServer
from edge_runtime.state import is_full, pid_file
from edge_runtime.systemd.logging_setup import log
from edge_runtime.systemd.notify import Notifier
from edge_runtime.systemd.starts import pause_s, worked
from edge_runtime.systemd.vitals import VitalsFile
from protos.errors import EdgejouleError, StoreError

# A bridge's handshake and its first sample.
_SENSOR_WAIT_S = 8.0


def run(
    settings: Settings, *, stopping: Stopping | None = None, rows: bool = False, notifier: Notifier | None = None
) -> None:
    """Open the device, serve, and give everything back.

    A full disk is waited for. Too much memory ends the round; when giving everything back frees enough, work goes on.

    Args:
        notifier: None for the one that the environment names.

    Raises:
        CheckFailed: too much memory is in use, and only a new process can mend that.
        EdgejouleError: what ended it; a stop request is no error.
    """
    stopping = stopping or Stopping()
    with contextlib.closing(notifier or Notifier.of(os.environ)) as telling:
        backoff = Backoff(1.0, 300.0)
        _rest(settings, stopping, telling)
        while True:
            guard = MemoryGuard(settings.memory_max_mb, stopping)
            stopping.tell_progress(telling.went_on, guard.look)
            _run(settings, stopping, telling, guard, rows=rows)
            if not guard.found_too_much or not _freed(guard):
                break
            stopping.withdraw()
            log().warning("memory is free again: work goes on")
            stopping.wait(backoff.next_s())
    if not guard.found_too_much:
        worked(settings.state)
    guard.verdict()


def _freed(guard: MemoryGuard) -> bool:
    """Whether there is room again, now that the device is closed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # glibc keeps freed memory for later; malloc_trim(3) gives it back.
        ctypes.CDLL(None).malloc_trim(0)
    return guard.has_room()


def _rest(settings: Settings, stopping: Stopping, notifier: Notifier) -> None:
    """A service that fails again and again begins ever more slowly."""
    if "NOTIFY_SOCKET" not in os.environ or not settings.state.is_dir():
        return
    rest_s = pause_s(settings.state)
    if rest_s > 0:
        log().warning("started again and again: the daemon rests for %.0f s first", rest_s)
        notifier.ready(f"rests for {rest_s:.0f} s, since it was started again and again")
        stopping.wait(rest_s)


def _open(settings: Settings, stopping: Stopping, notifier: Notifier) -> Device | None:
    """The device; waits as long as the disk is full. None: a stop was requested before.

    Raises:
        EdgejouleError: what waiting does not mend.
    """
    backoff, said = Backoff(1.0, 60.0), ""
    while True:
        try:
            with stopping.loading():
                return Device(settings)
        except Interrupted:
            log().info("stopped by %s before it was ready", stopping.reason)
            return None
        except EdgejouleError as error:
            # See Daemon._do in edge_runtime/daemon/serving.py: the signal may be what broke it.
            if stopping.requested:
                log().info("stopped by %s before it was ready (%s)", stopping.reason, error)
                return None
            if not is_full(error.__cause__):
                raise
            if str(error) != said:
                said = str(error)
                log().error("%s; it is waited for", error)
                notifier.ready(f"waiting: {error}")
        if stopping.wait(backoff.next_s()):
            log().info("stopped by %s before it was ready", stopping.reason)
            return None


def _run(settings: Settings, stopping: Stopping, notifier: Notifier, guard: MemoryGuard, *, rows: bool) -> None:
    identity = read_identity(settings.state)
    addresses = check_addresses(settings.coordinator, identity)
    if identity is not None and identity.device_id != settings.device_id:
        log().info("this device is %s, as its certificate says, not %s", identity.device_id, settings.device_id)
        settings = dataclasses.replace(settings, device_id=identity.device_id)
    device = _open(settings, stopping, notifier)
    if device is None:
        return
    # Between two pieces of work, predictions go first.
    stopping.tell_progress(notifier.went_on, guard.look, device.gate.between)
    with contextlib.closing(device), pid_file(settings.pid_file), contextlib.ExitStack() as serving:
        _serve_model(device, serving)
        _await_sensor(device, stopping)
        meter, count, engine = device.meter.identity, device.summary.train_count, device.backbone_engine
        log().info("ready: %d examples, sensor %s (%s), engine %s", count, meter.sensor, meter.method, engine)
        vitals = VitalsFile.of(os.environ)
        vitals.ready(version=software_version(), engine=str(device.engine), delegate=device.engine.delegate)
        notifier.ready(f"{count} examples, engine {engine}; looking for {settings.coordinator}")
        with contextlib.ExitStack() as stack:
            link = stack.enter_context(contextlib.closing(Link(settings.coordinator, stopping, state=settings.state)))
            if identity is not None:
                renewals = stack.enter_context(contextlib.closing(Renewals(settings.state, addresses[0])))
                renewals.start()
            Daemon(device, link, stopping, rows=rows, notifier=notifier, vitals=vitals).serve()


def _serve_model(device: Device, stack: contextlib.ExitStack) -> None:
    """Let applications ask the model at work. What cannot be served is said, and is no reason not to train."""
    settings = device.settings
    if settings.model_socket != "off":
        path = Path(settings.model_socket) if settings.model_socket else device.state.path / SOCKET
        try:
            # In a place that the settings name, the folder says who may ask.
            mode = 0o666 if settings.model_socket else 0o660
            stack.enter_context(contextlib.closing(SocketServer(path, device.model, mode=mode)))
        except StoreError as error:
            log().warning("%s; applications cannot ask the model", error)
    if settings.model_http is not None:
        from edge_runtime.model.http_server import HttpServer

        try:
            stack.enter_context(contextlib.closing(HttpServer(settings.model_http, device.model)))
        except StoreError as error:
            log().warning("%s; applications cannot ask the model over HTTP", error)


def _await_sensor(device: Device, stopping: Stopping) -> None:
    """Give a sensor that is there the time to answer, so that the first card names it; one that is not gets none."""
    if device.late is None:
        return
    end_s = time.monotonic() + _SENSOR_WAIT_S
    while not device.late.tried.wait(0.02) and time.monotonic() < end_s and not stopping.progressed():
        pass
    device.refresh()
