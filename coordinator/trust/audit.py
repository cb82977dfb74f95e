"""The audit log: who did what and when, one JSON object a line, each bound to the one before it by a hash.

``hash`` of a line is SHA-256 over the hash of the line before and the line's own fields, so a line that was changed,
left out or put in breaks every line after it. Lines cut off at the end cannot be told from the file alone: note the
newest hash elsewhere now and then (``coordinator audit`` prints it), and give it to ``coordinator audit verify``.

What a full disk left of a line is taken away at once. A last line without its end is what a power cut leaves; the next
one that is written takes it away, and says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from protos.errors import IntegrityError, StoreError
from protos.file_lock import lock

__all__ = ["FILE", "AuditLog", "Verified"]

FILE = "audit.jsonl"
_FIRST = "0" * 64
_LOCK_S = 10.0
_TAIL_BYTES = 16 << 10


@dataclass(frozen=True)
class Verified:
    """What was found in a log that is whole: how many lines, and the hash of the newest."""

    lines: int
    newest_hash: str


class AuditLog:
    """The log in ``folder``. Several processes may write to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def write(self, who: str, what: str, **details: Any) -> None:
        """Add a line, and have it on disk before returning.

        Args:
            who: a role and a name, or `local` for who has the coordinator's files.
            what: a word or two, such as `certificate issued`.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            number = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o600)
            with os.fdopen(number, "rb+", buffering=0) as file:
                _locked(file.fileno())
                cut = _cut(file)
                before, size, text = _newest(file), file.seek(0, os.SEEK_END), b""
                if cut:
                    # It was answered to nobody, and what follows must not be glued to it.
                    note = {"unix_s": round(time.time(), 3), "who": "local", "what": "line cut short", "bytes": cut}
                    note["hash"] = before = _chained(before, note)
                    text = json.dumps(note, ensure_ascii=False).encode() + b"\n"
                line = {"unix_s": round(time.time(), 3), "who": who, "what": what, **details}
                line["hash"] = _chained(before, line)
                text += json.dumps(line, ensure_ascii=False).encode() + b"\n"
                try:
                    while text:
                        text = text[os.write(file.fileno(), text) :]
                    os.fsync(file.fileno())
                except OSError:
                    # A full disk has room for no line; half of one would look like a log that somebody changed.
                    file.truncate(size)
                    raise
        except OSError as error:
            raise StoreError(f"cannot be written ({error.strerror})", where=str(self.path)) from error

    def lines(self) -> list[dict[str, Any]]:
        """All lines, the oldest first; none when there is no log yet."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot be read ({error.strerror})", where=str(self.path)) from error
        found = []
        for number, line in enumerate(data.splitlines(), 1):
            try:
                value = json.loads(line)
                if not isinstance(value, dict):
                    raise ValueError
            except ValueError as error:
                raise IntegrityError(
                    f"line {number} is no entry", where=str(self.path), fix="compare it with a backup"
                ) from error
            found.append(value)
        return found

    def verify(self, newest_hash: str | None = None) -> Verified:
        """Check the chain.

        Args:
            newest_hash: of a line that must be there, noted earlier.

        Raises:
            IntegrityError: a line was changed, left out or put in; or that line is not there.
        """
        before, seen = _FIRST, set()
        lines = self.lines()
        for number, line in enumerate(lines, 1):
            said = line.get("hash")
            fields = {key: value for key, value in line.items() if key != "hash"}
            if said != _chained(before, fields):
                raise IntegrityError(
                    f"line {number} does not follow from the one before: it, or one before it, was changed or removed",
                    where=str(self.path),
                    fix="compare it with a backup",
                )
            before = str(said)
            seen.add(before)
        if newest_hash is not None and newest_hash not in seen:
            raise IntegrityError(
                "the line with that hash is gone: lines were cut off", where=str(self.path), fix="compare with a backup"
            )
        return Verified(len(lines), before)


def _locked(number: int) -> None:
    """Wait for the lock of the log; a line takes milliseconds."""
    give_up_s = time.monotonic() + _LOCK_S
    while True:
        try:
            lock(number)
            return
        except OSError:
            if time.monotonic() >= give_up_s:
                raise
            time.sleep(0.005)


def _cut(file: IO[bytes]) -> int:
    """Take away what a power cut left of a last line, which has no end; its bytes, 0 where there is none."""
    size, asked = file.seek(0, os.SEEK_END), _TAIL_BYTES
    while True:
        start = file.seek(max(0, size - asked))
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        if end or start == 0:
            break
        asked *= 4
    rest = len(tail) - end
    if rest:
        file.truncate(size - rest)
    return rest


def _newest(file: IO[bytes]) -> str:
    """The hash that the next line follows, from the file's end: a line costs the same however long the log is. A line
    that was cut short by a power cut counts as no line's end."""
    size, asked = file.seek(0, os.SEEK_END), _TAIL_BYTES
    while True:
        file.seek(max(0, size - asked))
        lines = file.read().splitlines()
        # The first of them may begin in the middle, unless it is the first of all.
        for line in reversed(lines if asked >= size else lines[1:]):
            try:
                return str(json.loads(line)["hash"])
            except (ValueError, KeyError, TypeError):
                continue
        if asked >= size:
            return _FIRST
        asked *= 4


def _chained(before: str, fields: dict[str, Any]) -> str:
    whole = before + json.dumps(fields, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(whole.encode()).hexdigest()
