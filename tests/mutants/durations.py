"""How long tests take, kept from one draw to the next: which of a file are asked whether they notice a change."""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "edgejoule" / "mutants"
# Seconds of a test that never ran.
UNKNOWN_S = 5.0


class Durations:
    """How long tests take, from one time to the next.

    Args:
        path: where it is kept.
        root: of the tree whose tests they are.
    """

    def __init__(self, path: Path = KEPT / "durations.json", root: Path = ROOT) -> None:
        self._path, self._root = path, root
        self.of_test: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        self._by_file: dict[str, list[str]] = defaultdict(list)
        self._lock = threading.Lock()
        for test in self.of_test:
            self._by_file[test.partition("::")[0]].append(test)

    def chosen(self, files: Sequence[tuple[int, str]], most_s: float) -> list[str]:
        """Tests of files, the nearest and quickest first, as many as the time allows. Of a file that never ran, all;
        those that are new in a file come first, since they were often written for what nobody noticed."""
        known = [(distance, self._of_file(file), file) for distance, file in files]
        made: list[str] = []
        total_s = 0.0
        for _, _, file in sorted(known):
            tests = sorted(self._by_file.get(file, []), key=lambda key: (self.of_test[key], key))
            for test in [*self._new(file), *tests] if tests else [file]:
                seconds = self.of_test.get(test, UNKNOWN_S)
                if total_s + seconds > most_s:
                    break
                total_s += seconds
                made.append(test)
        return made

    def _new(self, file: str) -> list[str]:
        """Functions of a file that were never timed."""
        known = {one.partition("::")[2].partition("[")[0] for one in self._by_file.get(file, [])}
        text = (self._root / file).read_text() if (self._root / file).is_file() else ""
        names = dict.fromkeys(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
        return [f"{file}::{name}" for name in names if name not in known]

    def _of_file(self, file: str) -> float:
        return sum(self.of_test[key] for key in self._by_file.get(file, [])) or UNKNOWN_S

    def learn(self, report: Path) -> None:
        """Keep how long the tests of a run took."""
        try:
            cases = list(ElementTree.parse(report).iter("testcase"))
        except (OSError, ElementTree.ParseError):
            return
        with self._lock:
            for case in cases:
                file, test = str(case.get("file")), f"{case.get('file')}::{case.get('name')}"
                if test not in self.of_test:
                    self._by_file[file].append(test)
                # The quickest time is the one without other programs' doing, and without what a session makes first.
                self.of_test[test] = min(float(case.get("time") or 0.0), self.of_test.get(test, math.inf))

    def forget(self, tests: Iterable[str]) -> None:
        """Tests that are not there any more."""
        with self._lock:
            for test in tests:
                self.of_test.pop(test, None)
                file = test.partition("::")[0]
                self._by_file[file] = [other for other in self._by_file[file] if other != test]

    def keep(self) -> None:
        """Write it down for the next time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.of_test))
