"""A page of the documents, played: its commands run in their order in an empty folder, its files written, its listings
held against what was printed.

A listing belongs to the command right above it. One that stands alone is looked for in what the programs in the
background have said. Figures, dates and ids differ from machine to machine; words, keys, columns and order may not, and
neither may figures that the page itself determines: counts, sides of arrays, what a plan asks for.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {"coordinator": "coordinator.cli", "edge-runtime": "edge_runtime.cli", "firmware-tools": "firmware_tools.cli"}
# These go on until somebody ends them.
STAYING = (("coordinator", "serve"), ("edge-runtime", "run"), ("firmware-tools", "bridge", "sim"))
WAIT_S = 600

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SAVED = re.compile(r"Save this as `([\w.-]+)`")
_ID = re.compile(r"\b(?:run|head|sha256)[-:][0-9a-f]{6,}\b|\b[0-9a-f]{8,16}\b")
# Counts are the same on every machine, unlike joules, seconds and what training comes to.
_COUNTED = re.compile(
    r"(?<![\w.:/-])(\d+(?: of \d+)?(?= (?:held-out |evaluation )?"
    r"(?:examples?|classes|parameters|devices?|rounds|boards|epochs|sensors?|[A-Z][A-Z0-9_]{3,})\b)"
    r"|\d+(?: x \d+)+|(?:batch|batches of|round) \d+)(?![\w.])"
)
# Columns of tables whose cells a plan and its data determine.
_FIXED_COLUMNS = {"round", "state", "devices", "board", "examples", "orders", "granted J", "budget J", "outcome"}
# Of these commands everything does, but for the lines of these keys.
_FIXED = {"coordinator check-plan": ("bundle id", "codec trial")}
_NUMBER = re.compile(r"[-+]?\d[\d.,:]*(?:e[-+]?\d+)?|(?<=\s)[?-](?=\s|$)")


@dataclass
class Played:
    """One listing of a page: what it says, what there was instead, and the command, or "" for one that stands alone.

    Attributes:
        aside: what a command that printed something else said on stderr.
    """

    command: str
    said: str
    printed: str
    code: int = 0
    aside: str = ""


@dataclass
class Staying:
    """A program in the background."""

    words: list[str]
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)


def skeleton(line: str) -> str:
    """A line without what differs from run to run.

    >>> skeleton("round 1: 84.44 %, 1.79 J, run-2e8368a7af") == skeleton("round 2: 9 %, ? J (+ sending), run-aaaaaaaa")
    True
    """
    line = line.replace(" (+ sending)", "")  # it depends on when somebody looks
    return " ".join(_NUMBER.sub("#", _ID.sub("#", f" {line} ")).split())


def is_head(line: str) -> bool:
    """Whether a line is the head of a table: three columns of words at least, and no figure."""
    cells = re.split(r"\s{2,}", line.strip())
    return len(cells) >= 3 and not any(re.search(r"\d", cell) for cell in cells)


def missing(said: str, printed: str) -> list[str]:
    """Lines of a listing that were not printed, in their order. Of a table, its head and first column count."""
    return [line for _, line, found in _paired(said, printed) if found is None]


def changed(command: str, said: str, printed: str) -> list[tuple[str, str]]:
    """Figures of a listing that are the same everywhere, where others were printed: what it says, what there was."""
    keys = next((keys for name, keys in _FIXED.items() if command.startswith(name)), None)
    wrong: list[tuple[str, str]] = []
    for heads, line, found in _paired(said, printed):
        if found is None:
            continue
        if heads is not None:
            ours, theirs = (_cells(head, row) for head, row in zip(heads, (line, found), strict=True))
            wrong += [(ours[key], theirs[key]) for key in _FIXED_COLUMNS & ours.keys() if ours[key] != theirs[key]]
        elif keys is not None and not line.startswith(keys):
            wrong += [(line, found)] if line.split() != found.split() else []
        else:
            counts = _COUNTED.findall(line), _COUNTED.findall(found)
            wrong += [pair for pair in zip(*counts, strict=True) if pair[0] != pair[1]]
    return wrong


def _paired(said: str, printed: str) -> Iterator[tuple[tuple[str, str] | None, str, str | None]]:
    """Each line of a listing: the heads of the table that it is a row of, here and there; the line; the one printed."""
    wanted, there = [line for line in said.splitlines() if line.strip()], printed.splitlines()
    at = 0
    head, heads = "", None
    for line in wanted:
        if is_head(line):
            head = line
            same = [number for number in range(at, len(there)) if there[number].split() == line.split()]
            heads = (head, there[same[0]]) if same else None
            row_of = None
        elif head and re.search(r"\S\s{2,}\S", line):
            first = re.split(r"\s{2,}", line)[0]
            same = [number for number in range(at, len(there)) if re.split(r"\s{2,}", there[number])[0] == first]
            row_of = heads
        else:
            head, row_of = "", None
            shape = skeleton(line)
            same = [number for number in range(at, len(there)) if skeleton(there[number]) == shape]
        at = same[0] + 1 if same else at
        yield row_of, line, there[same[0]] if same else None


def _cells(head: str, row: str) -> dict[str, str]:
    """A row by its columns, which begin where their names do."""
    names = list(re.finditer(r"\S+(?: \S+)*", head))
    ends = [*(name.start() for name in names[1:]), None]
    return {name[0]: row[name.start() : end].strip() for name, end in zip(names, ends, strict=True)}


@contextmanager
def played(
    page: Path, folder: Path, address: str = "127.0.0.1:1", *, after: str = "", until: str | None = None
) -> Iterator[list[Played]]:
    """Play a page, or the part of it between two headings; its programs in the background go on inside the ``with``
    block.

    Args:
        address: where the coordinator listens instead of its usual place.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment |= {"EDGEJOULE_LISTEN": address, "EDGEJOULE_COORDINATOR": address, "TZ": "UTC"}
    text = page.read_text()
    text = text[text.index(after) : None if until is None else text.index(until)]
    found: list[Played] = []
    staying: list[Staying] = []
    end = 0
    try:
        for fence in _FENCE.finditer(text):
            between, language, body = text[end : fence.start()], fence[1], fence[2]
            end = fence.end()
            if saved := _SAVED.search(between):
                (folder / saved[1]).write_text(body)
                continue
            if language == "console":
                for line, said in _dialogue(body):
                    found.append(_run(shlex.split(line, comments=True), folder, environment, staying))
                    found[-1].said = said
                continue
            commands = [shlex.split(line) for line in body.replace("\\\n", " ").splitlines() if _is_command(line)]
            if commands:
                for words in commands:
                    found.append(_run(words, folder, environment, staying))
            elif not language and not body.startswith(("make ", "export ")):
                _listing(found, body, staying, alone=bool(between.strip()) and not _follows(between))
        yield found
    finally:
        codes = _ended(staying)
        found.append(Played("the end", "", "", max(map(abs, codes), default=0)))


