"""Versions with a defect, which the bench's tests of upgrades bring to a board: each still fits the tree."""

from __future__ import annotations

import pytest

from hw_tests.boards import defects
from hw_tests.boards.wheels import ROOT, with_defect

DEFECTS = {name: value for name, value in vars(defects).items() if name.isupper() and isinstance(value, dict)}


@pytest.mark.parametrize("name", sorted(DEFECTS))
def test_a_defect_stands_where_it_is_meant_to_and_compiles(name: str) -> None:
    for path, (old, new) in DEFECTS[name].items():
        with_defect((ROOT / path).read_text(), path, old, new)


def test_there_are_defects() -> None:
    assert {"CRASHES_AT_IMPORT", "CRASHES_AT_START", "HANGS", "EXITS_WHEN_READY", "HANGS_WHEN_READY"} <= set(DEFECTS)
