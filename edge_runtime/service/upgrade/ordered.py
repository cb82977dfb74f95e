"""Upgrades that the coordinator offered, as root takes them up: nothing that the daemon left is trusted.

Rules kept here:

* Root has allowed it, and keeps its own copy of the fleet's root and its own memory of what was signed, which the
  daemon cannot write: a daemon that was broken into gets nothing installed that the fleet's keys have not signed.
* What the daemon left is read without following links, copied to where only root writes, and the copy is checked.
* The new version may need what the old one has, and nothing else: no index is asked, so that nothing unsigned comes
  along.
* What becomes of it is in ``ordered.json`` for the daemon to read, before each thing that is done: whatever ends this
  process, the next start of it says how the trial ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_runtime.daemon.upgrading import FOLDER, ORDERED, REQUEST, WHEEL
from edge_runtime.identity.identity import Identity, read_identity, write_identity
from edge_runtime.identity.signatures import Signatures, forget_unless_same
from edge_runtime.service.install import Place, may_change
from edge_runtime.service.systemctl import Systemd
from edge_runtime.service.unit import NAME
from edge_runtime.service.upgrade import ordered_units
from edge_runtime.service.upgrade.environments import name_of
from edge_runtime.service.upgrade.record import make_open
from edge_runtime.service.upgrade.switching import Switching
from edge_runtime.service.upgrade.upgrade import TRUST, UpgradeRequest, upgrade, wait
from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.convert.upgrades import LEAST_TRIAL_S, MAX_WHEEL_BYTES, MOST_TRIAL_S
from protos.errors import EdgejouleError, IntegrityError, RefusedError
from protos.model.bundle import record_of
from protos.trust.signed import MAX_BYTES, signature_of

__all__ = ["allow", "allowed", "forbid", "take_up"]

_WORK = "ordered"
_UNFINISHED = ("checked", "trial")


def allowed(place: Place) -> bool:
    """Whether upgrades that the coordinator offers are taken up."""
    return (place.root / ORDERED).exists() and ordered_units.present(place)


def allow(place: Place, systemd: Systemd) -> str:
    """From now on upgrades are taken up that keys of this board's fleet have signed; what was done.

    Raises:
        RefusedError: not root, no service, or a board that was never enrolled. StoreError: it cannot be written.
    """
    may_change(place, instead="run this on the board")
    program = place.program()
    if program is None:
        raise RefusedError("no unit of ours is there", where=str(place.unit), fix="edge-runtime service install")
    identity = read_identity(place.state)
    if identity is None:
        fix = "enrol it: sudo edge-runtime enroll TOKEN"
        raise RefusedError("this board belongs to no fleet, so that nothing could be checked", where=NAME, fix=fix)
    trust = place.home / TRUST
    with storing(trust):
        make_open(place.home)
        trust.mkdir(mode=0o700, exist_ok=True)
    # The root alone: root needs no key of this board.
    forget_unless_same(trust, identity.root_pem)
    write_identity(trust, Identity(identity.device_id, ("root",), 0, "", "", identity.root_pem, 0.0, 0.0))
    Signatures(trust).require()
    if _read(place)["upgrade_id"] == "":
        _tell(place, "", "", "none", "")
    ordered_units.put(place, program)
    if place.live:
        systemd.call("daemon-reload")
        systemd.call("restart", ordered_units.PATH)
    return f"{identity.device_id} takes upgrades that are signed for its fleet"


def forbid(place: Place, systemd: Systemd) -> str:
    """From now on none is taken up; what was done. Raises as :func:`allow`."""
    may_change(place, instead="run this on the board")
    if place.live and ordered_units.present(place):
        systemd.call("stop", ordered_units.PATH)
    ordered_units.remove(place)
    with storing(place.home):
        (place.root / ORDERED).unlink(missing_ok=True)
        shutil.rmtree(place.home / TRUST, ignore_errors=True)
    if place.live:
        systemd.call("daemon-reload")
    return "no upgrade from the coordinator is taken"


def take_up(switching: Switching, say: Callable[[str], None]) -> None:
    """Do what the daemon asks for, if it asks, and say what came of an upgrade that an earlier start of this began.

    Raises:
        RefusedError: root has not allowed it.
        StoreError: what is to be said cannot be written.
    """
    place = switching.place
    may_change(place, instead="run this on the board")
    if not allowed(place):
        raise RefusedError("upgrades are not allowed here", where=NAME, fix="edge-runtime service upgrades on")
    with contextlib.ExitStack() as stack:
        asked = _asked(place, stack)
        if asked is None:
            _settle(switching, say)
            return
        upgrade_id, wheel, trial_s, copy = asked
        try:
            if copy is None:
                raise IntegrityError("is no wheel with a signature", where=wheel[:80])
            record = record_of(copy)
            Signatures(place.home / TRUST).check(copy, "wheel", record.sha256, record.size_bytes)
            # With its name before anything is done: a trial may begin, and this end before it could say so.
            _tell(place, upgrade_id, name_of(copy), "checked", "", trial_s)
            wanted = UpgradeRequest(wheel=copy, trial_s=trial_s, as_before=True)
            name = upgrade(switching, wanted, dry_run=False, say=say)
            if name is None:
                state, reason = "kept", "it ran already"
            else:
                _tell(place, upgrade_id, name, "trial", "", trial_s)
                state, reason = "kept", wait(switching, name, trial_s, say=say)
        except EdgejouleError as error:
            state, reason = "failed", str(error)
        say(f"{wheel}: {state}: {reason}")
        _tell(place, upgrade_id, "", state, reason)


def _settle(switching: Switching, say: Callable[[str], None]) -> None:
    """Say how a trial ended that an earlier start of this began."""
    found = _read(switching.place)
    if found["state"] not in _UNFINISHED:
        return
    name = str(found.get("version", ""))
    try:
        if not name or (found["state"] == "checked" and not _begun(switching, name)):
            raise EdgejouleError("it was interrupted before its trial", where=NAME, fix="offer it again")
        state, reason = "kept", wait(switching, name, float(found.get("trial_s", LEAST_TRIAL_S)), say=say)
    except EdgejouleError as error:
        state, reason = "failed", str(error)
    say(f"{name or 'an upgrade'}: {state}: {reason}")
    _tell(switching.place, str(found["upgrade_id"]), "", state, reason)


def _begun(switching: Switching, name: str) -> bool:
    """Whether that version was put on trial, whatever came of it."""
    record, program = switching.load(), switching.place.program()
    on_trial = record.trial is not None and record.trial.new.name == name
    runs = program is not None and program.parent.parent == switching.versions.at(name).path
    return on_trial or runs or name in record.bad


def _asked(place: Place, stack: contextlib.ExitStack) -> tuple[str, str, float, Path | None] | None:
    """The daemon's request: id, wheel, seconds of the trial, and a copy of the wheel, or None for one that cannot be
    taken; None when there is no request. It is consumed."""
    try:
        state = _folder(stack, place.state)
        folder = _folder(stack, FOLDER, state)
        data = _content(folder, REQUEST, MAX_BYTES)
    except OSError:
        return None
    made: tuple[str, str, float, Path | None] | None = None
    try:
        fields: dict[str, Any] = json.loads(data)
        upgrade_id, wheel, trial_s = str(fields["upgrade_id"]), str(fields["wheel"]), float(fields["trial_s"])
        if not 0 < len(upgrade_id) <= 64 or not upgrade_id.isprintable():
            raise ValueError
        sound = WHEEL.fullmatch(wheel) is not None and LEAST_TRIAL_S <= trial_s <= MOST_TRIAL_S
        made = upgrade_id, wheel, trial_s, _copied(place, stack, folder, wheel) if sound else None
        # Said before the request goes: whatever ends this now, the daemon knows that it was taken up.
        _tell(place, upgrade_id, "", "checked", "")
    except (ValueError, KeyError, TypeError, RecursionError):
        # Not the daemon's own form: nobody is waiting for an answer.
        pass
    finally:
        with contextlib.suppress(OSError):
            os.unlink(REQUEST, dir_fd=folder)
    return made


def _copied(place: Place, stack: contextlib.ExitStack, folder: int, wheel: str) -> Path | None:
    work = place.home / _WORK
    with storing(work):
        shutil.rmtree(work, ignore_errors=True)
        make_open(place.home)
        work.mkdir(mode=0o700)
    stack.callback(shutil.rmtree, work, ignore_errors=True)
    copy = work / wheel
    try:
        data = _content(folder, wheel, MAX_WHEEL_BYTES)
        signature = _content(folder, signature_of(copy).name, MAX_BYTES)
    except OSError:
        return None
    with storing(work):
        copy.write_bytes(data)
        signature_of(copy).write_bytes(signature)
    return copy


def _folder(stack: contextlib.ExitStack, name: Path | str, inside: int | None = None) -> int:
    number = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside)
    stack.callback(os.close, number)
    return number


def _content(folder: int, name: str, most: int) -> bytes:
    """A regular file of that folder, whole. Raises OSError: there is none, it is a link, or it is too large."""
    number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(number, "rb") as file:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            raise OSError(f"{name} is no file of at most {most} bytes")
        return file.read(most)


def _tell(place: Place, upgrade_id: str, version: str, state: str, reason: str, trial_s: float | None = None) -> None:
    path = place.root / ORDERED
    said = {"upgrade_id": upgrade_id, "version": version, "state": state, "reason": reason}
    with storing(path):
        make_open(place.home)
        with write_whole(path) as file:
            file.write(json.dumps(said if trial_s is None else {**said, "trial_s": trial_s}, indent=1).encode())
        path.chmod(0o644)


def _read(place: Place) -> dict[str, Any]:
    try:
        found = json.loads((place.root / ORDERED).read_bytes())
        return {"upgrade_id": str(found["upgrade_id"]), **found, "state": str(found["state"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"upgrade_id": "", "state": "none"}
