"""A device that lives in the field: faults, wires, idle cost, memory and stops, each provoked on real programs.

    .venv/bin/python benchmarks/field.py --json OUT              # all parts, about half an hour on a quiet machine
    .venv/bin/python benchmarks/field.py --json OUT --quick      # shorter windows, the first three faults
    .venv/bin/python benchmarks/field.py --only wiring stop_s

A coordinator, daemons and bridges are processes of their own; bridges are the simulated ones on pseudo-terminals. The
JSON has a key for each part: `faults`, `wiring`, `idle`, `memory`, `budget`, `switching`, `infer`, `stop_s`; one that
failed is null, with the reason on stderr. Exit code 1 when a limit is passed.

A bundle is made if none is given, which needs the workshop extra.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
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
from benchmarks.device.photographs import memory_mb
from protos.atomic import write_whole
from protos.errors import EdgejouleError
from protos.model.bundle import Bundle, open_bundle

IDLE_S, QUICK_IDLE_S = 300.0, 30.0
CPU_LIMIT, CALLS_LIMIT, BYTES_LIMIT = 0.002, 200.0, 100_000.0
RSS_LIMIT_MB = 150.0
BUDGET_J = 8.0
Part = Callable[[Path, Bundle, bool], Any]


def _told(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same, each said as soon as it is there."""
    for row in rows:
        print(json.dumps(row), file=sys.stderr, flush=True)
        yield row


def faults(folder: Path, bundle: Bundle, quick: bool) -> Any:
    """Every fault of data, sensor, machine and coordinator."""
    chosen = field_faults.FAULTS[:3] if quick else (*field_faults.FAULTS, *FURTHER_FAULTS)
    return list(_told(field_faults.rows(folder, bundle, chosen)))


def wiring(folder: Path, bundle: Bundle, quick: bool) -> Any:
    """Every wrong wire."""
    return list(_told(field_wiring.rows(folder, bundle)))


def idle(folder: Path, bundle: Bundle, quick: bool) -> Any:
    """A device without an order."""
    return field_idle.measure(folder, bundle, QUICK_IDLE_S if quick else IDLE_S, counts_calls=not quick)


def memory(folder: Path, bundle: Bundle, quick: bool) -> Any:
    """Highest resident memory of a daemon that waits, of one that did a round, and over folders of photographs."""
    rig = field_faults.Rig(folder / "memory", bundle.path)
    try:
        rig.serve()
        rig.write_data()
        daemon = rig.device()
        field_faults.until(lambda: (one := rig.shown()) is not None and one.state == "present")
        found = [{"case": "waiting, 90 examples", "rss_mb": memory_mb(daemon.pid, "VmHWM:")}]
        rig.round_works()
        found.append({"case": "after a round of 90 examples", "rss_mb": memory_mb(daemon.pid, "VmHWM:")})
    finally:
        rig.close()
    return [*found, *field_photographs.measure(folder / "photographs", bundle, quick)]


def budget(folder: Path, bundle: Bundle, quick: bool) -> Any:
    """Joules of rounds by their budget, while other programs use 0, 50 and 100 % of the processor."""
    loads, rounds = (busy.LOADS[:1], 4) if quick else (busy.LOADS, 12)
    return [busy.measure(folder, bundle.path, load, rounds, BUDGET_J) for load in loads]


def stop_s(folder: Path, bundle: Bundle, quick: bool) -> Any:
    """Seconds from SIGTERM to the end."""
    return dict(field_stop.measure(folder, bundle))


PARTS: dict[str, Part] = {
    "faults": faults,
    "wiring": wiring,
    "idle": idle,
    "memory": memory,
    "budget": budget,
    "switching": switching.measure,
    "infer": infer.measure,
    "stop_s": stop_s,
}


def beyond(found: dict[str, Any]) -> list[str]:
    """What passed its limit, in words."""
    wrong = [f"{fault['name']}: {fault['reason_shown']}" for fault in found.get("faults") or () if not _bent(fault)]
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
    parser.add_argument("--quick", action="store_true", help="shorter windows, the first three faults")
    parser.add_argument("--bundle", type=Path, help="what devices train; made if left out")
    parser.add_argument("--folder", type=Path, help="for logs and states, kept; a temporary one if left out")
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS), metavar="PART", help=", ".join(PARTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgejoule-field-") as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if given.bundle is None:
            from benchmarks.inputs import wide_bundle

            wide_bundle.make(folder / "bundle", 200)
        bundle = open_bundle(given.bundle or folder / "bundle" / "bundle")
        found: dict[str, Any] = {}
        for name, part in PARTS.items():
            if given.only and name not in given.only:
                continue
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                found[name] = part(folder / name, bundle, given.quick)
            except (EdgejouleError, AssertionError, TimeoutError) as error:
                print(f"field: {name}: {error}", file=sys.stderr)
                found[name] = None
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
