"""Draws changes of the arithmetic and state rooms, and tells which of them no test notices: `make mutants`.

Each change is made in a copy of the tree, where the tests that reach its lines run, the quickest first, until one
fails. Who reaches what is asked once for a state of the tree, which takes as long as those tests, and kept. Changes
that change nothing that can be seen are listed in `equivalent.txt`, each with the reason, and do not count.

    python tests/mutants/draw.py --number 100 --seed 1
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Literal

from sites import Site, sites

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ROOMS = (
    "protos/update",
    "protos/energy",
    "protos/bridge",
    "protos/plan",
    "protos/normaliser.py",
    "protos/atomic.py",
    "coordinator/aggregate",
    "coordinator/budgets",
    "coordinator/learning",
    "coordinator/run",
    "coordinator/store",
    "edge_runtime/daemon",
    "edge_runtime/health",
    "edge_runtime/power/bridge",
    "edge_runtime/power/recording",
    "edge_runtime/round",
    "edge_runtime/state.py",
)
TESTS = ("tests/protos", "tests/coordinator", "tests/edge_runtime", "tests/golden")
KEPT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgejoule" / "mutants"
Outcome = Literal["killed", "survived", "unreached", "equivalent"]
_QUIET = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=line")


@dataclass(frozen=True)
class Verdict:
    """What became of one change.

    Attributes:
        by: the test that failed, or how many passed.
    """

    site: Site
    outcome: Outcome
    by: str = ""

    def line(self) -> str:
        """For people."""
        return (
            f"{self.outcome:10} {self.site.path}:{self.site.line} in {self.site.function or 'the module'}: "
            f"{self.site.before[:100]} -> {self.site.after[:100]}" + (f"  [{self.by}]" if self.by else "")
        )


class Reach:
    """Which tests reach a change, and how long they take.

    Args:
        folder: files written by :mod:`reach`.
    """

    def __init__(self, folder: Path) -> None:
        self.durations: dict[str, float] = {}
        self._lines: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for path in sorted(folder.glob("*.json")):
            held = json.loads(path.read_text())
            self.durations |= held["durations"]
            for test, files in held["reach"].items():
                for name, lines in files.items():
                    for line in lines:
                        self._lines[name][line].add(test)

    def tests(self, site: Site) -> list[str]:
        """That reach a change, the quickest first. What runs when a module is imported is reached by all that reach
        any other line of it."""
        lines = self._lines.get(site.path, {})
        found = set().union(*(lines.get(one, set()) for one in range(site.first, site.last + 1)))
        if not site.function or found <= {""}:
            found = set().union(*lines.values())
        return sorted((one for one in found if one in self.durations), key=lambda one: (self.durations[one], one))


class Trees:
    """Copies of the tree, each for one change at a time."""

    def __init__(self, folder: Path, number: int) -> None:
        self.free: Queue[Path] = Queue()
        for at in range(number):
            copy = folder / f"tree-{at}"
            copy_tree(copy)
            self.free.put(copy)
        self._unchanged: dict[str, bool] = {}
        self._lock = threading.Lock()

    def judge(self, site: Site, tests: Sequence[str], most_s: float, durations: dict[str, float]) -> Verdict:
        """Run tests on a change, until one fails that passes without the change."""
        tests = [one for one in tests if self._unchanged.get(one, True)]
        some, total_s = [], 0.0
        for one in tests:
            total_s += durations[one]
            if some and total_s > most_s:
                break
            some.append(one)
        tree = self.free.get()
        try:
            while some:
                path = tree / site.path
                source = path.read_text()
                path.write_text(site.applied(source))
                try:
                    failed = run(tree, some, 5 * total_s + 60)
                finally:
                    path.write_text(source)
                if failed is None:
                    return Verdict(site, "survived", f"{len(some)} of {len(tests)} tests")
                if failed == "" or self._passes(tree, failed):
                    return Verdict(site, "killed", failed)
                some = some[some.index(failed) + 1 :] if failed in some else some[1:]
            return Verdict(site, "unreached")
        finally:
            self.free.put(tree)

    def _passes(self, tree: Path, test: str) -> bool:
        with self._lock:
            known = self._unchanged.get(test)
        if known is None:
            known = run(tree, [test], 300) is None
            with self._lock:
                self._unchanged[test] = known
        return known


def copy_tree(to: Path, root: Path = ROOT) -> None:
    """What git knows of the tree, with what was not committed yet, and with its history for tests that ask for it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, to / name)


def run(tree: Path, tests: Iterable[str], most_s: float) -> str | None:
    """The test that failed first; None: all passed; empty: they did not come to an end, or could not begin."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed, tempfile.TemporaryDirectory() as base:
        listed.write("\n".join(tests))
        listed.flush()
        environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "CI": ""}
        command = [sys.executable, "-m", "pytest", *_QUIET, "-rfE", f"--basetemp={base}/t", f"@{listed.name}"]
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            out, _ = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            out = ""
            return ""
        finally:
            end_group(process)
    if process.returncode in (0, 5):
        return None
    for line in out.splitlines():
        for word in ("FAILED ", "ERROR "):
            if line.startswith(word):
                return line.removeprefix(word).partition(" - ")[0].strip()
    return ""


def end_group(process: subprocess.Popen[str]) -> None:
    """End a session of processes that was begun here, with whatever a changed program left behind in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def equivalents(path: Path = HERE / "equivalent.txt") -> dict[str, str]:
    """Names of changes that change nothing that can be seen, with the reason."""
    made: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(" :: because ")
            made[name.strip()] = reason.strip()
    return made


