"""Batches and the loop of steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.round.training import batches, train
from protos.orders import StopReason


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_each_pass_sees_every_example_once(count: int, size: int, seed: int) -> None:
    stream = batches(count, size, np.random.default_rng(seed))
    passes = -(-count // size)
    for _ in range(3):
        rows = np.concatenate([next(stream) for _ in range(passes)])
        assert sorted(rows.tolist()) == list(range(count))


class CountingHead:
    """Remembers which examples each step was given; the loss falls by one per step."""

    batch_size = 4

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.inputs: dict[str, float] = {}

    def train_step(self, x: Any, y: Any, weight: Any = None, **inputs: float) -> float:
        assert weight is None
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x[:, 0], y)
        self.seen.append(y.tolist())
        self.inputs = inputs
        return 100.0 - len(self.seen)


def run(head: CountingHead, steps: int = 6, seed: int = 1, device: str = "a", allowed: Any = None) -> Any:
    labels = np.arange(10, dtype=np.int32)
    return train(
        head, labels[:, None].astype(np.int8), labels, lambda q: q.astype(np.float32), steps=steps,
        inputs={"rate": 0.5}, seed=seed, purpose=(device, 1), allowed=allowed or (lambda: None),
    )  # fmt: skip


def test_rows_and_labels_stay_together_and_inputs_are_handed_on() -> None:
    head = CountingHead()
    trained = run(head)
    assert (trained.steps, trained.stop_reason) == (6, StopReason.COMPLETED)
    assert [len(one) for one in head.seen] == [4, 4, 2, 4, 4, 2]
    assert head.inputs == {"rate": 0.5}


def test_losses_are_means_of_the_first_and_the_last_pass() -> None:
    trained = run(CountingHead(), steps=7)
    assert (trained.loss_first, trained.loss_last) == (98.0, 94.0)


def test_the_order_depends_on_seed_round_and_device_alone() -> None:
    orders = []
    for seed, device in ((1, "a"), (1, "a"), (2, "a"), (1, "b")):
        head = CountingHead()
        run(head, seed=seed, device=device)
        orders.append(head.seen)
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_a_refusal_ends_it_before_the_next_step() -> None:
    head, asked = CountingHead(), iter(range(3))

    def allowed() -> StopReason | None:
        return None if next(asked, None) is not None else StopReason.BUDGET

    trained = run(head, allowed=allowed)
    assert (trained.steps, trained.stop_reason) == (3, StopReason.BUDGET)


def test_no_step_at_all_has_no_loss() -> None:
    trained = run(CountingHead(), allowed=lambda: StopReason.SHUTDOWN)
    assert (trained.steps, trained.loss_first, trained.loss_last) == (0, None, None)
