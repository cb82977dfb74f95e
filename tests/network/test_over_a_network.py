"""The whole way of a board into a fleet on another host, and out of it again: `make net-sim`, as a test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import net_sim
import two_hosts

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(two_hosts.why_not() is not None, reason=two_hosts.why_not() or ""),
]


@pytest.mark.parametrize(
    "between",
    ["what there is", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cable", "nft", "slirp4netns"))],
)
def test_a_board_on_another_host_joins_works_survives_and_is_shut_out(tmp_path: Path, between: str) -> None:
    ways, missing = two_hosts.nats()
    ways["cable"] = two_hosts.two_hosts
    if between == "what there is":
        # A NAT where there can be one.
        between = next(iter(ways))
    if between not in ways:
        pytest.skip(f"no router with NAT: {missing}")
    rows = {row["step"]: row for row in net_sim.play(tmp_path, ways[between])}
    enrolment = rows["coordinator enroll, one line pasted on the board"]
    # A request and a certificate: a few kilobytes, and no secret among them.
    assert 0 < enrolment["bytes_up"] < 8_000
    assert 0 < enrolment["bytes_down"] < 8_000
    assert rows["a round with joules"]["bytes_up"] > 0