def _dialogue(body: str) -> Iterator[tuple[str, str]]:
    """Commands behind a `$`, each with the lines below it."""
    for part in body.removeprefix("$ ").split("\n$ "):
        line, _, said = part.partition("\n")
        yield line.rstrip().removesuffix("&"), said


def _follows(between: str) -> bool:
    """Whether so few words stand between a command and a listing that they belong together."""
    return len([line for line in between.splitlines() if line.strip()]) <= 2 and "own log" not in between


def _is_command(line: str) -> bool:
    return line.partition(" ")[0] in MODULES and not re.match(r"\S+\s*:", line)


def _run(words: list[str], folder: Path, environment: dict[str, str], staying: list[Staying]) -> Played:
    arguments = [sys.executable, "-m", MODULES[words[0]], *words[1:]]
    if any(tuple(words[: len(entry)]) == entry for entry in STAYING):
        log = folder / f".{len(staying)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT)
        staying.append(Staying(words, log, process))
        end_s = time.monotonic() + WAIT_S
        while not _is_ready(log, words) and process.poll() is None and time.monotonic() < end_s:
            time.sleep(0.1)
        return Played(shlex.join(words), "", "", process.poll() or 0)
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=WAIT_S)
    # The page does not know in which folder it is played.
    printed = (done.stdout or done.stderr).replace(f"{folder}/", "")
    return Played(shlex.join(words), "", printed, done.returncode, done.stderr if done.stdout else "")


def _is_ready(log: Path, words: list[str]) -> bool:
    """A program that stays says when it serves, has joined, or has opened the last of its ports."""
    said = log.read_text()
    return (
        "listening on" in said
        or "joined" in said
        or ("sim" in words and said.count("\n") >= max(1, words.count("--bridge")))
    )


def _listing(found: list[Played], body: str, staying: list[Staying], *, alone: bool) -> None:
    last = found[-1] if found else None
    if alone or last is None or last.said:
        found.append(Played("", body, "\n".join(one.log.read_text() for one in staying)))
        return
    last.said = body
    for one in staying:
        if shlex.join(one.words) == last.command:
            last.printed = one.log.read_text()


def _ended(staying: list[Staying]) -> list[int]:
    codes = []
    for one in reversed(staying):
        if one.process.poll() is None:
            one.process.terminate()
        try:
            codes.append(one.process.wait(30))
        except subprocess.TimeoutExpired:
            one.process.kill()
            codes.append(one.process.wait())
    return codes
