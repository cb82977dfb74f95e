"""Heads on the device: made from what is held, checked to the bit, and there after a restart."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.round import held_heads
from edge_runtime.round import tree_file as stored_trees
from edge_runtime.round.held_heads import CannotRebuildError, HeldHeads
from edge_runtime.round.tree_file import read_tree, write_tree
from protos.errors import IntegrityError, UpdateError
from protos.orders import CodecOrder, Holding, TrainOrder
from protos.update.codecs import build, generator
from protos.update.downlink import step_towards
from protos.update.tensors import as_float32
from protos.update.trees import Tree, shapes, version


def tree(seed: int) -> Tree:
    rng = np.random.default_rng(seed)
    return {"bias": rng.normal(size=3).astype(np.float32), "kernel": rng.normal(size=(6, 3)).astype(np.float32)}


START = tree(0)


def order(number: int, to: Tree, **changes: Any) -> TrainOrder:
    whole = TrainOrder(
        "run-1", number, "plan-1", "sha256:1", version(to), as_float32(to), 1, {}, CodecOrder("float32", {}), None,
        60.0, 7,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


class Ahead:
    """A coordinator's end: moves its head, and keeps every difference."""

    def __init__(self, start: Tree) -> None:
        self.shown, self.steps = [start], []
        self._codec = build("uniform_stochastic", {"bits": 4})

    def move(self) -> None:
        target = {name: array + np.float32(0.1) * tree(len(self.shown))[name] for name, array in self.shown[-1].items()}
        found = step_towards(target, self.shown[-1], self._codec, generator(1, len(self.shown)))
        assert found is not None
        self.steps.append(found[0])
        self.shown.append(found[1])

    def order(self, since: int) -> TrainOrder:
        """The newest head for a device that holds number ``since``."""
        made = {"head": (), "base": version(self.shown[since]), "differences": tuple(self.steps[since:])}
        return order(len(self.steps), self.shown[-1], **made)


@pytest.fixture
def ahead() -> Ahead:
    one = Ahead(START)
    for _ in range(6):
        one.move()
    return one


def same_bits(left: Tree, right: Tree) -> bool:
    return all(left[name].tobytes() == right[name].tobytes() for name in right)


def test_a_device_with_the_bundle_alone_can_follow(tmp_path: Path, ahead: Ahead) -> None:
    held = HeldHeads(tmp_path)
    assert held.holding() == Holding("", rebuilds=True)
    assert same_bits(held.receive(ahead.order(0), START), ahead.shown[-1])
    assert held.holding() == Holding(version(ahead.shown[-1]), rebuilds=True)


def test_after_a_restart_only_what_changed_since_is_needed(tmp_path: Path, ahead: Ahead) -> None:
    HeldHeads(tmp_path).receive(order(2, ahead.shown[2]), START)
    again = HeldHeads(tmp_path)
    assert again.holding() == Holding(version(ahead.shown[2]), rebuilds=True)
    assert same_bits(again.receive(ahead.order(2), START), ahead.shown[-1])


def test_the_same_head_again_needs_nothing(tmp_path: Path, ahead: Ahead) -> None:
    held = HeldHeads(tmp_path)
    held.receive(ahead.order(0), START)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    empty = order(7, ahead.shown[-1], head=(), base=version(ahead.shown[-1]))
    assert same_bits(held.receive(empty, START), ahead.shown[-1])
    assert same_bits(HeldHeads(tmp_path).receive(order(1, START, head=(), base=version(START)), START), START)
    assert path.stat().st_mtime_ns == before, "nothing was written again"


def test_a_head_that_is_not_here_makes_it_ask_for_one_whole_head(tmp_path: Path, ahead: Ahead) -> None:
    held = HeldHeads(tmp_path)
    with pytest.raises(CannotRebuildError, match="not here"):
        held.receive(ahead.order(3), START)
    assert held.holding() == Holding()
    with pytest.raises(UpdateError, match="a whole head was asked for") as caught:
        held.receive(ahead.order(3), START)
    assert not isinstance(caught.value, CannotRebuildError), "asking once more would not help"
    assert same_bits(held.receive(order(6, ahead.shown[-1]), START), ahead.shown[-1])
    ahead.move()
    assert held.holding() == Holding(version(ahead.shown[6]), rebuilds=True)
    assert same_bits(held.receive(ahead.order(6), START), ahead.shown[-1])


