"""Simulated boards wait as real ones do: virtual seconds cost nothing."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _short_hold() -> None:
    """In place of that of the room above."""
