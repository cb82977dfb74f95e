"""How many rooms a journey enters: files, and moves from one file to another, while a real test makes it.

    .venv/bin/python benchmarks/tree/journeys.py [--tree CHECKOUT] [--json OUT]

Each journey is a stretch of a real test (real gRPC, TFLite, SQLite, pseudo-terminals), from the call of one function to
the return of another, over all threads. Counted are files of ours, generated code left out; a *move* is a pair of files
of which one calls a function of the other, counted once however often it is called. Another checkout, such as an older
one, runs with its own tests.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

PACKAGES = ("edge_runtime", "coordinator", "protos")
VARIABLE = "EDGEJOULE_JOURNEY"


@dataclass(frozen=True)
class Journey:
    """A stretch of a test.

    Attributes:
        test: what makes it.
        packages: whose files count: the other end of the line is in the same process.
        begins: function and endings of its file's name.
        ends: the same.
    """

    name: str
    test: str
    packages: tuple[str, ...]
    begins: tuple[str, tuple[str, ...]]
    ends: tuple[str, tuple[str, ...]]


_ROUNDS = "tests/coordinator/test_server_rounds.py::test_late_energy_rides_in_the_next_call_and_counts_once"
JOURNEYS = (
    Journey(
        "an order to its report",
        "tests/edge_runtime/test_device_round.py::test_a_round_trains_and_reports_every_phase",
        ("edge_runtime", "protos"),
        ("work", ("edge_runtime/round.py", "edge_runtime/round/work.py")),
        ("work", ("edge_runtime/round.py", "edge_runtime/round/work.py")),
    ),
    Journey(
        "a report to the moved head",
        _ROUNDS,
        ("coordinator", "protos"),
        ("Report", ("server/device_service.py", "services/device_service.py")),
        ("close_round", ("coordinator/ledger.py", "coordinator/run/round_transactions.py")),
    ),
    Journey(
        "a serial read to watts",
        "tests/edge_runtime/power/test_power_bridge_meter.py"
        "::test_settling_ends_the_period_at_the_last_mark_and_the_running_phase_goes_on",
        ("edge_runtime", "protos"),
        ("receive", ("power/session.py", "power/bridge/session.py")),
        ("work", ("power/track.py", "power/bridge/track.py")),
    ),
    Journey(
        "a plan to orders",
        _ROUNDS,
        ("coordinator", "protos"),
        ("prepare", ("coordinator/planning.py", "coordinator/run/planning.py")),
        ("open_round", ("coordinator/ledger.py", "coordinator/run/round_transactions.py")),
    ),
)


class Probe:
    """Watches the calls of all threads of a test."""

    def __init__(self, journey: Journey, root: Path) -> None:
        self._journey, self._root = journey, f"{root}{os.sep}"
        self._running = 0
        self._short: dict[str, str | None] = {}
        self.files: set[str] = set()
        self.moves: set[tuple[str, str]] = set()
        self.times = 0

    def see(self, frame: FrameType, event: str, argument: Any) -> None:
        """A function of :func:`sys.setprofile`."""
        if event not in ("call", "return"):
            return
        file = self._ours(frame.f_code.co_filename)
        if file is None:
            return
        name = frame.f_code.co_name
        if event == "call":
            if self._is(self._journey.begins, name, file) and not self._running:
                self._running = 1
            if self._running:
                self._enter(file, frame)
        elif self._running and self._is(self._journey.ends, name, file):
            self._running = 0
            self.times += 1

    def _enter(self, file: str, frame: FrameType) -> None:
        self.files.add(file)
        before = frame.f_back
        while before is not None:
            caller = self._ours(before.f_code.co_filename)
            if caller is not None:
                if caller != file:
                    self.moves.add((caller, file))
                return
            before = before.f_back

    def _is(self, end: tuple[str, tuple[str, ...]], name: str, file: str) -> bool:
        return name == end[0] and file.endswith(end[1])

    def _ours(self, path: str) -> str | None:
        if path not in self._short:
            short = path.removeprefix(self._root)
            ours = short != path and short.startswith(tuple(f"{package}/" for package in self._journey.packages))
            self._short[path] = short if ours and "/v1/" not in short else None
        return self._short[path]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """As a plugin of pytest in the other process: watch one test, and write down what was seen."""
    wanted: Mapping[str, str] = json.loads(os.environ[VARIABLE])
    journey = next(each_journey for each_journey in JOURNEYS if each_journey.name == wanted["name"])
    probe = Probe(journey, Path(wanted["tree"]))
    threading.setprofile(probe.see)
    sys.setprofile(probe.see)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    seen = {"files": sorted(probe.files), "moves": sorted(probe.moves), "times": probe.times}
    Path(wanted["out"]).write_text(json.dumps(seen))


def watch(journey: Journey, tree: Path) -> dict[str, Any]:
    """What one journey enters in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seen.json"
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tree), str(Path(__file__).parent)]),
            VARIABLE: json.dumps({"name": journey.name, "tree": str(tree), "out": str(out)}),
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "journeys", "-n", "0"]
        done = subprocess.run(
            [*command, journey.test], cwd=tree, env=environ, capture_output=True, text=True, check=False
        )
        if not out.exists():
            raise SystemExit(f"{journey.name}: {done.stdout[-1500:]}{done.stderr[-500:]}")
        seen: dict[str, Any] = json.loads(out.read_text())
    if not seen["times"]:
        raise SystemExit(f"{journey.name}: the journey never came to its end")
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tree", type=Path, default=Path(__file__).resolve().parents[2], metavar="CHECKOUT")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the files and moves there")
    given = parser.parse_args()
    tree = given.tree.resolve()
    found = {journey.name: watch(journey, tree) for journey in JOURNEYS}
    print("| Journey | Files entered | Folders | Moves between files |\n|---|---:|---:|---:|")
    for name, seen in found.items():
        folders = {file.rpartition("/")[0] for file in seen["files"]}
        print(f"| {name} | {len(seen['files'])} | {len(folders)} | {len(seen['moves'])} |")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
