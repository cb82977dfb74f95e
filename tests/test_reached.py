"""The program that lists what no test of the real thing reaches: what is a function to it, and what the real thing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "reached"))
from end_to_end import REAL, Function, functions, left

SOURCE = '''"""A module."""


def outer(x):
    """Says something."""
    if x:
        return 1

    def inner():
        return 2

    return inner


class Face:
    def promised(self):
        """Nothing yet."""
        raise NotImplementedError

    def kept(self):
        return [
            1,
        ]
'''


def test_functions_are_those_that_do_something_each_with_its_own_lines(tmp_path: Path) -> None:
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos/some.py").write_text(SOURCE)
    found = {function.name: function for function in functions(tmp_path, ("protos",))}
    assert set(found) == {"outer", "outer.inner", "Face.kept"}
    assert found["outer"].lines == {6, 7, 12}, "neither its docstring nor what is inside of a function in it"
    assert found["outer.inner"].lines == {10}


def test_one_line_of_a_function_is_enough_and_lines_of_another_module_are_none() -> None:
    one, other = Function("a.py", "f", 1, frozenset({2, 3})), Function("b.py", "g", 1, frozenset({2}))
    assert left({"a.py": {3, 9}}, [one, other]) == [other]


def test_what_opens_a_port_and_runs_a_daemon_is_there() -> None:
    assert set(REAL) <= {(function.path, function.name) for function in functions()}
