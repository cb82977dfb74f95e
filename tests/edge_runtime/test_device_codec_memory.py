"""What error feedback owes, over rounds that are accepted, refused, late or lost, and over restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_coordinator import PeerCoordinator, order

from edge_runtime.config import Settings
from edge_runtime.daemon import process as daemon
from edge_runtime.daemon.device import Device
from edge_runtime.daemon.stopping import Stopping
from edge_runtime.round import codec_memory
from edge_runtime.round.codec_memory import CodecMemory
from edge_runtime.round.work import work
from protos.errors import RefusedError
from protos.model.bundle import Bundle
from protos.orders import CodecOrder, DeviceReport, TrainOrder
from protos.update.codecs import build, generator
from protos.update.contract import State
from protos.update.tensors import decode
from protos.update.trees import Tree
from protos.v1 import edgejoule_pb2 as pb

Make = Callable[..., Settings]
SIGN = CodecOrder("sign", {})
SHAPES = {"bias": (3,), "kernel": (4, 3)}
ACCEPTED, DUPLICATE, LATE, REJECTED = (
    pb.VERDICT_ACCEPTED, pb.VERDICT_DUPLICATE, pb.VERDICT_LATE, pb.VERDICT_REJECTED
)  # fmt: skip


def an_order(run_id: str = "run-1", number: int = 1, bundle_id: str = "sha256:1") -> TrainOrder:
    return TrainOrder(run_id, number, "plan", bundle_id, "head", (), 1, {}, SIGN, None, 60.0, 7)


def state(value: float) -> State:
    return {f"residual/{name}": np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def value_of(memory: CodecMemory, one: TrainOrder | None = None) -> float:
    return float(memory.recall(one or an_order(), build("sign", {}), SHAPES)["residual/bias"][0])


def test_a_memory_counts_from_the_moment_when_its_report_was_accepted(tmp_path: Path) -> None:
    memory = CodecMemory(tmp_path)
    assert value_of(memory) == 0.0
    memory.propose(an_order(), state(1.0))
    assert value_of(memory) == 0.0, "the report is on its way"
    memory.settle("run-1", 1, accepted=True)
    assert value_of(memory) == 1.0
    memory.settle("run-1", 1, accepted=True)
    memory.settle("run-1", 1, accepted=False)
    assert value_of(CodecMemory(tmp_path)) == 1.0, "whatever is said again"


def test_a_report_that_is_not_taken_changes_nothing(tmp_path: Path) -> None:
    memory = CodecMemory(tmp_path)
    memory.propose(an_order(number=1), state(1.0))
    memory.settle("run-1", 1, accepted=True)
    memory.propose(an_order(number=2), state(2.0))
    memory.settle("run-1", 2, accepted=False)
    assert value_of(memory) == 1.0
    memory.propose(an_order(number=3), state(3.0))
    memory.settle("run-1", 2, accepted=True)
    memory.settle("run-2", 3, accepted=True)
    assert value_of(memory) == 1.0, "an answer to another report is none to this one"


def test_runs_and_bundles_have_memories_of_their_own(tmp_path: Path) -> None:
    memory = CodecMemory(tmp_path)
    others = [an_order(), an_order("run-2"), an_order(bundle_id="sha256:2")]
    for number, other in enumerate(others, 1):
        memory.propose(other, state(float(number)))
        memory.settle(other.run_id, other.round, accepted=True)
    assert [value_of(memory, other) for other in others] == [1.0, 2.0, 3.0]


def test_memories_of_runs_long_over_are_given_up(tmp_path: Path) -> None:
    memory = CodecMemory(tmp_path)
    for number in range(40):
        memory.propose(an_order(f"run-{number}"), state(1.0))
        memory.settle(f"run-{number}", 1, accepted=True)
    assert len(list(tmp_path.iterdir())) <= codec_memory._KEEP
    assert value_of(memory, an_order("run-39")) == 1.0


def test_a_codec_without_memory_writes_nothing(tmp_path: Path) -> None:
    memory = CodecMemory(tmp_path)
    assert memory.recall(an_order(), build("eden", {}), SHAPES) == {}
    memory.propose(an_order(), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spoil", [b"", b"garbage", None])
def test_a_damaged_memory_begins_anew(tmp_path: Path, spoil: bytes | None) -> None:
    memory = CodecMemory(tmp_path)
    memory.propose(an_order(), state(1.0))
    memory.settle("run-1", 1, accepted=True)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1] if spoil is None else spoil)
    assert value_of(memory) == 0.0


def test_a_codec_that_needs_a_memory_is_refused_before_anything_is_spent_when_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(codec_memory, "write_tree", full)
    with pytest.raises(RefusedError, match=r"codec 'sign' needs a memory.*No space left.*free some space"):
        CodecMemory(tmp_path).recall(an_order(), build("sign", {}), SHAPES)
    assert CodecMemory(tmp_path).recall(an_order(), build("float32", {}), SHAPES) == {}
    assert list(tmp_path.iterdir()) == []


EVENTS = st.lists(st.sampled_from(["accepted", "late", "twice", "killed before", "killed after", "restart"]))


@given(EVENTS)
def test_owed_plus_sent_is_all_that_was_asked_for_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    """Error feedback's own law, with every loss that a device can have; "killed" is between report and answer."""
    folder = tmp_path_factory.mktemp("memory")
    memory, codec = CodecMemory(folder), build("sign", {})
    rng = np.random.default_rng(1)
    asked = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    sent = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for number, event in enumerate(events, 1):
        one = an_order(number=number)
        change: Tree = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        tensors, after = codec.encode(change, memory.recall(one, codec, SHAPES), generator(1, number))
        memory.propose(one, after)
        if event.startswith("killed") or event == "restart":
            memory = CodecMemory(folder)
        taken = event not in ("late", "killed before")
        for _ in range(2 if event == "twice" else 1):
            memory.settle(one.run_id, number, accepted=taken)
        if taken:
            decoded = decode(tensors, SHAPES)
            for name in SHAPES:
                asked[name] += change[name]
                sent[name] += decoded[name]
    owed = memory.recall(an_order(), codec, SHAPES)
    for name in SHAPES:
        np.testing.assert_allclose(sent[name] + owed[f"residual/{name}"], asked[name], rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- the whole device, on loopback


@pytest.fixture
def exact(settings: Make, bundle: Bundle, tmp_path: Path) -> Iterator[Callable[[int], Tree]]:
    """The change that a device makes in a round, before any coding. It depends on the order alone."""
    device = Device(settings(state=tmp_path / "exact", sensor="none"))
    bench = device.take_up(bundle)

    def change(number: int) -> Tree:
        report = work(order(bundle, number, codec=CodecOrder("float32", {})), bench, lambda: False)
        return decode(report.update, bundle.manifest.head.shapes())

    yield change
    device.close()


def expected(exact: Callable[[int], Tree], bundle: Bundle, rounds: list[tuple[int, bool]]) -> list[Any]:
    """The updates that error feedback makes when these rounds are taken or not."""
    codec = build("sign", {})
    memory, updates = codec.init(bundle.manifest.head.shapes()), []
    for number, taken in rounds:
        tensors, after = codec.encode(exact(number), memory, generator(7, "encode", "pi-1", number))
        updates.append(tensors)
        memory = after if taken else memory
    return updates


def serve(settings: Settings) -> None:
    daemon.run(settings)


def updates_of(peer: PeerCoordinator) -> list[Any]:
    return [peer.read(index).update for index in range(len(peer.reports))]


def test_the_residual_goes_on_after_accepted_rounds_and_stays_after_others(
    peer: PeerCoordinator, settings: Make, bundle: Bundle, exact: Callable[[int], Tree]
) -> None:
    verdicts = [ACCEPTED, LATE, ACCEPTED, REJECTED, ACCEPTED, ACCEPTED]

    def answer(context: Any) -> None:
        peer.verdict = verdicts[len(peer.reports) - 1]

    peer.before_verdict = answer
    peer.orders.extend(order(bundle, number, codec=SIGN) for number in range(1, 7))
    serve(settings(coordinator=peer.address, max_rounds=6))
    rounds = [(number, verdict == ACCEPTED) for number, verdict in enumerate(verdicts, 1)]
    assert updates_of(peer) == expected(exact, bundle, rounds)


def test_a_restart_between_rounds_does_not_forget(
    peer: PeerCoordinator, settings: Make, bundle: Bundle, exact: Callable[[int], Tree]
) -> None:
    for number in (1, 2, 3):
        peer.orders.append(order(bundle, number, codec=SIGN))
        serve(settings(coordinator=peer.address, max_rounds=1))
    assert updates_of(peer) == expected(exact, bundle, [(1, True), (2, True), (3, True)])


@pytest.mark.parametrize(("verdict", "taken"), [(DUPLICATE, True), (ACCEPTED, True), (LATE, False)])
def test_an_answer_that_comes_after_a_restart_counts_once(
    peer: PeerCoordinator, settings: Make, bundle: Bundle, exact: Callable[[int], Tree], verdict: int, taken: bool
) -> None:
    stopping = Stopping()

    def die_before_the_answer(context: Any) -> None:
        stopping.request("test")
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone before the answer")

    peer.before_verdict = die_before_the_answer
    peer.orders.append(order(bundle, 1, codec=SIGN))
    daemon.run(settings(coordinator=peer.address), stopping=stopping)
    stopping.close()
    tries = len(peer.reports)
    peer.verdict = verdict  # type: ignore[assignment]

    def the_left_over_report_is_answered_so(context: Any) -> None:
        peer.verdict = verdict if peer.read().round == 1 else ACCEPTED  # type: ignore[assignment]

    peer.before_verdict = the_left_over_report_is_answered_so
    peer.orders.extend([order(bundle, 2, codec=SIGN), order(bundle, 3, codec=SIGN)])
    serve(settings(coordinator=peer.address, max_rounds=2))
    wanted = expected(exact, bundle, [(1, taken), (2, True), (3, True)])
    assert updates_of(peer) == [wanted[0]] * tries + wanted


def test_a_round_without_a_step_sends_nothing_that_is_owed_and_forgets_nothing(
    settings: Make, bundle: Bundle, exact: Callable[[int], Tree]
) -> None:
    device = Device(settings(sensor="none"))
    bench = device.take_up(bundle)

    def done(number: int, **changes: Any) -> DeviceReport:
        report = work(order(bundle, number, codec=SIGN, **changes), bench, lambda: False)
        device.memory.settle("run-1", number, accepted=True)
        return report

    updates = [done(1).update]
    idle = done(2, deadline_s=0.0)
    assert idle.steps_done == 0
    updates.append(done(3).update)
    device.close()
    assert updates == expected(exact, bundle, [(1, True), (3, True)])


def test_a_device_without_room_for_a_memory_declines_with_the_reason(
    peer: PeerCoordinator, settings: Make, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(codec_memory, "write_tree", full)
    peer.orders.extend([order(bundle, 1, codec=SIGN), order(bundle, 2)])
    serve(settings(coordinator=peer.address, max_rounds=1))
    assert "codec 'sign' needs a memory between rounds" in peer.leaves[0]
    assert [peer.read(index).round for index in range(len(peer.reports))] == [2]
