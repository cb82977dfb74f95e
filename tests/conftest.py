"""What holds for every test: signals, no property that fails for being slow, and where the reference data are."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Tests of our own plugin run pytest in pytest; pytest takes this line in the topmost conftest only.
pytest_plugins = ["pytester"]

settings.register_profile("edgejoule", deadline=None)
settings.load_profile("edgejoule")

# A shell starts what runs in the background with SIGINT ignored, and every program that a test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of reference data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EDGEJOULE_REFERENCE_DATA") or beside)
    if not folder.is_dir():
        pytest.skip(f"no reference data: neither EDGEJOULE_REFERENCE_DATA nor {beside} is a folder")
    return folder
