"""Rounds whose changes are masked, over real gRPC, with the device's own masks: the coordinator gets sums alone."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.operator.client import Operator
from coordinator.run.reports import masking
from coordinator.run.reports.reasons import reason_of
from edge_runtime.daemon.link import Link
from edge_runtime.daemon.masking import Masks
from edge_runtime.daemon.stopping import Stopping
from protos.errors import EdgejouleError, PlanError, RefusedError
from protos.orders import MaskedChange, RejoinOrder, RevealOrder, TrainOrder
from protos.plan.plan import parse
from protos.secure_sum.grid import from_bytes, quantised, values_of
from protos.update.codecs import generator
from protos.update.tensors import decode
from protos.update.trees import Tree

Fleet = Callable[..., Any]
CLIP, BITS = 2.0, 16
MASKED = f'[aggregate]\nweight = []\nnormalise = "none"\n[privacy]\nmasked = 1\nclip = {CLIP}\nbits = {BITS}\n'


class Member:
    """A device with real masks and a given change; it leaves before a step where it is told to."""

    def __init__(self, address: str, fleet: Fleet, name: str, change: float, leaves: str = "") -> None:
        self.device, self.leaves, self.change = fleet(address, name), leaves, change
        self.link = Link(address, Stopping())
        self.masks = Masks(name, self.device.card.session, self.link)
        self.order: TrainOrder | None = None
        self.sent: MaskedChange | None = None
        self.verdict, self.failed, self.reveals = "", "", 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self._round()
        except EdgejouleError as error:
            self.failed = str(error)
        finally:
            self.link.close()

    def _round(self) -> None:
        self.order = self.device.order(round=1)
        if self.leaves == "keys":
            return
        self.masks.agree(self.order)
        if self.leaves == "sending":
            return
        self.sent = self.masks.hide(self.order, self.tree())
        report = self.device.answer(self.order, {}, update=(), masked=self.sent)
        self.verdict = self.device.send(report).verdict.value
        while self.leaves != "revealing":
            found = self.device.ask()
            if isinstance(found, RevealOrder):
                self.masks.reveal(found)
                self.reveals += 1
                return
            if isinstance(found, RejoinOrder) or (isinstance(found, TrainOrder) and found.round > 1):
                return

    def tree(self) -> Tree:
        assert self.order is not None
        head = decode(self.order.head, {tensor.name: tensor.shape for tensor in self.order.head})
        return {name: np.full_like(value, self.change) for name, value in head.items()}

    def numbers(self) -> Any:
        assert self.order is not None
        random = generator(self.order.seed, "mask", self.device.card.device_id, 1)
        return quantised(self.tree(), CLIP, BITS, random)


def play(
    address: str, fleet: Fleet, tools: Any, bundle: Path, tmp_path: Path, leaves: dict[str, str], **keys: Any
) -> tuple[list[Member], Any]:
    """One round of six devices; the members, and the head after it."""
    changes = {f"pi-{at}": 0.01 * (at + 1) for at in range(6)}
    with Operator(address) as operator:
        given = {"devices": 6, "quorum": 0.66, "deadline_s": 4, **keys}
        text = tools.plan(bundle, rounds=2, more=MASKED, **given).replace('[update]\ncodec = "float32"', "")
        operator.start_run(text, tmp_path)
        members = [Member(address, fleet, name, change, leaves.get(name, "")) for name, change in changes.items()]
        for member in members:
            member.device.join()
        for member in members:
            member.thread.start()
        for member in members:
            member.thread.join(60)
            assert not member.thread.is_alive()
        watcher = next(member for member in members if member.verdict == "accepted")
        order = watcher.device.order(round=2)
    return members, decode(order.head, {one.name: one.shape for one in order.head})


def expected(members: list[Member]) -> Tree:
    """The head after a plain sum of the same whole numbers."""
    counted = [member for member in members if member.verdict == "accepted"]
    order = counted[0].order
    assert order is not None
    shapes = {tensor.name: tensor.shape for tensor in order.head}
    before = decode(order.head, shapes)
    total = sum(member.numbers() for member in counted) % (1 << 32)
    values = values_of(total.astype(np.uint32), 32, CLIP, BITS, shapes)
    return {
        name: (value.astype(np.float64) + values[name] / len(counted)).astype(np.float32)
        for name, value in before.items()
    }


@pytest.mark.parametrize(
    "leaves",
    [{}, {"pi-1": "keys"}, {"pi-1": "sending", "pi-4": "sending"}, {"pi-0": "revealing", "pi-5": "revealing"}],
    ids=["nobody", "before keys", "before sending", "before revealing"],
)
def test_the_head_is_that_of_the_plain_sum_whoever_drops_out(
    leaves: dict[str, str], address: str, fleet: Fleet, tools: Any, plain_bundle: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(masking, "KEYS_S", 1.5)
    members, head = play(address, fleet, tools, plain_bundle, tmp_path, leaves)
    assert [member.verdict for member in members if member.device.card.device_id not in leaves] == ["accepted"] * (
        6 - len(leaves)
    )
    for name, value in expected(members).items():
        np.testing.assert_array_equal(head[name], value)
    # What the coordinator was sent is not what the devices meant, nor near it.
    for member in members:
        if member.sent is not None:
            words = from_bytes(member.sent.numbers, member.sent.width, len(member.numbers())).astype(np.int64)
            assert (words != member.numbers() % (1 << member.sent.width)).mean() > 0.99
    assert max(member.reveals for member in members) == 1


def test_masks_are_good_once_and_what_was_said_of_them_in_no_other_attempt(
    address: str, fleet: Fleet, tools: Any, plain_bundle: Path, tmp_path: Path
) -> None:
    members, _ = play(address, fleet, tools, plain_bundle, tmp_path, {})
    one = next(member for member in members if member.verdict == "accepted")
    assert one.order is not None
    assert one.sent is not None
    # Another head, seed or bound in the same attempt would make another change, and two under one mask have no secret.
    assert one.masks.hide(one.order, one.tree()) == one.sent
    for other in (
        dataclasses.replace(one.order, seed=one.order.seed + 1),
        dataclasses.replace(one.order, mask=dataclasses.replace(one.order.mask, clip=CLIP / 2)),
    ):
        with pytest.raises(RefusedError, match="another change went out under the masks"):
            one.masks.hide(other, one.tree())
    with pytest.raises(RefusedError, match="another change went out"):
        one.masks.hide(one.order, {name: value * np.float32(1.5) for name, value in one.tree().items()})
    # What was said of masks in round 1, said again in round 2, in another attempt, and of a run that never was.
    order = one.device.order(round=2)
    name, session = one.device.card.device_id, one.device.card.session
    link = Link(address, Stopping())
    try:
        keys = (b"s" * 32, b"m" * 32, b"d" * 32)
        for key in (
            (one.order.run_id, 1, one.order.attempt or 1),
            (order.run_id, 2, (order.attempt or 1) + 1),
            ("run-none", 2, 1),
        ):
            with pytest.raises(RefusedError, match="nobody masks changes in this attempt any more"):
                link.mask_keys(name, session, key, keys)
            with pytest.raises(RefusedError, match="nobody masks changes in this attempt any more"):
                link.mask_shares(name, session, key, {"pi-0": b"x" * 80})
            with pytest.raises(RefusedError, match="nobody masks changes in this attempt any more"):
                link.mask_reveal(name, session, key, {"pi-0": b"x" * 33}, {})
        # Nor does a change of round 1 count in round 2, in whose masks it has no part.
        again = one.device.answer(order, {}, update=(), masked=one.sent)
        assert reason_of(one.device.send(again)) == "not_ordered"
    finally:
        link.close()


def test_a_sum_that_cannot_be_unmasked_moves_nothing_and_it_is_said(
    address: str, fleet: Fleet, tools: Any, plain_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(masking, "REVEAL_S", 1.0)
    leaves = {f"pi-{at}": "revealing" for at in range(3)}
    members, head = play(address, fleet, tools, plain_bundle, tmp_path, leaves)
    order = members[0].order
    assert order is not None
    before = decode(order.head, {tensor.name: tensor.shape for tensor in order.head})
    for name, value in before.items():
        np.testing.assert_array_equal(head[name], value)
    assert "pi-0: its change of attempt 1 cannot be unmasked, and is left out" in caplog.text
    assert "3 of the 4 devices that it takes have revealed" in caplog.text


def test_a_plain_report_in_a_masked_round_is_refused_and_a_stranger_to_the_masks_too(
    address: str, fleet: Fleet, tools: Any, plain_bundle: Path, tmp_path: Path
) -> None:
    with Operator(address) as operator:
        text = tools.plan(plain_bundle, devices=3, quorum=1.0, more=MASKED).replace('[update]\ncodec = "float32"', "")
        operator.start_run(text, tmp_path)
        devices = [fleet(address, name) for name in ("a", "b", "c")]
        for device in devices:
            device.join()
        orders = [device.order() for device in devices]
        assert all(order.mask is not None and order.mask.bits == BITS for order in orders)
        assert reason_of(devices[0].send(devices[0].answer(orders[0], 0.1))) == "bad_update"
        size = sum(int(np.prod(one.shape)) for one in orders[1].head)
        alone = devices[1].answer(orders[1], {}, update=(), masked=MaskedChange(32, bytes(4 * size)))
        assert reason_of(devices[1].send(alone)) == "not_ordered"
        short = devices[2].answer(orders[2], {}, update=(), masked=MaskedChange(32, b"123"))
        assert reason_of(devices[2].send(short)) == "bad_update"


def test_contradictions_are_refused_with_the_reason() -> None:
    head = '[run]\nbundle = "b"\n[round]\ndevices = 3\nquorum = 0.7\n'
    assert parse(head + MASKED).privacy.masked == 1
    for text, why in (
        (head + MASKED.replace(f"clip = {CLIP}\n", ""), "nothing says how far it reaches"),
        (head + MASKED.replace("weight = []", 'weight = []\nrule = "median"'), "a robust rule"),
        (head + MASKED.replace("weight = []\n", ""), "weights differ"),
        (head + MASKED + '[update]\ncodec = "eden"\n', "scales of each device's own"),
        (head + MASKED + '[update]\ncodec = "keep_largest"\n', "scales of each device's own"),
        (head.replace("0.7", "0.5") + MASKED, "two thirds of the devices to unmask"),
        (head.replace("devices = 3", "devices = 2") + MASKED, "tells what each has sent"),
        (head + MASKED + "noise = 1\n", "nothing says how much may be spent"),
    ):
        with pytest.raises(PlanError, match=why):
            parse(text)
