"""A fleet at the other end of a line that is slow, late and loses packets: `make bad-line`, shortened."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bad_line_sim
import two_hosts

_WHY_NOT = two_hosts.why_not() or ("" if Path("/dev/net/tun").exists() else "there is no /dev/net/tun")
pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.skipif(bool(_WHY_NOT), reason=_WHY_NOT)]


def test_rounds_over_a_bad_line_close_by_their_quorum_with_the_right_sum(tmp_path: Path) -> None:
    found = bad_line_sim.rounds_by_quorum(tmp_path, 5)
    assert found["sum"] == "right"


@pytest.mark.skipif(
    not _WHY_NOT and Path(bad_line_sim.CONGESTION).read_text().strip() != "bbr",
    reason="TCP of this machine takes each loss for a full line: a head of a megabyte does not come down",
)
def test_a_large_report_arrives_over_a_bad_line_that_is_cut(tmp_path: Path) -> None:
    found = bad_line_sim.upload(tmp_path)
    assert found["verdict"] == "accepted"
    assert found["held_after_cut"] >= found["held_at_cut"]
