"""What boards have written, in one folder here: logs, recordings, results, each with its SHA-256."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from coordinator.testbed import daemon
from coordinator.testbed.across import Outcome, Progress
from coordinator.testbed.ssh import Session, digest_of
from protos.atomic import write_whole
from protos.commands.json_document import document
from protos.errors import IntegrityError, UsageError

__all__ = ["MANIFEST", "SUMS", "collect", "folder_for", "write_manifest"]

MANIFEST, SUMS = "manifest.json", "SHA256SUMS"
FOLDERS = ("recordings", "results", "logs")
_MOST_FILES = 100_000

# $1 folder, $2 service, $3... what else, relative to it or absolute. Lines: digest, size, time, path. Of a file that
# grows, the size comes first and the digest is of so many bytes.
_LIST = """
cd "$1" 2>/dev/null || exit 0
if [ "$2" = systemd ]; then
  mkdir -p logs
  journalctl --no-pager -o short-iso -u edge-runtime.service > logs/journal.txt 2>/dev/null || rm -f logs/journal.txt
fi
shift 2
find recordings results logs daemon.log testbed.json device.toml "$@" -type f 2>/dev/null | sort -u |
while IFS= read -r f
do
  size=$(wc -c < "$f") || continue
  printf '%s %s %s %s\\n' "$(head -c "$size" < "$f" | sha256sum | cut -d' ' -f1)" "$size" "$(stat -c %Y "$f")" "$f"
done
"""
_LINE = re.compile(r"([0-9a-f]{64}) +(\d+) (\d+) (.+)")


def folder_for(path: Path) -> Path:
    """The folder, made if it is not there; one with a manifest is gone on with.

    Raises:
        UsageError: it holds other files.
    """
    if path.exists() and not path.is_dir():
        raise UsageError("is no folder", where=str(path), fix="give another one with -o")
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).exists():
        raise UsageError("holds files that were not collected", where=str(path), fix="give an empty folder with -o")
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not (path / MANIFEST).exists():
            # From now on the folder is ours, and a collection that is cut is gone on with.
            (path / MANIFEST).write_text("{}\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written ({error.strerror})", where=str(path), fix="give another folder") from error
    return path


async def collect(session: Session, progress: Progress, folder: Path, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """Fetch a board's files into ``folder/NAME``. A file that is there with its hash is not fetched again.

    Raises:
        IntegrityError: a file did not arrive as it is there, or has a path that leads out of the folder.
    """
    board = session.board
    progress.say("listing")
    words = [board.place_of_ours, board.service, *also]
    said = await session.must(_LIST, *words, timeout_s=600.0, doing="listing files")
    files, fetched = [], 0
    lines = [found for line in said.splitlines() if (found := _LINE.fullmatch(line))]
    if len(lines) > _MOST_FILES:
        raise IntegrityError(f"has {len(lines)} files", where=board.name, fix="collect fewer at a time")
    for number, found in enumerate(lines):
        digest, size, changed_unix_s, path = found[1], int(found[2]), int(found[3]), found[4]
        inside = PurePosixPath(path.lstrip("/"))
        if ".." in inside.parts:
            raise IntegrityError(f"{path!r} leads out of the folder", where=board.name, fix="look at that board")
        progress.say(f"fetching {inside.name}")
        progress.part(number, len(lines))
        source = path if path.startswith("/") else f"{board.place_of_ours}/{path}"
        fetched += await session.get(source, size, digest, folder / board.name / inside)
        files.append(
            {"path": f"{board.name}/{inside}", "size_bytes": size, "sha256": digest, "changed_unix_s": changed_unix_s}
        )
    return {"files": files, "fetched": fetched, "program": await _version(session)}


async def _version(session: Session) -> str | None:
    return await daemon.version_of(session, await daemon.program_of(session))


def write_manifest(folder: Path, outcomes: Sequence[Outcome], more: Mapping[str, bytes], who: str) -> dict[str, Any]:
    """Write what was collected, and from which boards nothing could be: ``manifest.json`` and ``SHA256SUMS``.

    Args:
        more: further files by name, such as what the coordinator says of a run.
    """
    for name, content in more.items():
        with write_whole(folder / name) as file:
            file.write(content)
    boards = {
        outcome.board.name: {
            "host": outcome.board.host,
            "kind": outcome.board.kind,
            "version": outcome.values.get("program"),
            "files": outcome.values.get("files", []),
            "error": None if outcome.error is None else str(outcome.error),
        }
        for outcome in outcomes
    }
    others = [
        {"path": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in more.items()
    ]
    made = document("collected", {"collected_unix_s": time.time(), "by": who, "boards": boards, "files": others})
    listed: list[dict[str, Any]] = [*others, *(path for board in boards.values() for path in board["files"])]
    with write_whole(folder / SUMS) as file:
        file.write("".join(f"{row['sha256']}  {row['path']}\n" for row in listed).encode())
    with write_whole(folder / MANIFEST) as file:
        file.write((json.dumps(made, indent=2) + "\n").encode())
    return made


def wrong_files(folder: Path) -> list[str]:
    """Files of a collected folder that are not what its manifest says, or are gone."""
    made = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    listed = [*made.get("files", ()), *(path for board in made.get("boards", {}).values() for path in board["files"])]
    paths = [(folder / row["path"], row["sha256"]) for row in listed]
    return [str(path.relative_to(folder)) for path, digest in paths if not path.is_file() or digest_of(path) != digest]
