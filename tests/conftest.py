"""What holds for every test: signals, no property that fails for being slow, and where the reference data are."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from file_order import longest_first
from hypothesis import settings
from kept_models import KEEP
from reference_data import reference
from warm_tensorflow import WarmTensorFlow

__all__ = ["reference"]

# Tests of our own plugin run pytest in pytest; pytest takes this line in the topmost conftest only.
pytest_plugins = ["pytester"]

_KEPT = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Models that a worker has made are there for all others of this run."""
    if not os.environ.get(KEEP):
        config.stash[_KEPT] = os.environ[KEEP] = tempfile.mkdtemp(prefix="edgejoule-models-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """They go with the run that made them."""
    if folder := config.stash.get(_KEPT, None):
        del os.environ[KEEP]
        shutil.rmtree(folder, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    longest_first(items)


@pytest.fixture(scope="session")
def tensorflow() -> Iterator[WarmTensorFlow]:
    """TensorFlow, loaded once."""
    warm = WarmTensorFlow()
    yield warm
    warm.close()


settings.register_profile("edgejoule", deadline=None)
settings.load_profile("edgejoule")

# A shell starts what runs in the background with SIGINT ignored, and every program that a test starts inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
