"""How the service is: from what systemd says of its unit, and from the record of its versions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_runtime.service.install import Place
from edge_runtime.service.unit import NAME
from edge_runtime.service.upgrade.environments import Environment, Versions
from edge_runtime.service.upgrade.record import Record, load
from protos.errors import RefusedError

_PROPERTIES = {
    "ActiveState": "active", "SubState": "sub", "StatusText": "says", "MainPID": "pid", "NRestarts": "restarts",
    "Result": "result", "ExecMainStatus": "exit_code", "MemoryCurrent": "memory_bytes", "CPUUsageNSec": "cpu_ns",
}  # fmt: skip
# What systemd prints for a number that it does not know: words, or the largest of 64 bits.
_UNKNOWN = ("", "[not set]", "infinity", str((1 << 64) - 1))
_NUMBERS = ("pid", "restarts", "exit_code", "memory_bytes", "cpu_ns")


@dataclass(frozen=True)
class Status:
    """What is known. Facts of a running system are absent for a machine in a folder."""

    installed: bool
    enabled: bool
    facts: Mapping[str, str | int | None]
    version: str | None = None
    record: Record = field(default_factory=Record)

    @property
    def running(self) -> bool:
        return self.facts.get("active") == "active"

    def as_json(self) -> dict[str, object]:
        """For ``--json``; an unknown figure is null."""
        known: dict[str, object] = {"unit": NAME, "installed": self.installed, "enabled": self.enabled, **self.facts}
        if self.installed and self.version is not None:
            trial, before = self.record.trial, self.record.before
            known |= {"version": self.version, "before": before.name if before else None}
            known |= {"trial": trial.new.name if trial else None, "bad": dict(self.record.bad)}
            known |= {"last": self.record.last or None}
        return known

    def lines(self) -> list[str]:
        """For people."""
        if not self.installed:
            return [f"{NAME} is not installed"]
        lines = [f"{NAME} is installed, and {'starts' if self.enabled else 'does not start'} with the machine"]
        if self.facts:
            lines.append(f"state     {self.facts['active']} ({self.facts['sub']}), {self.facts['restarts']} restarts")
            lines.append(f"says      {self.facts['says'] or 'nothing'}")
        if self.facts and not self.running:
            lines.append(f"ended     {self.facts['result']}, exit code {self.facts['exit_code']}")
        if self.version is not None:
            lines.append(f"version   {self.version}")
        if self.record.trial is not None:
            lines.append(f"trial     {self.record.trial.new.name}; {self.record.trial.old.name} comes back if it fails")
        if self.record.last:
            lines.append(f"last      {self.record.last}")
        for name, reason in self.record.bad.items():
            lines.append(f"bad       {name}: {reason}")
        if (memory := self.facts.get("memory_bytes")) is not None:
            lines.append(f"memory    {int(memory) >> 20} MB")
        return lines


def read(place: Place) -> Status:
    """The service on that machine.

    Raises:
        RefusedError: systemd is not there to be asked.
    """
    # systemctl enable makes an absolute link, which leads nowhere from outside a root in a folder.
    installed, enabled = place.unit.exists(), place.link.is_symlink()
    if not installed or not place.live:
        return Status(installed, enabled, {})
    program = place.program()
    version = Versions(place.home).name_of(Environment(program.parent.parent)) if program else None
    record = load(place.home)
    if shutil.which("systemctl") is None:
        raise RefusedError("systemctl is not there", where=NAME, fix="run this where systemd is, or give --root DIR")
    command = ["systemctl", "show", NAME, f"--property={','.join(_PROPERTIES)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        what = (done.stderr.strip().splitlines() or ["does not answer"])[0]
        raise RefusedError(what, where="systemctl show", fix="run this on a machine that systemd runs")
    return Status(installed, enabled, parse(done.stdout), version, record)


def parse(shown: str) -> dict[str, str | int | None]:
    """The output of ``systemctl show``: KEY=VALUE lines. What is missing or unknown is None."""
    given = dict(line.partition("=")[::2] for line in shown.splitlines() if "=" in line)
    facts: dict[str, str | int | None] = {}
    for key, name in _PROPERTIES.items():
        value = given.get(key, "")
        if name in _NUMBERS:
            facts[name] = int(value) if value.isdecimal() and value not in _UNKNOWN else None
        else:
            facts[name] = value
    return facts
