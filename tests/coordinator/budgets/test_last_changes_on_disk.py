"""What guesses are made from is on disk: no head a device in memory, and the same bits back."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from coordinator.run.last_changes import LastChanges
from protos.errors import StoreError

SHAPES = {"out_kernel": (256, 10), "out_bias": (10,)}


def change_of(number: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(number)
    return {name: dice.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_a_change_comes_back_bit_for_bit_and_the_newest_counts(tmp_path: Path) -> None:
    kept = LastChanges(tmp_path / "state", SHAPES)
    assert (kept.get("a"), kept.round_of("a")) == (None, None)
    for number, device_id in enumerate(["a", "b", "c", "a"], start=1):
        kept.put(device_id, number, change_of(number))
    for device_id, number in (("a", 4), ("b", 2), ("c", 3)):
        found = kept.get(device_id)
        assert found is not None
        assert (found.round, kept.round_of(device_id)) == (number, number)
        for name, value in change_of(number).items():
            assert found.change[name].shape == value.shape
            assert found.change[name].tobytes() == value.tobytes()
    assert list((tmp_path / "state").iterdir()) == [], "it has no name, and is gone with the process"


def test_memory_does_not_grow_with_the_devices(tmp_path: Path) -> None:
    kept = LastChanges(tmp_path, SHAPES)
    one_bytes = 4 * 2570
    kept.put("first", 1, change_of(1))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(200):
        kept.put(f"device {number}", 1, change_of(number))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert held < 10 * one_bytes, "of 200 heads"


def test_a_change_that_cannot_be_written_is_said_and_not_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = LastChanges(tmp_path, SHAPES)
    kept.put("a", 1, change_of(1))
    # As a full disk does it: part of it is written.
    monkeypatch.setattr(os, "pwrite", lambda *args: 5)
    with pytest.raises(StoreError, match="cannot be kept"):
        kept.put("a", 2, change_of(2))
    assert kept.get("a") is None
