"""Every example in a docstring is true."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protos", "edge_runtime", "coordinator", "firmware_tools", "hw_tests")
# TensorFlow takes seconds to import, and its rooms have tests of their own.
HEAVY = re.compile(r"^(?:import|from) (?:tensorflow|keras)\b", re.MULTILINE)


def modules_with_examples() -> list[str]:
    """Dotted names of modules that show examples, generated code left out."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            if ">>> " in text and not path.stem.endswith(("_pb2", "_pb2_grpc")) and not HEAVY.search(text):
                found.append(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_are_true(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.REPORT_NDIFF)
    assert results.attempted > 0, "examples stand where doctest does not find them"
    assert results.failed == 0


def test_examples_are_looked_for_where_they_are() -> None:
    packages = {name.partition(".")[0] for name in modules_with_examples()}
    assert {"protos", "edge_runtime", "coordinator"} <= packages
