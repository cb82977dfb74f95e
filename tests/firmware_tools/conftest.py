"""Tests on the simulated machine are skipped, with the reason, where it cannot be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware_tools.bridge.machine.build import APT, missing

_ON_MACHINES = tuple(Path(__file__).with_name(name) for name in ("machine", "metering"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if what := missing():
        for item in items:
            if any(item.path.is_relative_to(folder) for folder in _ON_MACHINES):
                item.add_marker(pytest.mark.skip(reason=f"{what}: {APT}"))
