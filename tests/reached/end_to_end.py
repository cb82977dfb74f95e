"""Which functions does no test reach that goes through a served coordinator or a real daemon? `make reached` tells.

A function that only tests with ready-made inputs call may be right and wired to nothing. Tests run under `coverage`,
which says of each line which test reached it, and in which process. A test counts that opened a coordinator's port
(`serve`) or ran a daemon (`run_daemon`) while it lasted, and so does every other process of a test that did one or the
other. What is left is printed by file. A process that is killed takes with it what it reached.

    .venv/bin/python tests/reached/end_to_end.py [--tests tests/coordinator ...] [--data FOLDER] [--json OUT]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("coordinator", "edge_runtime", "protos")
# What generated code and faces for people other than operators and devices reach is not looked at.
LEFT_OUT = ("protos/v1/",)
TESTS = ("tests/coordinator", "tests/edge_runtime", "tests/golden", "tests/network", "tests/test_first_hour.py")
# A test, or a process, that reached one of these is one of the real thing.
REAL = (("coordinator/server/serving.py", "serve"), ("edge_runtime/daemon/process.py", "run"))
_SETTINGS = """
[run]
parallel = true
branch = false
source = {sources}
data_file = {data}
patch = subprocess
sigterm = true
concurrency = thread
disable_warnings = no-data-collected, module-not-imported, module-not-measured, couldnt-parse
"""
_PLUGIN = '''
"""Tells coverage which test it is."""
import coverage
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    now = coverage.Coverage.current()
    if now is not None:
        now.switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        if now is not None:
            now.switch_context("")
'''


@dataclass(frozen=True)
class Function:
    """A function of the product.

    Attributes:
        path: of its module, from the root.
        name: qualified.
        lines: of its own statements, without those of functions inside it.
    """

    path: str
    name: str
    line: int
    lines: frozenset[int]


def functions(root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[Function]:
    """All that do something: not those whose body is a docstring, `...` or `raise NotImplementedError`."""
    found: list[Function] = []
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            name = str(path.relative_to(root))
            if not name.startswith(LEFT_OUT):
                found += _inside(name, ast.parse(path.read_text()), "")
    return found


def _inside(path: str, node: ast.AST, prefix: str) -> Iterator[Function]:
    for function in ast.iter_child_nodes(node):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = frozenset(_own_lines(function))
            if lines:
                yield Function(path, prefix + function.name, function.lineno, lines)
            yield from _inside(path, function, f"{prefix}{function.name}.")
        elif isinstance(function, ast.ClassDef):
            yield from _inside(path, function, f"{prefix}{function.name}.")
        else:
            yield from _inside(path, function, prefix)


def _own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[int]:
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    if len(body) == 1 and isinstance(body[0], ast.Raise):
        return
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if isinstance(node, ast.stmt):
            yield node.lineno
        waiting += ast.iter_child_nodes(node)


def play(tests: Sequence[str], data: Path, root: Path = ROOT, more: Sequence[str] = ()) -> int:
    """Run tests under coverage; the files of what they reached go to a folder. Gives pytest's exit code."""
    data.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="reached-") as folder:
        settings = Path(folder) / "settings"
        sources = ",".join(str(root / package) for package in PACKAGES)
        settings.write_text(_SETTINGS.format(sources=sources, data=data / "reached"))
        (Path(folder) / "reached_plugin.py").write_text(_PLUGIN)
        search = os.pathsep.join(filter(None, (str(root), folder, os.environ.get("PYTHONPATH"))))
        words = ["-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q", "-p", "reached_plugin",
                 "-p", "no:cacheprovider", "-m", "not slow and not arm", *more, *tests]  # fmt: skip
        done = subprocess.run([sys.executable, *words], cwd=root, env={**os.environ, "PYTHONPATH": search}, check=False)
    return done.returncode


def reached(data: Path, root: Path = ROOT) -> dict[str, set[int]]:
    """Lines by module that the real thing reached."""
    from coverage import CoverageData

    marks = {function.path: function.lines for function in functions(root) if (function.path, function.name) in REAL}
    assert len(marks) == len(REAL), "what opens a port, or runs a daemon, has another name now"
    found: dict[str, set[int]] = defaultdict(set)
    for file in sorted(data.glob("reached.*")):
        part = CoverageData(basename=str(file))
        part.read()
        by_context: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for measured in part.measured_files():
            path = os.path.relpath(measured, root)
            for line, contexts in part.contexts_by_lineno(measured).items():
                for context in contexts:
                    by_context[context][path].add(line)
        for context, modules in by_context.items():
            # Outside of any test, what the process of the tests itself did is imports and fixtures of sessions.
            real = any(modules.get(path, set()) & lines for path, lines in marks.items())
            if real and (context or len(by_context) == 1):
                for path, lines in modules.items():
                    found[path] |= lines
    return found


def left(found: dict[str, set[int]], among: Sequence[Function]) -> list[Function]:
    """Functions of which nothing was reached."""
    return [function for function in among if not function.lines & found.get(function.path, set())]


def main(words: Sequence[str] | None = None) -> int:
    """Run, and print what is left."""
    parser = argparse.ArgumentParser(description="Which functions does no test of the real thing reach?")
    parser.add_argument("--tests", nargs="*", default=list(TESTS), help="files and folders of tests")
    parser.add_argument("--data", type=Path, help="folder of what was reached: kept, and read if it is there")
    parser.add_argument("--only-read", action="store_true", help="run nothing, read --data")
    parser.add_argument("--json", type=Path, help="write the list there")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="reached-data-") as scratch:
        data = asked.data or Path(scratch)
        if not asked.only_read:
            code = play(asked.tests, data.resolve())
            print(f"pytest ended with code {code}")
        every = functions()
        lost = left(reached(data.resolve()), every)
    by_path: dict[str, list[Function]] = defaultdict(list)
    for function in lost:
        by_path[function.path].append(function)
    for path, those in sorted(by_path.items()):
        print(f"{path}: " + ", ".join(f"{function.name}:{function.line}" for function in those))
    print(f"{len(lost)} of {len(every)} functions are reached by no test of a served coordinator or a real daemon")
    if asked.json:
        rows = [{"path": function.path, "name": function.name, "line": function.line} for function in lost]
        asked.json.write_text(json.dumps({"functions": len(every), "left": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
