"""Draws changes of the arithmetic and state rooms, and tells which of them no test notices: `make mutants`.

Each change is made in a copy of the tree, where the tests that have to do with its module run, the nearest and quickest
first, until one fails: half a minute of them for each change, then some minutes of the others for those that no test
has noticed by then. Changes that change nothing that can be seen are listed in `equivalent.txt`, each with the reason,
and do not count.

    .venv/bin/python tests/mutants/draw.py --number 100 --seed 1

What is judged is written down at once with `--json`; `--resume` goes on from there, as long as the code and its tests
are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Queue
from types import FrameType
from typing import Any, ClassVar, Literal, NoReturn, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from durations import KEPT, Durations
from imports import PACKAGES, Imports
from kept_models import KEEP
from sites import Site, sites

from protos.atomic import write_whole

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
# A test for each kind of models that takes TensorFlow to make.
MODELS = (
    "tests/edge_runtime/test_device_embeddings.py::test_the_finished_file_is_an_ordinary_npy_file",
    "tests/coordinator/test_evaluated_run.py::test_training_lifts_the_accuracy_and_the_export_keeps_it",
    "tests/protos/model/test_head_training.py::test_an_all_masked_batch_leaves_a_fresh_head_as_it_is",
)
Outcome = Literal["killed", "survived", "unreached", "undecided", "equivalent"]
NAMED = ("path", "function", "before", "after")
BEGUN, ENDED = "could not begin", "did not end"
_NOT_FOUND = "ERROR: not found:"
_QUIET = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=line")


@dataclass(frozen=True)
class Verdict:
    """What became of one change.

    Attributes:
        by: the test that failed, or how many passed.
        others_too: all that are asked were asked, not only the nearest.
    """

    site: Site
    outcome: Outcome
    by: str = ""
    others_too: bool = False

    @property
    def is_open(self) -> bool:
        """Other tests may still notice it."""
        return self.outcome in ("survived", "unreached") and not self.others_too

    def line(self) -> str:
        """For people."""
        return (
            f"{self.outcome:10} {self.site.path}:{self.site.line} in {self.site.function or 'the module'}: "
            f"{self.site.before[:100]} -> {self.site.after[:100]}" + (f"  [{self.by}]" if self.by else "")
        )


class Trees:
    """Copies of the tree, each for one change at a time."""

    def __init__(self, folder: Path, number: int, durations: Durations) -> None:
        self._durations = durations
        self.free: Queue[Path] = Queue()
        for at in range(number):
            copy = folder / f"tree-{at}"
            copy_tree(copy)
            compile_tree(copy)
            self.free.put(copy)
        # Models are made by code that is not changed yet, and kept for all that follow.
        run(folder / "tree-0", MODELS, 1800, durations)
        self._unchanged: dict[str, bool] = {}
        self._lock = threading.Lock()

    def judge(self, site: Site, tests: Sequence[str], most_s: float) -> Verdict:
        """Run tests on a change, until one fails that passes without the change."""
        some = tests = [test for test in tests if self._unchanged.get(test, True)]
        # A change that makes tests wait for ever is given up; so is a computer on which they last as long without it.
        limit_s = 3 * most_s + 60
        tree = self.free.get()
        try:
            while some:
                path = tree / site.path
                source = path.read_text()
                path.write_text(site.applied(source))
                try:
                    failed = run(tree, some, limit_s, self._durations)
                finally:
                    path.write_text(source)
                if failed is None:
                    return Verdict(site, "survived", f"{len(tests)} tests")
                if failed == ENDED and run(tree, some, limit_s, self._durations) == ENDED:
                    # This computer is too slow to tell.
                    return Verdict(site, "undecided", failed)
                if failed == BEGUN and run(tree, some, limit_s, self._durations) == BEGUN:
                    raise RuntimeError(f"tests cannot begin without a change either: {some}")
                if failed in (BEGUN, ENDED) or self._passes(tree, failed):
                    return Verdict(site, "killed", failed)
                some = some[some.index(failed) + 1 :] if failed in some else some[1:]
            return Verdict(site, "unreached")
        finally:
            self.free.put(tree)

    def _passes(self, tree: Path, test: str) -> bool:
        with self._lock:
            known = self._unchanged.get(test)
        if known is None:
            known = run(tree, [test], 300, self._durations) is None
            with self._lock:
                self._unchanged[test] = known
        return known


def files_of(root: Path = ROOT) -> list[str]:
    """What git knows of the tree, with what was not committed yet."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=True,
    )
    return sorted(name for name in listed.stdout.decode().split("\0") if name and (root / name).is_file())