def test_other_bits_than_were_meant_are_never_trained_and_end_the_trust(tmp_path: Path, ahead: Ahead) -> None:
    held = HeldHeads(tmp_path)
    wrong = dataclasses.replace(ahead.order(0), head_version=version(tree(77)))
    with pytest.raises(CannotRebuildError, match="other bits"):
        held.receive(wrong, START)
    assert list(tmp_path.iterdir()) == []
    held.receive(order(6, ahead.shown[-1]), START)
    assert held.holding() == Holding(), "as long as this process runs"
    assert HeldHeads(tmp_path).holding().rebuilds


def test_a_difference_that_does_not_fit_makes_it_ask_for_a_whole_head(tmp_path: Path, ahead: Ahead) -> None:
    held = HeldHeads(tmp_path)
    good = ahead.order(0)
    bad = dataclasses.replace(
        good, differences=(*good.differences, dataclasses.replace(good.differences[0], scale=9.0))
    )
    with pytest.raises(CannotRebuildError, match="scale"):
        held.receive(bad, START)
    assert not held.holding().rebuilds


@pytest.mark.parametrize("spoil", ["cut", "flip", "rename", "empty", "garbage"])
def test_a_damaged_head_is_deleted_and_not_said_to_be_held(tmp_path: Path, ahead: Ahead, spoil: str) -> None:
    HeldHeads(tmp_path).receive(order(2, ahead.shown[2]), START)
    (path,) = tmp_path.iterdir()
    data = path.read_bytes()
    match spoil:
        case "cut":
            path.write_bytes(data[:-3])
        case "flip":
            path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        case "rename":
            path.rename(tmp_path / f"{version(ahead.shown[3])}.tree")
        case "empty":
            path.write_bytes(b"")
        case _:
            path.write_bytes(b'["no", "header"]\n' + data)
    held = HeldHeads(tmp_path)
    assert held.holding() == Holding("", rebuilds=True)
    assert list(tmp_path.iterdir()) == []


def test_few_heads_are_kept(tmp_path: Path, ahead: Ahead) -> None:
    held = HeldHeads(tmp_path)
    for number in range(1, 7):
        held.receive(order(number, ahead.shown[number]), START)
    assert len(list(tmp_path.iterdir())) == held_heads._KEEP


@pytest.mark.parametrize("name", ["../outside", "..", "*", "head-*", "/etc/passwd", ""])
def test_a_version_from_the_network_names_no_other_file(tmp_path: Path, ahead: Ahead, name: str) -> None:
    inside = tmp_path / "heads"
    inside.mkdir()
    write_tree(tmp_path / "outside.tree", ahead.shown[1], {})
    HeldHeads(inside).receive(order(2, ahead.shown[2]), START)
    held = HeldHeads(inside)
    with pytest.raises(UpdateError):
        held.receive(order(6, ahead.shown[-1], head=(), base=name, differences=tuple(ahead.steps[2:])), START)


def test_without_room_on_disk_the_newest_head_is_in_memory(
    tmp_path: Path, ahead: Ahead, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(held_heads, "write_tree", full)
    held = HeldHeads(tmp_path)
    held.receive(order(2, ahead.shown[2]), START)
    assert "No space left" in caplog.text
    assert same_bits(held.receive(ahead.order(2), START), ahead.shown[-1])
    assert HeldHeads(tmp_path).holding() == Holding("", rebuilds=True)


def test_a_tree_comes_back_from_its_file_bit_for_bit(tmp_path: Path) -> None:
    one = {**tree(3), "odd": np.array([-0.0, 1e-45, 1 / 3], np.float32), "none": np.zeros((0, 4), np.float32)}
    write_tree(tmp_path / "a.tree", one, {"round": 3})
    back = read_tree(tmp_path / "a.tree")
    assert shapes(back) == shapes(one)
    assert same_bits(back, one)
    assert stored_trees.about(tmp_path / "a.tree") == {"round": 3}
    assert stored_trees.about(tmp_path / "b.tree") == {}
    with pytest.raises(IntegrityError, match=r"b\.tree"):
        read_tree(tmp_path / "b.tree")
