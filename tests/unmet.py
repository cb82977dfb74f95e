"""What a test does when this machine cannot run it: it skips and says why. Where nobody would read that, it fails."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def unmet(reason: str, *, required: bool | None = None) -> NoReturn:
    """Skip, or fail where it must not be skipped.

    Args:
        reason: what is missing and what to do.
        required: that it must be there. Unsaid: in continuous integration, where ``CI`` is set, as `.ci/run` does.
    """
    if in_ci() if required is None else required:
        pytest.fail(f"must not be skipped here: {reason}", pytrace=False)
    pytest.skip(reason)


def in_ci() -> bool:
    """Whether continuous integration runs the tests."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")