def all_sites(root: Path = ROOT, rooms: Sequence[str] = ROOMS) -> list[Site]:
    """Every change that can be made in the rooms."""
    paths: list[Path] = []
    for room in rooms:
        one = root / room
        paths += sorted(one.rglob("*.py")) if one.is_dir() else [one]
    found: list[Site] = []
    for path in paths:
        found += sites(str(path.relative_to(root)), path.read_text())
    return found


def drawn(found: Sequence[Site], number: int, seed: int) -> list[Site]:
    """A sample without replacement; the first of a longer one of the same seed."""
    order = sorted(found, key=lambda one: hashlib.sha256(f"{seed} {one.name} {one.line}".encode()).digest())
    return order[:number]


def reach_of(rooms: Sequence[str], workers: int, told: Callable[[str], None]) -> Path:
    """The folder that says who reaches what, made anew where the tree has changed."""
    digest = hashlib.sha256()
    for part in ("protos", "edge_runtime", "coordinator", "tests"):
        for path in sorted((ROOT / part).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    folder = KEPT / digest.hexdigest()[:16]
    if (folder / "whole").exists():
        return folder
    told("asking which tests reach what: as long as the tests take, once for this state of the tree")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = Path(scratch) / "tree"
        copy_tree(tree)
        here = f"{tree}{os.pathsep}{tree / 'tests' / 'mutants'}"
        environment = {**os.environ, "PYTHONPATH": here, "REACH_TO": str(folder), "REACH_ROOT": str(tree)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "reach", "-p", "no:cacheprovider", "-n", str(workers)]
        command += ["--dist", "loadfile", "-m", "not slow and not arm", *TESTS]
        subprocess.run(command, cwd=tree, env=environment, check=False, stdout=subprocess.DEVNULL)
    (folder / "whole").touch()
    return folder


def main(words: Sequence[str] | None = None) -> int:
    """Draw, judge, and say how many were noticed."""
    parser = argparse.ArgumentParser(description="Which small changes of the code does no test notice?")
    parser.add_argument("--number", type=int, default=100, help="changes to draw (100)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (1)")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the first of this seed")
    parser.add_argument("--room", action="append", help="a folder or module instead of all of the rooms; repeatable")
    parser.add_argument("--workers", type=int, default=2, help="changes that are judged at a time (2)")
    parser.add_argument("--most-s", type=float, default=120.0, help="seconds of tests for one change (120)")
    parser.add_argument("--reach", type=Path, help="a folder that says who reaches what, instead of asking")
    parser.add_argument("--json", type=Path, help="write all of it there")
    parser.add_argument("--list", action="store_true", help="show what would be drawn, and run nothing")
    asked = parser.parse_args(words)

    def told(line: str) -> None:
        print(line, flush=True)

    rooms = tuple(asked.room or ROOMS)
    found = all_sites(rooms=rooms)
    sample = drawn(found, asked.skip + asked.number, asked.seed)[asked.skip :]
    same = equivalents()
    if asked.list:
        for site in sample:
            told(Verdict(site, "equivalent" if site.name in same else "unreached").line())
        return 0
    reach = Reach(asked.reach or reach_of(rooms, asked.workers, told))
    began = time.monotonic()
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, ThreadPoolExecutor(asked.workers) as pool:
        trees = Trees(Path(scratch), asked.workers)

        def judged(site: Site) -> Verdict:
            if site.name in same:
                return Verdict(site, "equivalent", same[site.name])
            tests = reach.tests(site)
            if not tests:
                return Verdict(site, "unreached")
            return trees.judge(site, tests, asked.most_s, reach.durations)

        for verdict in pool.map(judged, sample):
            verdicts.append(verdict)
            told(verdict.line())
    counts = {
        kind: sum(one.outcome == kind for one in verdicts) for kind in ("killed", "survived", "unreached", "equivalent")
    }
    score = counts["killed"] / max(1, len(verdicts) - counts["equivalent"])
    told(f"\n{len(verdicts)} of {len(found)} changes drawn with seed {asked.seed}, in {time.monotonic() - began:.0f} s")
    told(
        ", ".join(f"{count} {kind}" for kind, count in counts.items())
        + f": {score:.1%} noticed, equivalent ones left out"
    )
    for one in verdicts:
        if one.outcome in ("survived", "unreached"):
            told(one.line())
    if asked.json:
        rows = [{**{key: getattr(one.site, key) for key in ("path", "line", "function", "before", "after")},
                 "outcome": one.outcome, "by": one.by} for one in verdicts]  # fmt: skip
        asked.json.write_text(
            json.dumps({"seed": asked.seed, "score": score, **counts, "changes": rows}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
