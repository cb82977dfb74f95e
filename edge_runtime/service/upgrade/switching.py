"""The unit switched from one version to another, and what keeps watch while the new one is on trial.

Rules kept here:

* The unit file is the switch: it is renamed over the old one, whole. Whatever ends the machine or a command in
  between, the old version runs or the new one.
* Each decision is in the record before it is carried out, and carrying it out twice is the same as once.
* The old unit lies beside the new one during a trial, so that going back needs no space on the disk.
* The watch over a trial is a unit of its own, run by the old version's program.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from edge_runtime.service.install import Place
from edge_runtime.service.systemctl import Systemd
from edge_runtime.service.unit import NAME, program_word, read_back
from edge_runtime.service.upgrade import ordered_units
from edge_runtime.service.upgrade import record as book
from edge_runtime.service.upgrade.environments import Environment, Versions
from edge_runtime.service.upgrade.record import Record, Trial, Version
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import EdgejouleError

WATCH = "edge-runtime-trial.service"
MARK = "# Made by `edge-runtime service upgrade`."


class Switching:
    """Changes the unit of a running machine, and what the record says of it."""

    def __init__(self, place: Place, systemd: Systemd) -> None:
        self.place, self.systemd = place, systemd
        self.versions = Versions(place.home)

    @property
    def watch_unit(self) -> Path:
        return self.place.unit.parent / WATCH

    @property
    def _watch_link(self) -> Path:
        return self.place.link.parent / WATCH

    @property
    def _old_unit(self) -> Path:
        # systemd reads no file whose name begins with a dot.
        return self.place.unit.parent / f".{NAME}.before"

    def load(self) -> Record:
        return book.load(self.place.home)

    def save(self, record: Record) -> None:
        book.save(self.place.home, record)

    def watched(self) -> bool:
        """Whether somebody watches the trial, or is about to."""
        shown = self.systemd.ask("show", WATCH, "--property=ActiveState,Job").splitlines()
        # A job in the queue is one whose unit is still inactive.
        return any(line in ("ActiveState=active", "ActiveState=activating") or line[:4] == "Job=" for line in shown)

    def begin(self, trial: Trial) -> None:
        """The trial is in the record, and the watch is started; it does the rest."""
        self.save(replace(self.load(), trial=trial))
        with storing(self.watch_unit):
            _write(self._old_unit, trial.old.unit)
            _write(self.watch_unit, watch_text(Environment(Path(trial.old.path)).program))
            self._watch_link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                self._watch_link.symlink_to(Path("..") / WATCH)
        self.systemd.call("daemon-reload")
        # Not waited for: the watch needs the lock that the caller holds.
        self.systemd.call("--no-block", "restart", WATCH)

    def switch(self) -> None:
        """The new version's unit is there, and the new version starts. Nothing when that was done before."""
        record = self.load()
        trial = record.trial
        if trial is None or trial.switched or trial.reason is not None:
            return
        self._put(trial.new.unit)
        self.save(replace(record, trial=replace(trial, switched=True)))

    def condemn(self, reason: str, *, blame: bool) -> None:
        """The trial is lost; the old version is not back yet."""
        record = self.load()
        if record.trial is not None and record.trial.reason is None:
            self.save(replace(record, trial=replace(record.trial, reason=reason, blame=blame)))

    def go_back(self, *, start: bool = True) -> str:
        """The old version's unit is there again, and it starts; what is to be told.

        Args:
            start: False while the machine boots: it starts the service by itself.
        """
        record = self.load()
        trial = record.trial
        assert trial is not None
        reason = trial.reason or "it was stopped"
        self._put(trial.old.unit, start=start)
        before = record.before if record.before != trial.new else None
        last = f"went back from {trial.new.name} to {trial.old.name}: {reason}"
        bad = {**record.bad, trial.new.name: reason} if trial.blame else record.bad
        self.save(replace(record, before=before, trial=None, bad=bad, last=last))
        self.tidy()
        return last

    def confirm(self, why: str) -> str:
        """The new version stays, and the old one can be gone back to; what is to be told."""
        record = self.load()
        trial = record.trial
        assert trial is not None
        last = f"upgraded from {trial.old.name} to {trial.new.name}: {why}"
        bad = {name: reason for name, reason in record.bad.items() if name != trial.new.name}
        self.save(replace(record, before=trial.old, trial=None, bad=bad, last=last))
        self.tidy()
        return last

    def exchange(self, new: Version, old: Version, last: str) -> None:
        """Run ``new`` from now on without a trial; ``old`` can be gone back to."""
        self._put(new.unit)
        self.save(replace(self.load(), before=old, last=last))

    def tidy(self) -> None:
        """Versions that nothing leads to are gone, and so is a watch that has nothing to watch."""
        record = self.load()
        kept = [one for one in (record.before, record.trial and record.trial.new) if one]
        current = self.place.program()
        paths = [version.path for version in kept] + ([str(current.parent.parent)] if current else [])
        self.versions.keep(paths)
        if record.trial is None:
            self.dismiss()

    def dismiss(self) -> None:
        """No watch is left for the next boot; one that runs now ends by itself."""
        there = self.watch_unit.exists()
        with storing(self.watch_unit):
            for path in (self._watch_link, self.watch_unit, self._old_unit):
                path.unlink(missing_ok=True)
        if there:
            self.systemd.call("daemon-reload")

    def _put(self, text: str, *, start: bool = True) -> None:
        """That unit is in its place, systemd knows it, and the service starts from it."""
        with storing(self.place.unit):
            if self.place.unit.read_text() != text:
                self._replace(text)
        if (written := read_back(text)) is not None:
            ordered_units.renew(self.place, written.program)
        self.systemd.call("daemon-reload")
        if start:
            with contextlib.suppress(EdgejouleError):
                # A failure to forget is there only when the unit failed.
                self.systemd.call("reset-failed", NAME)
            self.systemd.call("--no-block", "restart", NAME)

    def _replace(self, text: str) -> None:
        try:
            _write(self.place.unit, text)
        except OSError:
            # A disk that is full has room for another name.
            if not self._old_unit.exists() or self._old_unit.read_text() != text:
                raise
            os.replace(self._old_unit, self.place.unit)


def watch_text(program: Path) -> str:
    """The unit that watches a trial. It is ready before the service may start, also while the machine boots."""
    return f"""{MARK}
[Unit]
Description=edgejoule: watches a new version on trial
Before={NAME}
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program_word(program)} service watch-trial
SyslogIdentifier=edge-runtime-trial
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def _write(path: Path, text: str) -> None:
    with write_whole(path) as file:
        file.write(text.encode())
    path.chmod(0o644)
