"""Heads as differences over real gRPC: devices that miss rounds, lose what they hold, and a coordinator that restarts.

The devices' end is the real one (`edge_runtime/round/held_heads.py`), on a real disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.run import resume
from coordinator.store.database import Database, sqlite_url
from coordinator.store.models import device_heads as shown
from coordinator.store.models import heads
from edge_runtime.round.held_heads import CannotRebuildError, HeldHeads
from protos.convert.head_transfers import serialise_difference
from protos.model.bundle import open_bundle
from protos.orders import Holding, TrainOrder, Verdict
from protos.update.tensors import decode
from protos.update.trees import Tree, add_scaled, shapes, version

Fleet = Callable[..., Any]
CODED = '[downlink]\ncodec = "uniform_stochastic"\nbits = 2\nbucket = 64\n'


@pytest.fixture
def bundle(tmp_path: Path, tools: Any) -> Path:
    """Wide enough for a code to be smaller than the head."""
    path: Path = tools.bundle(tmp_path / "wide", width=60, classes=5)
    return path


class Follower:
    """A scripted device that keeps heads as the real one does."""

    def __init__(self, device: Any, folder: Path, bundle: Path) -> None:
        self.device, self.folder = device, folder
        folder.mkdir(exist_ok=True)
        self.start = open_bundle(bundle).initial_head()
        self.held = HeldHeads(folder)
        self.orders: list[TrainOrder] = []

    def take(self, number: int) -> tuple[TrainOrder, Tree]:
        """The order of a round, and the head that it means."""
        while True:
            order = self.device.order(number, self.held.holding())
            self.orders.append(order)
            try:
                return order, self.held.receive(order, self.start)
            except CannotRebuildError:
                continue

    def answer(self, number: int) -> Tree:
        """Do a round: the change is a function of device and round. Gives the head that it started from."""
        order, head = self.take(number)
        receipt = self.device.send(self.device.answer(order, change_of(self.device.card.device_id, number, head)))
        assert receipt.verdict is Verdict.ACCEPTED, receipt.reason
        return head

    def forget(self) -> None:
        """Lose the disk."""
        for path in self.folder.iterdir():
            path.unlink()
        self.held = HeldHeads(self.folder)


def change_of(device_id: str, number: int, head: Tree) -> Tree:
    rng = np.random.default_rng([ord(device_id[0]), number])
    return {name: (0.1 * rng.standard_t(3, size=array.shape)).astype(np.float32) for name, array in head.items()}


def on_record(state: Path, run_id: str) -> Tree:
    """What the coordinator has written down that devices hold."""
    db = Database(sqlite_url(state / "coordinator.db"))
    try:
        with db.reading() as connection:
            found = shown.get(connection, run_id)
    finally:
        db.close()
    assert found is not None
    return found[0]


def same_bits(left: Tree, right: Tree) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in right)


def test_devices_that_miss_rounds_or_lose_their_disk_hold_what_is_on_record(
    address: str, bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those who left do not come back within the time that a round waits for them.
    rules = resume.rules_of
    monkeypatch.setattr(resume, "rules_of", lambda plan: dataclasses.replace(rules(plan), gather_s=0.5))
    here = {1: "abc", 2: "a", 3: "ac", 4: "a", 5: "abc", 6: "abc", 7: ""}
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(bundle, rounds=6, devices=3, more=CODED), tmp_path)
        devices = {name: Follower(fleet(address, name), tmp_path / name, bundle) for name in "abc"}
        for device in devices.values():
            device.device.join()
        head = open_bundle(bundle).initial_head()
        for number in range(1, 7):
            names, following = here[number], here[number + 1]
            if number == 6:
                devices["b"].forget()
            for name in names:
                order, before = devices[name].take(number)
                assert order.head_version == version(before)
                if number > 1:
                    assert same_bits(before, on_record(tmp_path / "state", run_id))
            for name in names[1:]:
                devices[name].answer(number)
            # Who comes and goes does so before the round closes: the next one is for those who are there then.
            for name in sorted(set("bc") & (set(names) ^ set(following))):
                devices[name].device.leave() if name in names else devices[name].device.join()
            devices["a"].answer(number)
            # Weights are alike, and so are steps: the plain mean of the changes, on the coordinator's own head.
            changes = [change_of(name, number, head) for name in names]
            mean = {key: np.mean([change[key].astype(np.float64) for change in changes], axis=0) for key in head}
            head = add_scaled(head, mean, 1.0)
        status = tools.finished(operator, run_id)
    kinds = {
        name: [("whole" if each_order.head else len(each_order.differences)) for each_order in devices[name].orders]
        for name in "abc"
    }
    # Each order is asked for twice here: the second time the head is held already.
    assert kinds["a"] == [0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]
    assert kinds["b"] == [0, 0, 4, 0, 5, 0], "four rounds at once; then, without a disk, all from the bundle's head"
    assert kinds["c"] == [0, 0, 2, 0, 2, 0, 1, 0]
    db = Database(sqlite_url(tmp_path / "state" / "coordinator.db"))
    with db.reading() as connection:
        newest = heads.get(connection, status.rounds[-1].head_version)
    db.close()
    for name, array in newest.items():
        np.testing.assert_allclose(array, head[name], rtol=1e-5, atol=1e-5)
    assert all(this_round.bytes_down < len("abc") * 2 * 4 * 305 for this_round in status.rounds[2:])


def play(address: str, operator: Operator, run_id: str, devices: list[Follower], rounds: range, tools: Any) -> None:
    for number in rounds:
        for device in devices:
            device.answer(number)
        tools.until(
            lambda number=number: number in {r.round for r in operator.status(run_id)[0].rounds if r.closed_unix_s}
        )


@pytest.mark.parametrize("when", ["between rounds", "inside a round"])
def test_a_coordinator_that_restarts_goes_on_with_the_same_differences(
    bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path, when: str
) -> None:
    ends = []
    for disturbed in (False, True):
        state = tmp_path / f"state-{disturbed}"
        folders = [tmp_path / f"{name}-{disturbed}" for name in "ab"]
        text = tools.plan(bundle, rounds=4, devices=2, quorum=1.0, more=CODED)
        with tools.served(state) as address, Operator(address) as operator:
            run_id = operator.start_run(text, tmp_path)
            devices = [Follower(fleet(address, f.name[0]), f, bundle) for f in folders]
            for device in devices:
                device.device.join()
            play(address, operator, run_id, devices, range(1, 3 if disturbed else 5), tools)
            if disturbed and when == "inside a round":
                devices[0].answer(3)
                assert devices[1].take(3)
            if not disturbed:
                ends.append([this_round.head_version for this_round in tools.finished(operator, run_id).rounds])
                seen = [device.orders[-1].head_version for device in devices]
        if disturbed:
            with tools.served(state) as address, Operator(address) as operator:
                devices = [Follower(fleet(address, f.name[0]), f, bundle) for f in folders]
                for device in devices:
                    device.device.join()
                if when == "inside a round":
                    devices[1].answer(3)
                    assert devices[1].orders[0].base == devices[1].orders[0].head_version, "held since before"
                else:
                    play(address, operator, run_id, devices, range(3, 4), tools)
                    assert all(len(device.orders[0].differences) == 1 for device in devices)
                play(address, operator, run_id, devices, range(4, 5), tools)
                assert all(len(device.orders[-1].differences) == 1 for device in devices)
                ends.append([this_round.head_version for this_round in tools.finished(operator, run_id).rounds])
                assert [device.orders[-1].head_version for device in devices] == seen
    assert ends[0] == ends[1]


def test_a_device_of_an_earlier_release_is_sent_whole_heads(
    address: str, bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(bundle, rounds=3, devices=2, more=CODED), tmp_path)
        new, old = Follower(fleet(address, "a"), tmp_path / "a", bundle), fleet(address, "b")
        new.device.join()
        old.join()
        for number in (1, 2, 3):
            head = new.answer(number)
            # It names the head that it was sent last, without holding it.
            order = old.order(number, Holding(version(head), rebuilds=False))
            assert (order.base, order.differences) == ("", ())
            assert same_bits(decode(order.head, shapes(head)), head), "devices of both kinds train from the same"
            assert old.send(old.answer(order, 0.01)).verdict is Verdict.ACCEPTED
        status = tools.finished(operator, run_id)
    down = {device.device_id: device.bytes_down for device in status.rounds[3].devices}
    assert down["a"] < 0.5 * down["b"]


def test_whole_heads_are_the_coordinators_own_and_not_sent_to_those_who_hold_them(
    address: str, bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        run_id = operator.start_run(tools.plan(bundle, rounds=2), tmp_path)
        device = Follower(fleet(address, "a"), tmp_path / "a", bundle)
        device.device.join()
        device.answer(1)
        order, _ = device.take(2)
        again, _ = device.take(2)
        device.answer(2)
        status = tools.finished(operator, run_id)
    assert not device.orders[0].head, "everyone who has the bundle holds its starting head"
    assert order.head
    assert not again.head
    assert order.head_version == status.rounds[1].head_version


def test_a_plan_that_says_nothing_of_it_sends_heads_as_differences_of_eight_bits(
    address: str, bundle: Path, fleet: Fleet, tools: Any, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(bundle, rounds=2).replace('[downlink]\ncodec = "float32"\n', "")
        assert "downlink" not in text
        operator.start_run(text, tmp_path)
        device = Follower(fleet(address, "a"), tmp_path / "a", bundle)
        device.device.join()
        head = device.answer(1)
        order, _ = device.take(2)
        device.answer(2)
    assert (order.head, len(order.differences)) == ((), 1)
    numbers = sum(value.size for value in head.values())
    bits = 8 * len(serialise_difference(order.differences[0])) / numbers
    assert 8 < bits < 32, "a tensor's scale and name weigh something in a head as small as this"
