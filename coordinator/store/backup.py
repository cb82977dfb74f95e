"""A copy of a state folder that is whole, taken while the coordinator runs; and the way back, checked.

A backup is a folder: the database, bundles and embedded held-out data, the fleet's certificates where there are any,
and a list with the hash of each file. Databases are copied by SQLite's online backup and stand as after some commit.
Bundles and embeddings are written before the rows that name them and never change, so they are copied after it. Private
keys are in a backup that has certificates: it is for its owner alone, and so is what is restored of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.store.layouts import LAYOUT
from protos.atomic import force_to_disk
from protos.errors import IntegrityError, StoreError

DATABASE = "coordinator.db"
LIST = "backup.json"
_FOLDERS = ("bundles", "evaluations")
_TRUST, _REGISTER = "trust", "register.db"
_PAGES_AT_ONCE = 1024


@dataclass(frozen=True)
class Backup:
    """What a backup holds.

    Attributes:
        layout: of the database.
        files: SHA-256 by path within the folder, in hexadecimal.
    """

    layout: int
    files: dict[str, str]


def take(state: Path, out: Path) -> Backup:
    """Copy a state folder to ``out``, which must not exist; it appears there whole or not at all.

    Raises:
        StoreError: there is no SQLite database, ``out`` exists, or something cannot be read or written.
    """
    source = state / DATABASE
    if not source.is_file():
        raise StoreError(
            "holds no SQLite database", where=str(state),
            fix="check --state; a PostgreSQL database is copied by pg_dump, and bundles/ and evaluations/ by any tool",
        )  # fmt: skip
    if out.exists():
        raise StoreError("exists already", where=str(out), fix="choose another path")
    with _made_whole(out) as part:
        _copy_database(source, part / DATABASE)
        with closing(sqlite3.connect(part / DATABASE)) as copy:
            layout = _layout_of(copy, source)
        for folder in _FOLDERS:
            if (state / folder).is_dir():
                _copy_folder(state / folder, part / folder)
        if (state / _TRUST).is_dir():
            # The register first: it may not know more than the audit log beside it, and a fleet enrols meanwhile.
            (part / _TRUST).mkdir()
            if (state / _TRUST / _REGISTER).is_file():
                _copy_database(state / _TRUST / _REGISTER, part / _TRUST / _REGISTER)
            left_out = shutil.ignore_patterns(f"{_REGISTER}*", ".*.part")
            shutil.copytree(state / _TRUST, part / _TRUST, ignore=left_out, dirs_exist_ok=True)
            _for_its_owner(part / _TRUST)
        # Files of a run that was forgotten meanwhile may be gone, while the copied database still names it.
        if gone := _runs(part / DATABASE) - _runs(source):
            raise StoreError(
                f"runs were forgotten while it was copied: {', '.join(sorted(gone)[:3])}",
                where=str(state), fix="take the backup again",
            )  # fmt: skip
        made = Backup(layout, {name: _hash(part / name) for name in _names(part)})
        (part / LIST).write_text(json.dumps({"layout": made.layout, "files": made.files}, indent=1) + "\n")
    return made


def restore(backup: Path, state: Path) -> Backup:
    """Make a state folder of a backup, which is checked first; the folder must not exist, or be empty.

    Raises:
        IntegrityError: a file is missing, too many, or not what it was.
        StoreError: the folder is in use, the layout is newer than this version, or something cannot be written.
    """
    if state.exists() and any(state.iterdir()):
        raise StoreError("is not empty", where=str(state), fix="choose another --state, or move it away")
    held = check(backup)
    with _made_whole(state) as part:
        for name in held.files:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(backup / name, part / name)
            if _hash(part / name) != held.files[name]:
                raise IntegrityError("changed while it was copied", where=str(backup / name), fix="try again")
        if (part / _TRUST).is_dir():
            _for_its_owner(part / _TRUST)
    return held


def check(backup: Path) -> Backup:
    """What a backup holds, when every file is what it was.

    Raises:
        IntegrityError: it is not.
        StoreError: no backup, or one of a newer layout.
    """
    try:
        said = json.loads((backup / LIST).read_text(encoding="utf-8"))
        held = Backup(int(said["layout"]), {str(key): str(value) for key, value in said["files"].items()})
    except OSError as error:
        raise StoreError(f"is no backup ({error.strerror})", where=str(backup), fix="check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError("is damaged", where=str(backup / LIST), fix="use another backup") from error
    if held.layout > LAYOUT:
        fix = "restore it with the version that wrote it, or a newer one"
        raise StoreError(f"has layout {held.layout}, this version reads up to {LAYOUT}", where=str(backup), fix=fix)
    there = _names(backup)
    if there != sorted(held.files):
        odd = ", ".join(sorted({*there} ^ {*held.files})[:3])
        raise IntegrityError(f"other files than listed: {odd}", where=str(backup), fix="use another backup")
    for name, digest in held.files.items():
        if _hash(backup / name) != digest:
            raise IntegrityError("is not what was backed up", where=str(backup / name), fix="use another backup")
    return held


def _read_only(database: Path) -> sqlite3.Connection:
    """A database that is only read, whatever its path: in a URI a `%` or a `?` has a meaning."""
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)


def _copy_database(source: Path, target: Path) -> None:
    with (
        closing(_read_only(source)) as live,
        closing(sqlite3.connect(target)) as copy,
    ):
        live.backup(copy, pages=_PAGES_AT_ONCE)
        # One file, that needs no other beside it.
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()


def _copy_folder(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(".part-*", "*.part"))
    except shutil.Error as error:
        # One line for each file that could not be copied.
        name, _, why = error.args[0][0]
        raise StoreError(f"cannot be copied ({why})", where=str(name), fix="take the backup again") from error


def _for_its_owner(folder: Path) -> None:
    """A folder with private keys, and all in it, for its owner alone."""
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _runs(database: Path) -> set[str]:
    with closing(_read_only(database)) as connection:
        return {run_id for (run_id,) in connection.execute("SELECT run_id FROM runs")}


def _layout_of(connection: sqlite3.Connection, where: Path) -> int:
    try:
        (sound,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        ((layout,),) = connection.execute("SELECT version FROM layout").fetchall()
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise StoreError(f"is damaged ({error})", where=str(where), fix="use an earlier backup") from error
    if sound != "ok":
        raise StoreError(f"is damaged ({sound})", where=str(where), fix="use an earlier backup")
    return int(layout)


def _names(folder: Path) -> list[str]:
    """Paths of all files of a backup but its list, which come out of no other folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and path != folder / LIST
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _made_whole(place: Path) -> Iterator[Path]:
    """A folder beside ``place`` that takes its name when the block ends, on disk; or leaves nothing."""
    part: Path | None = None
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-"))
        yield part
        for path in [*part.rglob("*"), part]:
            force_to_disk(path)
        os.replace(part, place)
        force_to_disk(place.parent)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, StoreError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot be written ({reason})", where=str(place), fix="free space, or choose another path"
        ) from error
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
