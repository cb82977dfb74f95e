"""A device whose values are not scaled as those that its bundle was calibrated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from striped_data import write_data

from coordinator.lab import shards
from edge_runtime.round.inputs.examples import LocalExamples
from protos.errors import DataError
from protos.model.bundle import Bundle


def test_values_of_another_scale_end_the_device_before_it_embeds_one(bundle: Bundle, tmp_path: Path) -> None:
    with np.load(write_data(tmp_path / "own.npz", 60)) as archive:
        x = archive["x"]
    data = write_data(tmp_path / "unit.npz", 60, x=x / np.float32(255))
    with pytest.raises(DataError, match=r"unit\.npz: these examples are not like .* calibrated on 0 to 209"):
        LocalExamples(str(data), None, tmp_path).summary(bundle)
    with pytest.raises(DataError, match="its head would guess"):
        shards.cut(str(data), bundle.manifest, tmp_path / "shards", devices=2, scheme="iid", seed=0)


def test_darker_pictures_are_one_warning_that_is_kept_with_the_summary(bundle: Bundle, tmp_path: Path) -> None:
    with np.load(write_data(tmp_path / "own.npz", 60)) as archive:
        x = archive["x"]
    data = write_data(tmp_path / "dark.npz", 60, x=x // 4)
    for _ in range(2):  # the second time from what the first one kept
        unlike = LocalExamples(str(data), None, tmp_path).summary(bundle).unlike
        assert "raw values are 0 to 52" in unlike
        assert "calibrated on 0 to 209" in unlike
    parts = shards.cut(str(data), bundle.manifest, tmp_path / "shards", devices=2, scheme="iid", seed=0)
    assert parts.unlike == unlike
    alike = write_data(tmp_path / "alike.npz", 60, seed=5)
    assert LocalExamples(str(alike), None, tmp_path).summary(bundle).unlike == ""
