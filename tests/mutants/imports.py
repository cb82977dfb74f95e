"""Which tests have to do with a module: those that import it, then those that import what imports it.

Helpers of tests count as part of the test that imports them.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("protos", "edge_runtime", "coordinator", "firmware_tools")


class Imports:
    """Who imports whom in a tree.

    Args:
        root: of the tree.
        tests: folders of tests, from the root.
    """

    def __init__(self, root: Path, tests: tuple[str, ...]) -> None:
        self._root = root
        self._modules: dict[str, Path] = {}
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                self._modules[".".join(path.relative_to(root).with_suffix("").parts)] = path
        self._helpers = {
            path.stem: path for path in sorted((root / "tests").rglob("*.py")) if not path.name.startswith("test_")
        }
        self._known: dict[Path, set[Path]] = {}
        self._distances: dict[str, dict[Path, int]] = {}
        for folder in tests:
            for path in sorted((root / folder).rglob("test_*.py")):
                self._distances[str(path.relative_to(root))] = self._from(path)

    def tests(self, module: str) -> list[tuple[int, str]]:
        """Files of tests by their distance from a module, the nearest first: 0 imports it itself. Those in a folder
        that is named like the module's count as one nearer, and so do those whose own name has the module's in it."""
        path, room = self._root / module, str(Path("tests", module).parent)
        found = []
        for test, there in self._distances.items():
            if path in there:
                distance = max(0, there[path] - (str(Path(test).parent) == room))
                found.append((distance - (f"_{path.stem}" in f"_{Path(test).stem}"), test))
        return sorted(found)

    def _from(self, test: Path) -> dict[Path, int]:
        """How far it is from a test to each module."""
        far: dict[Path, int] = {}
        queue = deque([(test, 0)])
        conftests = [parent / "conftest.py" for parent in test.parents if (parent / "conftest.py").exists()]
        queue += [(conftest, 1) for conftest in conftests if self._root in conftest.parents]
        seen: dict[Path, int] = {}
        while queue:
            path, distance = queue.popleft()
            if seen.get(path, 99) <= distance:
                continue
            seen[path] = distance
            for each_path in self._imported(path):
                helper = each_path in self._helpers.values()
                if not helper:
                    far[each_path] = min(far.get(each_path, 99), distance)
                queue.append((each_path, distance if helper else distance + 1))
        return far

    def _imported(self, path: Path) -> set[Path]:
        if path not in self._known:
            found: set[Path] = set()
            for node in _statements(ast.parse(path.read_text())):
                names: list[str] = []
                if isinstance(node, ast.Import):
                    names = [name.name for name in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
                for name in names:
                    there = self._modules.get(name) or self._helpers.get(name)
                    if there is not None:
                        found.add(there)
            self._known[path] = found
        return self._known[path]


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements, within functions too, but no expression of theirs: most of a tree is these."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())
