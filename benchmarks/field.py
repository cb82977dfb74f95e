"""A device that lives in the field: faults, wires, idle cost, memory and stops, each provoked on real programs.

    .venv/bin/python benchmarks/field.py --json OUT              # all parts, about half an hour on a quiet machine
    .venv/bin/python benchmarks/field.py --json OUT --resume     # go on where the last run of this OUT was cut
    .venv/bin/python benchmarks/field.py --json OUT --quick      # shorter windows, the first three faults
    .venv/bin/python benchmarks/field.py --only wiring stop_s

A coordinator, daemons and bridges are processes of their own; bridges are the simulated ones on pseudo-terminals. The
JSON has a key for each part: `faults`, `wiring`, `idle`, `memory`, `budget`, `switching`, `infer`, `stop_s`. Each row
is written to OUT.rows as soon as it is there, with the seconds that it took. What could not be measured is under
`failed`, with the reason, and is measured again with --resume. Exit code 1 when something failed or passed a limit.

A bundle is made if none is given, which needs the workshop extra. Faults of disks mount one in memory, which root may.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.budgets import busy
from benchmarks.device import faults as field_faults
from benchmarks.device import idle as field_idle
from benchmarks.device import infer, switching
from benchmarks.device import photographs as field_photographs
from benchmarks.device import stop as field_stop
from benchmarks.device import wiring as field_wiring
from benchmarks.device.further_faults import FURTHER_FAULTS
from benchmarks.device.hostile_faults import HOSTILE_FAULTS
from benchmarks.device.photographs import memory_mb
from protos.atomic import write_whole
from protos.errors import EdgejouleError
from protos.model.bundle import Bundle, open_bundle

IDLE_S, QUICK_IDLE_S = 300.0, 30.0
CPU_LIMIT, CALLS_LIMIT, BYTES_LIMIT = 0.002, 200.0, 100_000.0
RSS_LIMIT_MB = 150.0
BUDGET_J = 8.0
Piece = tuple[str, Callable[[], Any]]


@dataclass(frozen=True)
class Part:
    """A key of the JSON, measured in pieces.

    Args:
        pieces: of a folder, a bundle and whether it is to be quick: names, and what measures each.
        joined: what the pieces that were measured become, by their names.
    """

    pieces: Callable[[Path, Bundle, bool], Iterable[Piece]]
    joined: Callable[[dict[str, Any]], Any]


def _one(found: dict[str, Any]) -> Any:
    return next(iter(found.values()), None)


def _rows(found: dict[str, Any]) -> list[Any]:
    return list(found.values())


def faults(folder: Path, bundle: Bundle, quick: bool) -> Iterable[Piece]:
    """Every fault of data, sensor, machine and coordinator."""
    chosen = field_faults.FAULTS[:3] if quick else (*field_faults.FAULTS, *FURTHER_FAULTS, *HOSTILE_FAULTS)
    return [(fault.__name__, partial(field_faults.provoke, fault, folder, bundle)) for fault in chosen]


def wiring(folder: Path, bundle: Bundle, quick: bool) -> Iterable[Piece]:
    """Every wrong wire."""
    return [(fault.name, partial(_wire, folder, bundle, fault)) for fault in field_wiring.FAULTS]


def _wire(folder: Path, bundle: Bundle, fault: field_wiring.Fault) -> dict[str, Any]:
    (row,) = field_wiring.rows(folder, bundle, (fault,))
    return row


def idle(folder: Path, bundle: Bundle, quick: bool) -> Iterable[Piece]:
    """A device without an order."""
    seconds = QUICK_IDLE_S if quick else IDLE_S
    return [("idle", lambda: field_idle.measure(folder, bundle, seconds, counts_calls=not quick))]


def memory(folder: Path, bundle: Bundle, quick: bool) -> Iterable[Piece]:
    """Highest resident memory of a daemon that waits, of one that did a round, and over folders of photographs."""
    return [
        ("few examples", lambda: _few_examples(folder / "memory", bundle)),
        *(
            (f"{count} photographs", partial(_photographs, folder / "photographs", bundle, count))
            for count in field_photographs.counts(quick)
        ),
    ]


def _few_examples(folder: Path, bundle: Bundle) -> list[dict[str, Any]]:
    rig = field_faults.Rig(folder, bundle.path)
    try:
        rig.serve()
        rig.write_data()
        daemon = rig.device()
        field_faults.until(lambda: (one := rig.shown()) is not None and one.state == "present")
        found = [{"case": "waiting, 90 examples", "rss_mb": memory_mb(daemon.pid, "VmHWM:")}]
        rig.round_works()
        return [*found, {"case": "after a round of 90 examples", "rss_mb": memory_mb(daemon.pid, "VmHWM:")}]
    finally:
        rig.close()


def _photographs(folder: Path, bundle: Bundle, count: int) -> list[dict[str, Any]]:
    return [field_photographs.row(folder / str(count), bundle, count)]


def budget(folder: Path, bundle: Bundle, quick: bool) -> Iterable[Piece]:
    """Joules of rounds by their budget, while other programs use 0, 50 and 100 % of the processor."""
    loads, rounds = (busy.LOADS[:1], 4) if quick else (busy.LOADS, 12)
    return [(f"{load} %", partial(busy.measure, folder, bundle.path, load, rounds, BUDGET_J)) for load in loads]


def stop_s(folder: Path, bundle: Bundle, quick: bool) -> Iterable[Piece]:
    """Seconds from SIGTERM to the end."""
    return [(name, partial(field_stop.measure, folder, bundle, name)) for name in field_stop.PHASES]


PARTS: dict[str, Part] = {
    "faults": Part(faults, _rows),
    "wiring": Part(wiring, _rows),
    "idle": Part(idle, _one),
    "memory": Part(memory, lambda found: [row for rows in found.values() for row in rows]),
    "budget": Part(budget, _rows),
    "switching": Part(lambda *given: [("switching", partial(switching.measure, *given))], _one),
    "infer": Part(lambda *given: [("infer", partial(infer.measure, *given))], _one),
    "stop_s": Part(stop_s, dict),
}


class Rows:
    """What was measured, in a file of JSON lines that a later run goes on with.

    Args:
        path: None keeps nothing.
        resume: take what is there for measured; else the file begins anew.
        quick: what was measured in the other way is not taken.
    """

    def __init__(self, path: Path | None, *, resume: bool, quick: bool) -> None:
        self._path, self._quick = path, quick
        self._known: dict[tuple[str, str], Any] = {}
        if path is not None and not resume:
            path.unlink(missing_ok=True)
        if path is not None and path.exists():
            for line in path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut
                    said = json.loads(line)
                    if said["quick"] == quick and said["failed"] is None:
                        self._known[said["part"], said["piece"]] = said["found"]

    def measured(self, part: str, piece: str, measure: Callable[[], Any]) -> tuple[Any, str | None]:
        """What a piece gave, now or earlier; and why it could not be measured, else None."""
        if (part, piece) in self._known:
            return self._known[part, piece], None
        begun_s, found, failed = time.monotonic(), None, None
        try:
            found = measure()
        except (EdgejouleError, AssertionError, TimeoutError, OSError, subprocess.SubprocessError) as error:
            failed = f"{type(error).__name__}: {error}"
        said = {
            "part": part,
            "piece": piece,
            "quick": self._quick,
            "failed": failed,
            "took_s": round(time.monotonic() - begun_s, 1),
            "found": found,
        }
        line = json.dumps(said)
        print(line, file=sys.stderr, flush=True)
        if self._path is not None:
            with self._path.open("ab") as file:
                # A line that was cut must not swallow this one.
                file.write(b"\n" + line.encode() + b"\n")
        return found, failed


def beyond(found: dict[str, Any]) -> list[str]:
    """What passed its limit, in words."""
    wrong = [f"{what}: not measured: {why}" for what, why in (found.get("failed") or {}).items()]
    wrong += [f"{fault['name']}: {fault['reason_shown']}" for fault in found.get("faults") or () if not _bent(fault)]
    for row in found.get("wiring") or ():
        if row["joules_known"] == bool(row["flag"]) or not row["daemon_alive"]:
            wrong.append(f"{row['fault']}: joules known: {row['joules_known']}")
        if row["flag"] and row["steps_within_a_budget"]:
            wrong.append(f"{row['fault']}: {row['steps_within_a_budget']} steps within a budget")
    if (cost := found.get("idle")) is not None:
        for name, limit in (("cpu_share", CPU_LIMIT), ("calls_per_day", CALLS_LIMIT), ("bytes_per_day", BYTES_LIMIT)):
            if cost[name] is not None and cost[name] > limit:
                wrong.append(f"idle: {name} {cost[name]:.4g}, limit {limit:g}")
    for row in found.get("memory") or ():
        if row["rss_mb"] > RSS_LIMIT_MB:
            wrong.append(f"memory: {row['case']}: {row['rss_mb']} MB, limit {RSS_LIMIT_MB:g} MB")
    for one in found.get("budget") or ():
        if one["max_of_budget"] > busy.LIMIT:
            where = f"{one['foreign_load_percent']} % foreign load"
            wrong.append(f"budget: {one['max_of_budget']} of it under {where}, limit {busy.LIMIT}")
    if (served := found.get("switching")) is not None and served["torn"]:
        wrong.append(f"switching: {served['torn']} of {served['predictions']} predictions are of no one version")
    for phase, seconds in (found.get("stop_s") or {}).items():
        if seconds > field_stop.LIMIT_S:
            wrong.append(f"stop while {phase}: {seconds:g} s, limit {field_stop.LIMIT_S:g} s")
    return wrong


def _bent(row: dict[str, Any]) -> bool:
    return bool(row["daemon_alive"]) and row["recovered_s"] is not None


def main() -> int:
    """The command: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    parser.add_argument("--resume", action="store_true", help="keep what OUT.rows has, and measure what it lacks")
    parser.add_argument("--quick", action="store_true", help="shorter windows, the first three faults")
    parser.add_argument("--bundle", type=Path, help="what devices train; made if left out")
    parser.add_argument("--folder", type=Path, help="for logs and states, kept; a temporary one if left out")
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS), metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    if given.resume and given.json is None:
        parser.error("--resume goes on with the rows of --json OUT: name it")
    with tempfile.TemporaryDirectory(prefix="edgejoule-field-") as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if given.bundle is None and not (folder / "bundle" / "bundle").exists():
            from benchmarks.inputs import wide_bundle

            wide_bundle.make(folder / "bundle", 200)
        bundle = open_bundle(given.bundle or folder / "bundle" / "bundle")
        rows_to = None if given.json is None else given.json.with_name(f"{given.json.name}.rows")
        rows = Rows(rows_to, resume=given.resume, quick=given.quick)
        found: dict[str, Any] = {}
        failed: dict[str, str] = {}
        for name, part in PARTS.items():
            if given.only and name not in given.only:
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            pieces: dict[str, Any] = {}
            for piece, measure in part.pieces(folder / name, bundle, given.quick):
                value, reason = rows.measured(name, piece, measure)
                if reason is None:
                    pieces[piece] = value
                else:
                    failed[f"{name}: {piece}"] = reason
            found[name] = part.joined(pieces)
        found["failed"] = failed
    text = json.dumps(found, indent=2)
    print(text)
    if given.json is not None:
        with write_whole(given.json) as file:
            file.write(text.encode() + b"\n")
    wrong = beyond(found)
    for one in wrong:
        print(f"field: {one}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
