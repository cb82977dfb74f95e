"""A machine's root in a folder with a service of an old version, and a manager that does as it is told.

What is real: files, the record, the lock, the new version's program as a process. What stands in: systemd, whose part
is tested in a booted one, and pip, which fills an environment with one program.
"""

from __future__ import annotations

import json
from pathlib import Path

from edge_runtime.config import resolve
from edge_runtime.service.access import access_of
from edge_runtime.service.install import Place
from edge_runtime.service.systemctl import Sight, Systemd
from edge_runtime.service.unit import unit_text
from edge_runtime.service.upgrade import environments
from edge_runtime.service.upgrade.record import Trial, Version
from edge_runtime.service.upgrade.switching import Switching
from edge_runtime.service.upgrade.trial import watch
from edge_runtime.service.upgrade.upgrade import UpgradeRequest, upgrade
from edge_runtime.systemd.notify import Notifier

PID = 4321
GOOD = Sight("active", "joined", PID, 0, "success", 0, False, 1000.0, 1000.0)
BAD = Sight("failed", "", 0, 0, "exit-code", 1, False, 0.0, 0.0)
TRIAL = Trial(Version("new", "/new", ""), Version("old", "/old", ""), "boot-1", started_s=100.0, limit_s=600.0)


class Manager(Systemd):
    """Systemd that starts nothing and shows what it is given."""

    def __init__(self, sight: Sight, boot: str = "boot-1") -> None:
        super().__init__()
        self.shown, self.boot, self.calls = sight, boot, list[tuple[str, ...]]()
        self.watching = False

    def call(self, *words: str) -> None:
        self.calls.append(words)

    def ask(self, *words: str) -> str:
        return "ActiveState=active" if self.watching else "ActiveState=inactive"

    def sight(self) -> Sight:
        return self.shown

    def going_down(self) -> bool:
        return False

    def boot_id(self) -> str:
        return self.boot

    def boottime_s(self) -> float:
        return 500.0

    def monotonic_s(self) -> float:
        return 2000.0


class Rig:
    """See the module.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.place = root, Place(root)
        self.wheel = root / "edgejoule-9.0.0-py3-none-any.whl"
        self.old = root / "opt/edgejoule"

    def make(self) -> None:
        """The files of it: an old version whose unit is installed, and the wheel of a new one."""
        self.wheel.write_bytes(b"a new version")
        config = self.root / "etc/edgejoule/device.toml"
        config.parent.mkdir(parents=True)
        config.write_text('data = "x.npz"\n')
        program(self.old, self.unit_of(self.old))
        self.place.unit.parent.mkdir(parents=True)
        self.place.unit.write_text(self.unit_of(self.old))

    def unit_of(self, environment: Path) -> str:
        resolved = resolve({"device_id": "pi-1", "data": "/srv/x.npz"}, {}, None)
        config, started = self.root / "etc/edgejoule/device.toml", environment / "bin/edge-runtime"
        return unit_text(resolved, access_of(resolved.settings, config, started), program=started, config=config)

    @property
    def new(self) -> Path:
        return self.place.home / "versions" / environments.name_of(self.wheel)

    def switching(self, manager: Manager) -> Switching:
        return Switching(self.place, manager)

    def upgrade(self, switching: Switching, **wanted: object) -> str | None:
        """The whole of ``service upgrade`` but the waiting; the version is on trial afterwards."""
        fill = environments._run
        environments._run = lambda command, fix: program(self.new, self.unit_of(self.new))  # type: ignore[assignment]
        try:
            return upgrade(switching, UpgradeRequest(wheel=self.wheel, **wanted), dry_run=False, say=lambda line: None)  # type: ignore[arg-type]
        finally:
            environments._run = fill

    def watch(self, switching: Switching) -> None:
        """What systemd starts: the watch, to its end. The daemon of the new version shows that it was answered."""
        vitals = {"pid": PID, "environment": str(self.new), "delegate": "xnnpack", "answered_s": 1.0}
        self.place.vitals.parent.mkdir(parents=True, exist_ok=True)
        self.place.vitals.write_text(json.dumps(vitals))
        # Long after the answer, on the manager's clock.
        watch(switching, Notifier(None), say=lambda line: None, sleep=lambda seconds: None)


def program(environment: Path, unit: str = "", *, ok: bool = True) -> None:
    """An environment with a program that answers like ``service check``."""
    finding = {"check": "fresh start", "verdict": "ok" if ok else "fail", "what": "a wheel has come off", "fix": ""}
    answer = {"version": "9.0.0", "delegate": "xnnpack", "unit": unit, "checks": [finding], "ok": ok}
    file = environment / "bin/edge-runtime"
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent / "answer.json").write_text(json.dumps(answer))
    file.write_text(f"#!/bin/sh\nexec cat '{file.parent}/answer.json'\n")
    file.chmod(0o755)


def on_trial(rig: Rig, sight: Sight = GOOD) -> tuple[Switching, Manager]:
    """An upgrade that was begun; its watch has not run yet."""
    manager = Manager(sight)
    switching = rig.switching(manager)
    assert rig.upgrade(switching) == rig.new.name
    return switching, manager


def silent(line: str) -> None: ...
