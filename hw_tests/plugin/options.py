"""Options and markers of the bench, and the environment that they choose."""

from __future__ import annotations

import os
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from hw_tests.bench.bench_factory import chosen_environment
from hw_tests.environment.environment import Environment
from protos.errors import EdgejouleError

__all__ = ["ARTIFACTS", "MARKERS", "OPTIONS", "artifacts_folder", "environment_of"]

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
OPTIONS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "--hw-env": {"metavar": "FILE", "help": "environment of the bench (or HW_ENV, or labgrid's LG_ENV)"},
        "--hw-sim": {"action": "store_true", "help": "the simulated bench; needs no hardware"},
        "--hw-artifacts": {"metavar": "DIR", "help": "measurements and what is kept go here (hw_tests/artifacts)"},
        "--hw-destructive": {"action": "store_true", "help": "tests that change a real bench for good run too"},
        "--hw-wait": {
            "metavar": "SECONDS", "type": float, "default": 0.0,
            "help": "wait so long for a bench that somebody else has (0: fail at once, and say who)",
        },
        "--hw-keep": {"action": "store_true", "help": "leave the power on when a test has failed"},
        "--hw-soak-s": {"metavar": "SECONDS", "type": float, "help": "length of the soak (the environment's soak_s)"},
    }
)  # fmt: skip
MARKERS = MappingProxyType(
    {
        "needs(*features)": "the bench must have all of these; skipped, naming what it lacks, when it has not",
        "destructive": "changes the bench for good; on a real one only with --hw-destructive",
        "sim_only": "can only be done on the simulated bench",
        "real_only": "says nothing on the simulated bench",
    }
)
_ENVIRONMENT = pytest.StashKey[Environment | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("hw", "benches")
    for name, how in OPTIONS.items():
        group.addoption(name, **how)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    try:
        config.stash[_ENVIRONMENT] = chosen_environment(
            config.getoption("--hw-env"), simulated=config.getoption("--hw-sim"), variables=os.environ
        )
    except EdgejouleError as error:
        raise pytest.UsageError(str(error)) from error


def environment_of(config: pytest.Config) -> Environment | None:
    """The environment of this session; None without a bench."""
    return config.stash[_ENVIRONMENT]


def artifacts_folder(config: pytest.Config) -> Path:
    """Where files of this session go; it need not be there yet."""
    named = config.getoption("--hw-artifacts")
    return Path(named).absolute() if named else ARTIFACTS
