"""``edge-runtime doctor``: what is right and wrong with this machine, and how to mend it.

A check is a function that looks at a :class:`edge_runtime.doctor.host_machine.HostMachine` and returns findings; none
of them changes anything. :data:`CHECKS` is all of them, by theme; docs/doctor.md has a row for each name.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from edge_runtime.board import board_name, software_version
from edge_runtime.config import Settings
from edge_runtime.daemon.link import check_address
from edge_runtime.doctor.clock import check_clock
from edge_runtime.doctor.edge_tpu import check_edge_tpu
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.fresh_start import FreshStart, measure
from edge_runtime.doctor.heat import check_supply, check_temperature, check_throttling
from edge_runtime.doctor.host_machine import HostMachine
from edge_runtime.doctor.plugins import check_plugins
from edge_runtime.doctor.sensor import check_sensor
from edge_runtime.doctor.serial_port import check_grabbers, check_holder, check_session
from edge_runtime.doctor.service import check_memory_limit, check_services
from edge_runtime.doctor.software import (
    check_board,
    check_python,
    check_runtime,
    check_system_library,
    check_userland,
)
from edge_runtime.doctor.storage import check_file_system, check_state, check_swap, check_wear
from edge_runtime.doctor.wiring import check_wiring
from edge_runtime.identity.handshake import why_not
from edge_runtime.identity.identity import read_identity
from protos.addresses import several
from protos.commands.json_document import document
from protos.errors import CheckFailed, EdgejouleError

RSS_LIMIT_MB = 120.0
READY_LIMIT_S = 2.0


@dataclass(frozen=True)
class Examination:
    """All findings, and the figures of a fresh daemon process (None where it did not get so far)."""

    findings: tuple[Finding, ...]
    figures: FreshStart

    @property
    def exit_code(self) -> int:
        return CheckFailed.exit_code if any(finding.verdict == "fail" for finding in self.findings) else 0


def examine(settings: Settings, machine: HostMachine | None = None) -> Examination:
    """Run every check, and start a fresh daemon process to measure it.

    Args:
        machine: the one whose root the settings name, if None.
    """
    looked_at = machine or HostMachine(root=settings.machine_root)
    findings = [finding for check in CHECKS for finding in check.look(settings, looked_at)]
    figures = measure(settings)
    judged = (*findings, *_judged(figures))
    return Examination(
        tuple(replace(finding, fix="") if finding.verdict == "ok" else finding for finding in judged), figures
    )


def print_findings(examination: Examination, *, as_json: bool) -> int:
    """Print the examination on stdout; its exit code."""
    figures = examination.figures
    if as_json:
        facts: dict[str, Any] = {
            "version": software_version(),
            "board": board_name(),
            "python": platform.python_version(),
            **asdict(figures),
            "ready_limit_s": READY_LIMIT_S,
            "rss_limit_mb": RSS_LIMIT_MB,
            "checks": [asdict(finding) for finding in examination.findings],
            "ok": examination.exit_code == 0,
        }
        print(json.dumps(document("doctor", facts), indent=2))
        return examination.exit_code
    marks = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}
    colours = {"ok": "32", "warn": "33", "fail": "31"}
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for finding in examination.findings:
        mark = (
            f"\033[{colours[finding.verdict]}m{marks[finding.verdict]}\033[0m" if coloured else marks[finding.verdict]
        )
        print(f"{mark}  {finding.check}: {finding.what}")
        if finding.fix:
            print(f"      -> {finding.fix}")
    return examination.exit_code


def _judged(figures: FreshStart) -> list[Finding]:
    if figures.error:
        return [Finding("fresh start", "fail", figures.error, "mend this, then run the doctor again")]
    found = []
    if figures.ready_s is not None:
        slow = figures.ready_s >= READY_LIMIT_S
        fix = "a busy machine or a slow SD card; look at `systemd-analyze blame` and try again"
        found.append(
            Finding(
                "ready",
                "warn" if slow else "ok",
                f"{figures.ready_s:.2f} s after start (limit {READY_LIMIT_S:g} s)",
                fix,
            )
        )
    if figures.rss_mb is not None:
        large = figures.rss_mb >= RSS_LIMIT_MB
        when = f"in a round with {figures.embedded} examples" if figures.steps is not None else "at start"
        what = f"{figures.rss_mb:.0f} MB at most {when} (limit {RSS_LIMIT_MB:g} MB)"
        fix = "store the data as an uncompressed .npz, use fewer examples (--shard K/N) or a smaller backbone"
        found.append(Finding("memory", "warn" if large else "ok", what, fix))
    if figures.data is not None:
        fix = "see that nothing is missing: images of other kinds need another format, and each a class folder"
        found.append(Finding("data", "warn" if figures.data_left_out else "ok", figures.data, fix))
    if figures.data_unlike:
        fix = "see that the values are stored and scaled as those that the bundle was calibrated on"
        found.append(Finding("data", "warn", figures.data_unlike, fix))
    if figures.delegate is not None:
        bare = figures.delegate != "xnnpack"
        fix = "allow the process to read /proc/cpuinfo (systemd: no ProcSubset=pid)"
        found.append(
            Finding("engine", "warn" if bare else "ok", f"{figures.engine} with {figures.delegate} kernels", fix)
        )
    return found


def _sensor(settings: Settings, machine: HostMachine) -> list[Finding]:
    return check_sensor(settings.sensor, sysfs_root=machine.root / "sys", dev_root=machine.root / "dev")


def _edge_tpu(settings: Settings, machine: HostMachine) -> list[Finding]:
    return check_edge_tpu(settings)


def _coordinator(settings: Settings, machine: HostMachine) -> list[Finding]:
    return [finding for address in several(settings.coordinator) for finding in _coordinator_at(address, settings)]


def _coordinator_at(address: str, settings: Settings) -> list[Finding]:
    try:
        identity = read_identity(settings.state)
        host, _, port = check_address(address, identity).rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0):
            pass
        if identity is None:
            return [Finding("coordinator", "ok", f"something listens on {address}")]
        if (wrong := why_not(address, identity)) is not None:
            return [Finding("coordinator", "fail", *wrong)]
        left_d = (identity.ends_unix_s - time.time()) / 86400
        what = f"{address} knows this board as {identity.device_id}, for {left_d:.0f} days more"
        return [Finding("coordinator", "ok", what)]
    except EdgejouleError as error:
        return [Finding("coordinator", "fail", str(error), "give another with --coordinator")]
    except OSError as error:
        fix = "start it with `coordinator serve`; the daemon waits for it"
        what = f"{address} does not answer ({error.strerror or error})"
        return [Finding("coordinator", "warn", what, fix)]


@dataclass(frozen=True)
class Check:
    """One look at the machine.

    Attributes:
        names: what its findings may be called.
    """

    names: tuple[str, ...]
    look: Callable[[Settings, HostMachine], list[Finding]]


CHECKS = (
    Check(("board",), check_board),
    Check(("python",), check_python),
    Check(("system library",), check_system_library),
    Check(("userland",), check_userland),
    Check(("runtime",), check_runtime),
    Check(("plugins",), check_plugins),
    Check(("edgetpu",), _edge_tpu),
    Check(("sensor", "sensor line"), _sensor),
    Check(("sensor wiring",), check_wiring),
    Check(("port session",), check_session),
    Check(("port in use",), check_holder),
    Check(("port grabbers",), check_grabbers),
    Check(("coordinator",), _coordinator),
    Check(("clock",), check_clock),
    Check(("state",), check_state),
    Check(("file system",), check_file_system),
    Check(("disk wear",), check_wear),
    Check(("swap",), check_swap),
    Check(("temperature",), check_temperature),
    Check(("supply",), check_supply),
    Check(("throttling",), check_throttling),
    Check(("memory limit",), check_memory_limit),
    Check(("services",), check_services),
)
FRESH_START = ("fresh start", "ready", "memory", "data", "engine")
"""Findings about the fresh process."""
