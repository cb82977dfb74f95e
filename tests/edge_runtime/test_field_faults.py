"""Every fault of the field on real programs, as the benchmark provokes it: the daemon lives, goes on, and says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device.faults import FAULTS, Rig, provoke
from benchmarks.device.further_faults import FURTHER_FAULTS
from protos.model.bundle import Bundle

pytestmark = pytest.mark.processes


@pytest.mark.parametrize("fault", [*FAULTS, *FURTHER_FAULTS], ids=lambda one: one.__name__)
def test_the_daemon_bends_and_goes_on(fault: Callable[[Rig], dict[str, Any]], bundle: Bundle, tmp_path: Path) -> None:
    found = provoke(fault, tmp_path, bundle, quicker=5.0)
    assert found["daemon_alive"], found
    assert found["recovered_s"] is not None, found
    assert found["reason_shown"], found
