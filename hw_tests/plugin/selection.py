"""Which tests run: what a bench cannot do is skipped, and says why. Without a bench nothing passes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw_tests.bench.bench_factory import NO_BENCH, unavailable
from hw_tests.bench.features import FEATURES, check_known
from hw_tests.environment.environment import Environment
from hw_tests.plugin.options import MARKERS, environment_of
from protos.errors import EdgejouleError

__all__ = ["is_of_a_bench", "reason_to_skip"]

HERE = Path(__file__).parents[1]
_OURS = {name.partition("(")[0] for name in MARKERS}
_FIXTURES = {"bench", "bridge", "meter", "power", "flasher", "load", "board", "bench_files"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    environment = environment_of(config)
    try:
        lacking = unavailable(environment) if environment is not None else NO_BENCH
        for item in items:
            if is_of_a_bench(item) and (reason := lacking or reason_to_skip(item, config)):
                item.add_marker(pytest.mark.skip(reason=reason))
    except EdgejouleError as error:
        raise pytest.UsageError(str(error)) from error


def reason_to_skip(item: pytest.Item, config: pytest.Config) -> str | None:
    """Why this bench cannot run this test; None when it can.

    Raises:
        ConfigError: the test needs a feature that no bench can have.
    """
    environment = environment_of(config)
    assert environment is not None
    lacking = [name for name in _needed(item) if name not in environment.features]
    if lacking:
        said = "; ".join(f"{name} ({FEATURES[name]})" for name in lacking)
        return f"bench {environment.name} lacks {said}"
    if item.get_closest_marker("sim_only") and not environment.simulated:
        return f"only for a simulated bench, and {environment.name} is real"
    if item.get_closest_marker("real_only") and environment.simulated:
        return f"says nothing on a simulated bench, and {environment.name} is one"
    return _too_dangerous(item, config, environment)


def _too_dangerous(item: pytest.Item, config: pytest.Config, environment: Environment) -> str | None:
    if not item.get_closest_marker("destructive") or environment.simulated or config.getoption("--hw-destructive"):
        return None
    return f"changes bench {environment.name} for good: give --hw-destructive"


def _needed(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("needs"):
        if marker.kwargs or not marker.args or not all(isinstance(name, str) for name in marker.args):
            raise EdgejouleError(
                "needs() takes names of features", where=item.nodeid, fix='write needs("power-switch")'
            )
        yield from check_known(marker.args, item.nodeid)


def is_of_a_bench(item: pytest.Item) -> bool:
    """Tests of this folder; elsewhere those that ask for a bench."""
    if item.path.is_relative_to(HERE) and os.path.basename(item.path).startswith("test_"):
        return True
    fixtures = set(getattr(item, "fixturenames", ()))
    return bool(fixtures & _FIXTURES) or any(marker.name in _OURS for marker in item.iter_markers())
