"""Every fault of the field on real programs, as the benchmark provokes it: the daemon lives, goes on, and says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unmet import unmet

from benchmarks.device.faults import FAULTS, Rig, provoke
from benchmarks.device.further_faults import FURTHER_FAULTS
from benchmarks.device.hostile_faults import HOSTILE_FAULTS, NEED_ROOT, retention_in_training, vanished_labels
from protos.model.bundle import Bundle

pytestmark = pytest.mark.processes


# Those that a run of all tests has the time for.
_QUICK = (*FAULTS, *FURTHER_FAULTS, vanished_labels, retention_in_training)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[] if fault in _QUICK else pytest.mark.slow, id=fault.__name__)
        for fault in (*FAULTS, *FURTHER_FAULTS, *HOSTILE_FAULTS)
    ],
)
def test_the_daemon_bends_and_goes_on(fault: Callable[[Rig], dict[str, Any]], bundle: Bundle, tmp_path: Path) -> None:
    if fault in NEED_ROOT and os.geteuid() != 0:
        unmet("only root may mount a disk in memory")
    found = provoke(fault, tmp_path, bundle, quicker=5.0)
    assert found["daemon_alive"], found
    assert found["recovered_s"] is not None, found
    assert found["reason_shown"], found
