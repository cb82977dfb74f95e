"""The files that take longest begin first, all of a file's tests stay together, and collecting them is cheap."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_order import LONGEST_FIRST, missing

ROOT = Path(__file__).resolve().parents[1]


def test_every_file_that_begins_early_is_there_once() -> None:
    assert missing() == []
    assert len(set(LONGEST_FIRST)) == len(LONGEST_FIRST)


def test_a_session_begins_with_them(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\npythonpath = .\n")
    pytester.makeconftest(
        "import file_order, pathlib\n"
        "file_order.HERE = pathlib.Path(__file__).parent\n"
        "file_order.LONGEST_FIRST = ('test_c.py', 'test_b.py')\n"
        "def pytest_collection_modifyitems(items):\n    file_order.longest_first(items)\n"
    )
    pytester.path.joinpath("file_order.py").write_text((ROOT / "tests" / "file_order.py").read_text())
    for name in "abcd":
        pytester.path.joinpath(f"test_{name}.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    done = pytester.runpytest_subprocess("--collect-only", "-q", "-p", "no:cacheprovider")
    order = [line.partition("::")[0] for line in done.outlines if "::" in line]
    assert order == [f"test_{name}.py" for name in "ccbbaadd"]


def test_the_suite_is_run_in_that_order() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "--dist loadfile --no-loadscope-reorder" in text, "xdist would put the files with most tests first"


def test_a_worker_loads_no_large_library_to_collect(loaded_by_collecting: list[str]) -> None:
    assert loaded_by_collecting == [], "import it in the test that needs it: every worker collects every file"