def copy_tree(to: Path, root: Path = ROOT) -> None:
    """All files of the tree, in another folder."""
    for name in files_of(root):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / name, to / name)


def digest_of(root: Path = ROOT) -> str:
    """SHA-256 of the tree's Python, its tests with it: verdicts hold for these."""
    digest = hashlib.sha256()
    for name in files_of(root):
        if name.endswith(".py"):
            digest.update(f"{name}\0".encode() + (root / name).read_bytes())
    return digest.hexdigest()


def compile_tree(tree: Path) -> None:
    """Compile what changes, so that each session compiles the one module that was changed. The files are held against
    the source's hash: a change within the same second, of the same length, counts."""
    folders = [tree / package for package in PACKAGES if (tree / package).is_dir()]
    command = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", *map(str, folders)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Sessions:
    """The process that runs the sessions of a tree; see `warm.py`."""

    _of_tree: ClassVar[dict[Path, Sessions]] = {}

    def __init__(self, tree: Path) -> None:
        # One thread for algebra: a process with threads of its own is no process to fork.
        environment = {**os.environ, "PYTHONPATH": str(tree), "CI": "", "OMP_NUM_THREADS": "1",
                       "OPENBLAS_NUM_THREADS": "1", **kept_models()}  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "warm.py")], cwd=tree, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip

    @classmethod
    def of(cls, tree: Path) -> Sessions:
        """The one of a tree, which is begun when it is asked for first."""
        if tree not in cls._of_tree:
            cls._of_tree[tree] = cls(tree)
        return cls._of_tree[tree]

    @classmethod
    def close(cls, at_once: bool = False) -> None:
        """End all of them, after what they are at or in the midst of it."""
        while cls._of_tree:
            _, one = cls._of_tree.popitem()
            if at_once:
                one._process.terminate()
                one._process.wait()
            else:
                with one._process as process:
                    process.communicate()

    def run(self, words: Sequence[str], most_s: float) -> tuple[int | None, str]:
        """The exit code of pytest with these words, None where it did not end in time; and what it printed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            self._process.stdin.write(json.dumps({"words": words, "out": str(out), "most_s": most_s}) + "\n")
            self._process.stdin.flush()
            code: int | None = json.loads(self._process.stdout.readline())
            return code, out.read_text(errors="replace") if out.exists() else ""


def run(tree: Path, tests: Sequence[str], most_s: float, durations: Durations) -> str | None:
    """The test that failed first; None: all passed; else that they could not begin, or did not end."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed, tempfile.TemporaryDirectory() as base:
        listed.write("\n".join(tests))
        listed.flush()
        report = Path(base) / "tests.xml"
        words = [*_QUIET, "-rfE", f"--basetemp={base}/t", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        code, out = Sessions.of(tree).run([*words, "-m", "not slow and not arm", f"@{listed.name}"], most_s)
        durations.learn(report)
    if code is None:
        return ENDED
    if code in (0, 5):
        return None
    gone = {line.partition(f"{tree}{os.sep}")[2] for line in out.splitlines() if line.startswith(_NOT_FOUND)}
    # Tests that were renamed since they were timed. Of one with parameters pytest names the function alone, which is
    # then run with those it has now.
    renamed = [test for test in tests if test in gone or test.partition("[")[0] in gone]
    if renamed:
        durations.forget(renamed)
        anew = dict.fromkeys(text.partition("[")[0] for text in renamed if text not in gone)
        return run(tree, [*anew, *(test for test in tests if test not in renamed)], most_s, durations)
    for line in out.splitlines():
        for word in ("FAILED ", "ERROR "):
            if line.startswith(word):
                return line.removeprefix(word).partition(" - ")[0].strip()
    return BEGUN


@cache
def kept_models() -> dict[str, str]:
    """Where tests keep their models; another place for other sources of what makes them."""
    digest = hashlib.sha256()
    for package in ("firmware_tools", "protos"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return {KEEP: str(KEPT / digest.hexdigest()[:16])}


def equivalents(path: Path = HERE / "equivalent.txt") -> dict[str, str]:
    """Names of changes that change nothing that can be seen, with the reason."""
    made: dict[str, str] = {}
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.partition(" :: because ")
            made[name.strip()] = reason.strip()
    return made


def kept_verdicts(path: Path, sample: Iterable[Site], tree: str) -> dict[str, Verdict]:
    """What an earlier draw wrote of these changes, by their places; nothing where it was another tree's."""
    if not path.exists():
        return {}
    document: dict[str, Any] = json.loads(path.read_text())
    if document.get("tree") != tree:
        return {}
    rows = {(row["line"], *(row[key] for key in NAMED)): row for row in document["changes"]}
    made: dict[str, Verdict] = {}
    for site in sample:
        row = rows.get((site.line, *(getattr(site, key) for key in NAMED)))
        if row is not None and row["outcome"] != "undecided":
            made[place_of(site)] = Verdict(site, row["outcome"], row["by"], row["others_too"])
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


def place_of(site: Site) -> str:
    """What tells a change from all others of the same tree."""
    return f"{site.name} {site.line} {site.span}"


def text_of(site: Site, root: Path = ROOT) -> str:
    """The line of a change as it stands there: it tells a place from others alike when lines have moved."""
    return (root / site.path).read_text().splitlines()[site.line - 1].strip()


def examples_of(path: str, root: Path = ROOT) -> list[str]:
    """The test of the examples in a module's own docstrings; none where it shows none."""
    shows = ">>> " in (root / path).read_text()
    name = path.removesuffix(".py").replace("/", ".")
    return [f"tests/test_documented_examples.py::test_the_examples_are_true[{name}]"] if shows else []


def drawn(found: Sequence[Site], number: int, seed: int) -> list[Site]:
    """A sample without replacement; the first of a longer one of the same seed."""
    order = sorted(found, key=lambda one: hashlib.sha256(f"{seed} {one.name} {one.line}".encode()).digest())
    return order[:number]


def _interrupted(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> int:
    """Draw, judge, and say how many were noticed."""
    parser = argparse.ArgumentParser(description="Which small changes of the code does no test notice?")
    parser.add_argument("--number", type=int, default=100, help="changes to draw (100)")
    parser.add_argument("--seed", type=int, default=1, help="of the draw (1)")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many of the first of this seed")
    parser.add_argument("--room", action="append", help="a folder or module instead of all of the rooms; repeatable")
    parser.add_argument("--workers", type=int, default=2, help="changes that are judged at a time (2)")
    parser.add_argument("--most-s", type=float, default=25.0, help="seconds of tests for one change (25)")
    parser.add_argument(
        "--then-s", type=float, default=120.0, help="seconds of tests for one that none of these noticed (120); 0: none"
    )
    parser.add_argument("--json", type=Path, help="write all of it there, each change as soon as it is judged")
    parser.add_argument(
        "--again", type=Path, action="append", help="only those not killed, of an earlier --json; repeatable"
    )
    parser.add_argument("--resume", action="store_true", help="go on where an earlier --json of the same tree ended")
    parser.add_argument("--list", action="store_true", help="show what would be drawn, and run nothing")
    asked = parser.parse_args(words)

    def told(line: str) -> None:
        print(line, flush=True)

    rooms = tuple(asked.room or ROOMS)
    found = all_sites(rooms=rooms)
    sample = drawn(found, asked.skip + asked.number, asked.seed)[asked.skip :]
    if asked.again:
        rows = [row for path in asked.again for row in json.loads(path.read_text())["changes"]]
        wanted = {(row["text"], *(row[key] for key in NAMED)) for row in rows
                  if row["outcome"] in ("survived", "unreached", "undecided")}  # fmt: skip
        sample = [site for site in found if (text_of(site), *(getattr(site, key) for key in NAMED)) in wanted]
    same = equivalents()
    if asked.list:
        for site in sample:
            told(Verdict(site, "equivalent" if site.name in same else "unreached").line())
        return 0
    imports, durations = Imports(ROOT, TESTS), Durations()
    files = {site.path: imports.tests(site.path) for site in sample}
    tree = digest_of()
    verdicts = kept_verdicts(asked.json, sample, tree) if asked.resume and asked.json else {}
    if verdicts:
        told(f"{len(verdicts)} of {len(sample)} were judged before: {asked.json}")
    began = time.monotonic()

    def summed() -> dict[str, int]:
        return {
            kind: sum(each_verdict.outcome == kind for each_verdict in verdicts.values()) for kind in get_args(Outcome)
        }

    def score() -> float:
        counts = summed()
        return counts["killed"] / max(1, len(verdicts) - counts["equivalent"] - counts["undecided"])

    def kept() -> None:
        durations.keep()
        if asked.json:
            rows = [{**{key: getattr(one.site, key) for key in ("line", *NAMED)}, "text": text_of(one.site),
                     "outcome": one.outcome, "by": one.by, "others_too": one.others_too}
                    for one in verdicts.values()]  # fmt: skip
            document = {"seed": asked.seed, "tree": tree, "score": score(), **summed(), "changes": rows}
            asked.json.parent.mkdir(parents=True, exist_ok=True)
            with write_whole(asked.json) as file:
                file.write(json.dumps(document, indent=1).encode() + b"\n")

    known: dict[str, frozenset[str]] = {}
    waiting: list[Future[Verdict]] = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch, ThreadPoolExecutor(asked.workers) as pool:

        def judged(site: Site, most_s: float, others_too: bool) -> Verdict:
            if site.name in same:
                return Verdict(site, "equivalent", same[site.name])
            chosen = [*examples_of(site.path), *durations.chosen(files[site.path], most_s)]
            without = known.get(place_of(site), frozenset())
            tests = [text for text in chosen if text not in without]
            known[place_of(site)] = without | set(tests)
            verdict = trees.judge(site, tests, most_s) if tests else Verdict(site, "unreached")
            return replace(verdict, others_too=others_too)

        before = signal.signal(signal.SIGTERM, _interrupted)
        try:
            trees = Trees(Path(scratch), asked.workers, durations)
            for others_too, most_s in ((False, asked.most_s), (True, asked.then_s)):
                done_with = {place for place, verdict in verdicts.items() if not (others_too and verdict.is_open)}
                left = [site for site in sample if place_of(site) not in done_with]
                if most_s <= 0 or not left:
                    continue
                if others_too:
                    told(f"{len(left)} that none of the nearest tests noticed: {most_s:.0f} s of others for each")
                waiting = [pool.submit(judged, site, most_s, others_too) for site in left]
                for done in as_completed(waiting):
                    verdict = done.result()
                    place = place_of(verdict.site)
                    if place in verdicts and verdict.outcome == "unreached":
                        # Nothing more is there to ask: what passed before stands.
                        verdict = replace(verdicts[place], others_too=True)
                    else:
                        told(verdict.line())
                    verdicts[place] = verdict
                    kept()
        except KeyboardInterrupt:
            told("interrupted: changes that were being judged are left out" + (", --resume goes on" * bool(asked.json)))
            for future in waiting:
                future.cancel()
            Sessions.close(at_once=True)
        finally:
            Sessions.close()
            signal.signal(signal.SIGTERM, before)
    told(f"\n{len(verdicts)} of {len(found)} changes drawn with seed {asked.seed}, in {time.monotonic() - began:.0f} s")
    told(
        ", ".join(f"{count} {kind}" for kind, count in summed().items())
        + f": {score():.1%} noticed, equivalent ones left out"
    )
    for each_verdict in verdicts.values():
        if each_verdict.outcome in ("survived", "unreached"):
            told(each_verdict.line())
    kept()
    return 0


if __name__ == "__main__":
    sys.exit(main())
