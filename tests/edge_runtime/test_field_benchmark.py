"""The benchmark of a device in the field: wires on real programs, and what counts as a limit passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from peer_coordinator import PeerCoordinator

from benchmarks import field
from benchmarks.device import wiring as field_wiring
from benchmarks.device.idle import Counting
from benchmarks.device.wiring import FAULTS
from protos.model.bundle import Bundle
from protos.v1 import edgejoule_pb2 as pb
from protos.v1 import edgejoule_pb2_grpc as rpc

GOOD: dict[str, Any] = {
    "faults": [{"name": "a", "daemon_alive": True, "recovered_s": 1.0, "reason_shown": "why"}],
    "wiring": [
        {"fault": "none", "flag": "", "joules_known": True, "steps_within_a_budget": 3, "daemon_alive": True},
        {"fault": "x", "flag": "bus-low", "joules_known": False, "steps_within_a_budget": 0, "daemon_alive": True},
    ],
    "idle": {"cpu_share": 0.001, "calls_per_day": 144.0, "bytes_per_day": 90_000.0},
    "memory": [{"case": "waiting", "rss_mb": 80.0}],
    "budget": [{"foreign_load_percent": 50, "max_of_budget": 0.97}],
    "switching": {"predictions": 10_000, "switches": 50, "torn": 0, "versions": 51},
    "infer": None,
    "stop_s": {"training": 1.0},
}


def test_each_limit_is_looked_at() -> None:
    assert field.beyond(GOOD) == []
    first, second = GOOD["wiring"]
    for part, bad, word in (
        ("faults", [GOOD["faults"][0] | {"recovered_s": None}], "why"),
        ("wiring", [first | {"joules_known": False}], "joules known: False"),
        ("wiring", [second | {"joules_known": True}], "joules known: True"),
        ("wiring", [second | {"steps_within_a_budget": 9}], "9 steps within a budget"),
        ("idle", GOOD["idle"] | {"cpu_share": 0.01}, "cpu_share"),
        ("idle", GOOD["idle"] | {"calls_per_day": 43_000.0}, "calls_per_day"),
        ("stop_s", {"training": 62.0}, "62 s"),
        ("failed", {"budget: 50 %": "TimeoutError: why"}, "not measured: TimeoutError: why"),
        ("budget", [{"foreign_load_percent": 100, "max_of_budget": 1.33}], "1.33 of it under 100 % foreign load"),
        ("memory", [{"case": "many", "rss_mb": 744.0}], "many: 744.0 MB"),
        ("switching", {"predictions": 10_000, "switches": 50, "torn": 1, "versions": 51}, "1 of 10000"),
    ):
        (said,) = field.beyond(GOOD | {part: bad})
        assert word in said


def test_a_run_that_was_cut_goes_on_with_what_it_lacks(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.json.rows", list[str]()

    def piece(name: str) -> str:
        asked.append(name)
        if name == "bad" and asked.count("bad") == 1:
            raise TimeoutError("it did not come")
        return f"{name} found"

    first = field.Rows(path, resume=False, quick=False)
    assert first.measured("faults", "good", lambda: piece("good")) == ("good found", None)
    assert first.measured("faults", "bad", lambda: piece("bad")) == (None, "TimeoutError: it did not come")
    with path.open("ab") as file:
        file.write(b'{"part": "idle", "pie')
    again = field.Rows(path, resume=True, quick=False)
    for _ in range(2):
        assert again.measured("faults", "good", lambda: piece("good")) == ("good found", None)
        assert again.measured("faults", "bad", lambda: piece("bad"))[1] is None or len(asked) == 2
        again = field.Rows(path, resume=True, quick=False)
    assert asked == ["good", "bad", "bad"]
    # What a quick run measured is nothing to one that is not.
    assert field.Rows(path, resume=True, quick=True).measured("faults", "good", lambda: piece("good"))[1] is None
    assert asked[-1] == "good"
    field.Rows(path, resume=False, quick=False)
    assert not path.exists()


def test_each_part_has_pieces_of_names_of_their_own(bundle: Bundle, tmp_path: Path) -> None:
    for name, part in field.PARTS.items():
        names = [piece for piece, _ in part.pieces(tmp_path / name, bundle, False)]
        assert names
        assert len(set(names)) == len(names)
    assert not list(tmp_path.iterdir())


def test_calls_and_bytes_are_counted_on_their_way() -> None:
    peer = PeerCoordinator()
    proxy = Counting(peer.address)
    with grpc.insecure_channel(proxy.address) as channel:
        stub = rpc.DeviceServiceStub(channel)  # type: ignore[no-untyped-call]
        for _ in range(3):
            stub.NextOrder(pb.NextOrderRequest(device_id="pi-1", session="s" * 32), timeout=30)
    proxy.close()
    peer.stop()
    assert proxy.calls == 3
    assert 3 * 40 < proxy.bytes < 20_000


@pytest.mark.processes
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, marks=[] if fault.flag == "reversed" else pytest.mark.slow, id=fault.name)
        for fault in FAULTS
    ],
)
def test_a_wire_is_told_and_spends_nothing_on_real_programs(
    fault: field_wiring.Fault, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_wiring, "FAULTS", (fault,))
    (row,) = field_wiring.rows(tmp_path, bundle)
    assert field.beyond({"wiring": [row]}) == []
