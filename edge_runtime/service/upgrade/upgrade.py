"""A new version beside the old, asked whether it is fit, and put on trial; and the way back by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.identity.signatures import Signatures
from edge_runtime.service.install import Place, may_change
from edge_runtime.service.systemctl import Systemd
from edge_runtime.service.unit import NAME, Written
from edge_runtime.service.upgrade import record as book
from edge_runtime.service.upgrade import selfcheck
from edge_runtime.service.upgrade.environments import Environment, name_of, wheel_of
from edge_runtime.service.upgrade.record import Record, Trial, Version
from edge_runtime.service.upgrade.switching import Switching
from edge_runtime.systemd import vitals
from protos.errors import EdgejouleError, RefusedError, UpgradeError
from protos.model.bundle import record_of

TRIAL_S = 600.0
TRUST = "trust"
"""In the folder of versions, for root alone: by what upgrades that the coordinator offers are checked."""
_TURN_S = 0.5
# The watch stops the service, which may take this long, before the trial's own time counts.
_BEYOND_S = 120.0


@dataclass(frozen=True)
class UpgradeRequest:
    """What to upgrade to.

    Attributes:
        wheel: a file; else ``version`` is fetched by pip, or the newest.
        links: a folder with all wheels that are needed, instead of an index.
        trial_s: seconds until the new version must have shown that it works.
        force: although it was bad before.
        as_before: what it needs is what the version that runs has, and no index is asked for anything else.
    """

    wheel: Path | None = None
    version: str | None = None
    links: Path | None = None
    trial_s: float = TRIAL_S
    force: bool = False
    as_before: bool = False


def _check_signature(switching: Switching, wheel: Path) -> None:
    """Refuse a wheel that may not be run here. Raises IntegrityError."""
    record = record_of(wheel)
    Signatures(switching.place.state).check(wheel, "wheel", record.sha256, record.size_bytes)


def upgrade(switching: Switching, wanted: UpgradeRequest, *, dry_run: bool, say: Callable[[str], None]) -> str | None:
    """Build it, ask it, and put it on trial; its name, or None when it runs already.

    The version that runs is not touched before the new one was asked.

    Raises:
        RefusedError: a trial is on, the version was bad, or the service belongs to a package manager.
        UpgradeError: the new version is not fit.
        EdgejouleError: it cannot be had or installed.
    """
    place, versions = switching.place, switching.versions
    with book.alone(place.home):
        record = switching.load() if dry_run else settle(switching, say)
        refuse_in_trial(record)
        written = _installed(place)
        old = Environment(written.program.parent.parent)
        _refuse_managed(old.real)
        with wheel_of(wanted.version, wanted.wheel, wanted.links) as wheel:
            name = name_of(wheel)
            if versions.at(name).path == old.path:
                say(f"{name} runs already")
                return None
            if name in record.bad and not wanted.force:
                raise RefusedError(f"was bad: {record.bad[name]}", where=name, fix="--force tries it again")
            _check_signature(switching, wheel)
            if dry_run:
                say(f"would install {name} in {versions.at(name).path}")
                say(f"would put it on trial for {wanted.trial_s:g} s at most, and go back to {versions.name_of(old)}")
                return name
            if not versions.complete(name):
                versions.check_room(old.real)
                say(f"installing {name}")
            like = old.real if wanted.as_before else None
            new = versions.build(wheel, old.real.extras, wanted.links, like=like)
        say(f"asking {name} whether it is fit for this machine")
        try:
            answer = selfcheck.ask(new, written)
        except UpgradeError as error:
            bad = {**record.bad, name: error.what}
            switching.save(replace(record, bad=bad, last=f"{name} was not fit: {error.what}"))
            switching.tidy()
            raise
        shown = vitals.read(place.vitals)
        switching.begin(
            Trial(
                new=Version(name, str(new.path), answer.unit),
                old=Version(versions.name_of(old), str(old.path), place.unit.read_text()),
                boot_id=switching.systemd.boot_id(),
                started_s=switching.systemd.boottime_s(),
                limit_s=wanted.trial_s,
                must_join=shown is not None and shown.answered_s is not None,
                delegate=shown.delegate if shown is not None else None,
            )
        )
        return name


def wait(switching: Switching, name: str, limit_s: float, *, say: Callable[[str], None]) -> str:
    """Wait until the trial of that version is over; what came of it.

    Raises:
        UpgradeError: the version before came back, and why.
    """
    end_s = time.monotonic() + limit_s + _BEYOND_S
    said = ""
    while (record := switching.load()).trial is not None and record.trial.new.name == name:
        sight = switching.systemd.sight()
        if sight.says and sight.says != said:
            said = sight.says
            say(f"{sight.active}: {said}")
        if time.monotonic() > end_s or not switching.watched():
            raise UpgradeError("nobody watches the trial", where=name, fix="edge-runtime service rollback")
        time.sleep(_TURN_S)
    if record.before is None or (written := switching.place.written()) is None:
        raise UpgradeError(record.last, where=name, fix="edge-runtime service logs says more")
    if written.program.parent.parent != switching.versions.at(name).path:
        raise UpgradeError(record.last, where=name, fix="edge-runtime service logs says more")
    return record.last


def rollback(switching: Switching, *, dry_run: bool, say: Callable[[str], None]) -> str:
    """Go back to the version before, during a trial or after it; what was done.

    Raises:
        RefusedError: there is none.
        EdgejouleError: systemd does not do it.
    """
    place, versions = switching.place, switching.versions
    with book.alone(place.home, wait_s=30.0):
        record = switching.load()
        if record.trial is not None:
            if dry_run:
                return f"would end the trial of {record.trial.new.name}"
            switching.condemn("it was rolled back by hand", blame=False)
            return switching.go_back()
        written = _installed(place)
        current = Environment(written.program.parent.parent)
        _refuse_managed(current.real)
        if record.before is None or record.before.path == str(current.path):
            raise RefusedError("no version before this one is known", where=NAME, fix="upgrade to the one you want")
        if dry_run:
            return f"would go back from {versions.name_of(current)} to {record.before.name}"
        now = Version(versions.name_of(current), str(current.path), place.unit.read_text())
        last = f"went back from {now.name} to {record.before.name}: by hand"
        switching.exchange(_renewed(record.before, written, say), now, last)
        return last


def settle(switching: Switching, say: Callable[[str], None]) -> Record:
    """The record, once a trial that nobody watches was ended.

    Raises:
        RefusedError: a trial is on.
    """
    record = switching.load()
    if record.trial is None:
        # What a command that was killed has left.
        switching.tidy()
        return record
    if record.trial.boot_id == switching.systemd.boot_id() and switching.watched():
        refuse_in_trial(record)
    switching.condemn("the upgrade was interrupted", blame=False)
    say(switching.go_back())
    return switching.load()


def abandon(place: Place) -> None:
    """No version is on trial, since the service is about to be removed; nothing is started for it.

    Raises:
        RefusedError: not root.
        StoreError: it cannot be written.
    """
    record = book.load(place.home)
    if record.trial is None:
        return
    may_change(place)
    switching = Switching(place, Systemd())
    with book.alone(place.home, wait_s=30.0):
        switching.save(replace(record, trial=None, last="the service was removed during a trial"))
        switching.dismiss()


def refuse_in_trial(record: Record) -> None:
    """Raise RefusedError when a version is on trial."""
    if record.trial is not None:
        fix = "wait for it (edge-runtime service status), or edge-runtime service rollback"
        raise RefusedError(f"{record.trial.new.name} is on trial", where=NAME, fix=fix)


def _installed(place: Place) -> Written:
    written = place.written()
    if written is None:
        fix = "edge-runtime service install makes it"
        raise RefusedError("no unit of ours is there", where=str(place.unit), fix=fix)
    return written


def _refuse_managed(environment: Environment) -> None:
    if (command := environment.managed_by) is not None:
        raise RefusedError("belongs to a package manager", where=str(environment.path), fix=f"upgrade it by: {command}")


def _renewed(version: Version, written: Written, say: Callable[[str], None]) -> Version:
    """That version with a unit for today's settings, if it still makes one."""
    try:
        return replace(version, unit=selfcheck.ask(Environment(Path(version.path)), written).unit)
    except EdgejouleError as error:
        say(f"{error}; its unit of that time is used")
        return version
