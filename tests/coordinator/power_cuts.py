"""The files of a database as a power cut leaves them: what was synced, and any part of what was not.

Made of the system calls of a real coordinator, as strace writes them down. A disk may keep or lose each write since the
last sync of its file, whatever their order, and may cut one in two between sectors. That a file was removed is kept:
file systems with a log have it on disk with the next sync of any file.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# For strace, behind -f.
TRACE = ["-ttt", "-y", "-xx", "-s", "1000000", "-e", "trace=pwrite64,ftruncate,fdatasync,fsync,unlink"]
SECTOR = 512
_LINE = re.compile(r"^(\d+) +(\d+\.\d+) (?:<\.\.\. (\w+) resumed>|(\w+)\(\d+<([^>]*)>)(.*)$")
_REMOVED = re.compile(r'^(\d+) +(\d+\.\d+) unlink\("([^"]*)"\) += 0')
_WRITE = re.compile(r'^, "((?:\\x[0-9a-f]{2})*)", \d+, (\d+)')
_TRUNCATE = re.compile(r"^, (\d+)")


@dataclass(frozen=True)
class Write:
    """Bytes from an offset on, or the end of a file there."""

    offset: int
    data: bytes | None


@dataclass(frozen=True)
class Step:
    """What a call did, when it was over: a write; a sync, of all writes that were over when it began; or an end of it.

    Attributes:
        name: of the file, without its folder.
        begun: steps that were over when it began.
    """

    at_s: float
    name: str
    write: Write | None
    begun: int
    removes: bool = False


def steps_of(traced: Path, prefix: str) -> list[Step]:
    """What was done to files whose name begins so, in the order in which the calls ended."""
    made: list[Step] = []
    open_calls: dict[str, tuple[str, str, str, int]] = {}
    with traced.open(errors="replace") as lines:
        for line in lines:
            if (gone := _REMOVED.match(line)) and (name := _name(gone[3])).startswith(prefix):
                made.append(Step(float(gone[2]), name, None, len(made), removes=True))
            if (found := _LINE.match(line)) is None:
                continue
            thread, at_s, resumed, call, path, rest = found.groups()
            if resumed is None:
                begun = call, _name(path), rest, len(made)
                if "<unfinished" in rest:
                    open_calls[thread] = begun
                    continue
            elif thread not in open_calls:
                continue
            else:
                begun = open_calls.pop(thread)
            step = _step(float(at_s), *begun)
            if step is not None and step.name.startswith(prefix):
                made.append(step)
    return made


def _name(path: str) -> str:
    """Of a file, as strace says its path."""
    whole = bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path
    return whole.rpartition("/")[2]


def _step(at_s: float, call: str, name: str, rest: str, begun: int) -> Step | None:
    if call in ("fdatasync", "fsync"):
        return Step(at_s, name, None, begun)
    if call == "ftruncate" and (found := _TRUNCATE.match(rest)):
        return Step(at_s, name, Write(int(found[1]), None), begun)
    if call == "pwrite64" and (found := _WRITE.match(rest)):
        return Step(at_s, name, Write(int(found[2]), bytes.fromhex(found[1].replace("\\x", ""))), begun)
    raise AssertionError(f"not understood: {call} of {name} {rest[:80]}")


@dataclass
class _File:
    synced: bytearray = field(default_factory=bytearray)
    # With the number of the step that each is.
    waiting: list[tuple[int, Write]] = field(default_factory=list)


def _put(state: bytearray, write: Write) -> None:
    if write.data is None:
        del state[write.offset :]
        state.extend(bytes(max(0, write.offset - len(state))))
        return
    state.extend(bytes(max(0, write.offset - len(state))))
    state[write.offset : write.offset + len(write.data)] = write.data


def cuts(
    steps: list[Step], dice: random.Random, number: int, *, syncs: bool = True
) -> Iterator[tuple[float, dict[str, bytes]]]:
    """So many cuts at moments that are drawn: when, and the files as they are then.

    Args:
        syncs: whether syncs do what they are for; without, the disk is one that lies.
    """
    moments = sorted(dice.choices(range(1, len(steps) + 1), k=number))
    files: dict[str, _File] = {}
    for at, step in enumerate(steps):
        file = files.setdefault(step.name, _File())
        if step.removes:
            del files[step.name]
        elif step.write is not None:
            file.waiting.append((at, step.write))
        elif syncs:
            for begun, write in file.waiting:
                if begun < step.begun:
                    _put(file.synced, write)
            file.waiting = [pair for pair in file.waiting if pair[0] >= step.begun]
        while moments and moments[0] == at + 1:
            moments.pop(0)
            yield step.at_s, {name: _left(one, dice) for name, one in files.items()}


def _left(file: _File, dice: random.Random) -> bytes:
    state = bytearray(file.synced)
    # Of some cuts nearly all writes are kept, of others hardly any.
    share = dice.random()
    for _, write in file.waiting:
        if dice.random() >= share:
            continue
        if write.data is not None and dice.random() < 0.1:
            kept = SECTOR * dice.randint(0, len(write.data) // SECTOR)
            write = Write(write.offset, write.data[:kept])
        _put(state, write)
    return bytes(state)
