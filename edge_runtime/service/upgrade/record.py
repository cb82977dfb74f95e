"""What is known of the versions of the service: one file, written whole.

Which version runs is not in it: that is what the unit's ``ExecStart=`` says, and the unit is the one thing that is
switched. The record says what may be gone back to, what is on trial, and what was found bad.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.state import storing
from protos.atomic import write_whole
from protos.errors import RefusedError, StoreError
from protos.file_lock import lock as take

LAYOUT = 1
FILE = "record.json"
_TURN_S = 0.1


@dataclass(frozen=True)
class Version:
    """One environment that the service can run from.

    Attributes:
        name: what people call it.
        path: the environment's folder, absolute.
        unit: the text of its unit.
    """

    name: str
    path: str
    unit: str


@dataclass(frozen=True)
class Trial:
    """A version that must show that it works.

    Attributes:
        new: on trial.
        old: runs again if it does not.
        boot_id: of the boot that the trial began in; it ends with that boot.
        started_s: CLOCK_BOOTTIME.
        limit_s: seconds until it must have shown it.
        must_join: the old version was answered by the coordinator, so the new one must be.
        delegate: kernels that the old version ran on, or None when not known.
        switched: the unit is the new one's.
        reason: why the old one comes back, once that is decided.
        blame: whether the new version is the reason.
    """

    new: Version
    old: Version
    boot_id: str
    started_s: float
    limit_s: float
    must_join: bool = False
    delegate: str | None = None
    switched: bool = False
    reason: str | None = None
    blame: bool = True


@dataclass(frozen=True)
class Record:
    """All of it.

    Attributes:
        before: what a rollback leads to.
        bad: names that were rolled back, with the reason.
        last: the last thing that happened, for people.
    """

    before: Version | None = None
    trial: Trial | None = None
    bad: Mapping[str, str] = field(default_factory=dict)
    last: str = ""


def load(home: Path) -> Record:
    """The record in that folder; an empty one when there is none.

    Raises:
        StoreError: it cannot be read.
        RefusedError: a later version of edgejoule wrote it.
    """
    path = home / FILE
    try:
        found = json.loads(path.read_bytes())
        layout = int(found["layout"])
        if layout <= LAYOUT:
            return _record(found)
    except FileNotFoundError:
        return Record()
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "move it away: the service runs on, and only what could be gone back to is forgotten"
        raise StoreError(f"cannot be read ({error})", where=str(path), fix=fix) from error
    raise RefusedError(
        f"has layout {layout}, and this version knows {LAYOUT}",
        where=str(path),
        fix="run the service command of the version that the service runs",
    )


def save(home: Path, record: Record) -> None:
    """The record is on disk afterwards.

    Raises:
        StoreError: it is not, and the one before is as it was.
    """
    with storing(home / FILE):
        make_open(home)
        with write_whole(home / FILE) as file:
            file.write(json.dumps({"layout": LAYOUT, **dataclasses.asdict(record)}, indent=1).encode() + b"\n")
        (home / FILE).chmod(0o644)


def make_open(folder: Path) -> None:
    """The folder is there, and everybody may read it, whatever root's umask is: the service is another user."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)


@contextlib.contextmanager
def alone(home: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """One process at a time changes the versions.

    Raises:
        RefusedError: another one is at it, and still is ``wait_s`` later.
    """
    with storing(home):
        make_open(home)
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end_s = time.monotonic() + wait_s
    try:
        while not _locked(lock):
            if time.monotonic() >= end_s:
                raise RefusedError(
                    "another command changes the service", where=str(home), fix="wait until it has ended"
                )
            time.sleep(_TURN_S)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        take(lock)
    except BlockingIOError:
        return False
    return True


def _record(found: dict[str, Any]) -> Record:
    trial = found["trial"]
    if trial:
        # A later version may have added keys.
        known = {
            each_field.name: trial[each_field.name]
            for each_field in dataclasses.fields(Trial)
            if each_field.name in trial
        }
        trial = {**known, "new": _version(trial["new"]), "old": _version(trial["old"])}
    return Record(
        before=_version(found["before"]) if found["before"] else None,
        trial=Trial(**trial) if trial else None,
        bad={str(name): str(reason) for name, reason in found["bad"].items()},
        last=str(found["last"]),
    )


def _version(found: dict[str, Any]) -> Version:
    return Version(str(found["name"]), str(found["path"]), str(found["unit"]))
