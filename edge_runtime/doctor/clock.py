"""The clock: synchronised or not, and whether it survives a power cut."""

from __future__ import annotations

from edge_runtime.config import Settings
from edge_runtime.doctor.finding import Finding
from edge_runtime.doctor.host_machine import HostMachine


def check_clock(settings: Settings, machine: HostMachine) -> list[Finding]:
    """adjtimex(2) says whether somebody disciplines it."""
    fix = "sudo timedatectl set-ntp true; deadlines do not depend on it, the times in logs and certificates do"
    state = machine.synchronised()
    if state is None:
        return [Finding("clock", "warn", "cannot be asked on this system", fix)]
    if state:
        return [Finding("clock", "ok", "synchronised")]
    if not machine.below("sys/class/rtc/rtc*"):
        what = "not synchronised, and without a clock chip (RTC) it begins where it stopped at each start"
        return [Finding("clock", "warn", what, f"{fix}; without a network, add an RTC module")]
    return [Finding("clock", "warn", "not synchronised", fix)]
