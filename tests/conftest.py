"""What holds for every test: signals, no property that fails for being slow, and where the reference data are."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator

import pytest
from file_order import longest_first
from hypothesis import settings
from kept_models import KEEP
from reference_data import reference
from warm_tensorflow import WarmTensorFlow

from firmware_tools.loading import loading

__all__ = ["reference"]

# Tests of our own plugin run pytest in pytest; pytest takes this line in the topmost conftest only.
pytest_plugins = ["pytester"]

_KEPT = pytest.StashKey[str]()
_HEAVY = pytest.StashKey[list[str]]()
# Seconds and hundreds of megabytes in every worker, whichever of them has the test that needs it.
_HEAVY_MODULES = frozenset({"keras", "tensorflow", "scipy.stats", "sklearn", "matplotlib", "torch", "ray"})


def pytest_configure(config: pytest.Config) -> None:
    """Models that a worker has made are there for all others of this run; and no test sees how wide the terminal is.

    Python's readline, which pytest loads, puts the size of the terminal into the environment of every child, where
    tables look for it; some of it behind the back of ``os.environ``.
    """
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
        os.unsetenv(name)
    if not os.environ.get(KEEP):
        config.stash[_KEPT] = os.environ[KEEP] = tempfile.mkdtemp(prefix="edgejoule-models-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """They go with the run that made them."""
    if folder := config.stash.get(_KEPT, None):
        del os.environ[KEEP]
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What is collected stays for the whole run: the collector of cycles need not look at it, now or later.

    Half a million objects of modules and tests, looked at again and again, are a fifth of a worker's time.
    """
    with loading():
        collected = yield
    session.config.stash[_HEAVY] = sorted(_HEAVY_MODULES & sys.modules.keys())
    return collected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    longest_first(items)


@pytest.fixture(scope="session")
def loaded_by_collecting(pytestconfig: pytest.Config) -> list[str]:
    """The large libraries that were loaded before any test ran: a worker collects every file."""
    return pytestconfig.stash[_HEAVY]


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
