"""Where published models and data are that some tests compare with. They are not in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unmet import unmet

_NAMED = "EDGEJOULE_REFERENCE_DATA"


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference data. Where the variable names it, it must be there; beside the clone it may be."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(_NAMED) or beside)
    if not folder.is_dir():
        named = bool(os.environ.get(_NAMED))
        what = f"{_NAMED}={folder} is no folder" if named else f"neither {_NAMED} nor {beside} is a folder"
        unmet(f"no reference data: {what}", required=named)
    return folder


def part_of(reference: Path, *names: str) -> Path:
    """A folder of the reference data."""
    folder = reference.joinpath(*names)
    if not folder.is_dir():
        unmet(f"no reference data: {folder} is no folder", required=bool(os.environ.get(_NAMED)))
    return folder
