"""A device whose data call the classes something else than the bundle does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from striped_data import write_data

from edge_runtime.config import Settings
from edge_runtime.round.inputs.examples import LocalExamples
from protos.errors import LabelError
from protos.model.bundle import Bundle

CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def named(bundle: Bundle) -> Bundle:
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, classes=CLASSES))


def test_a_device_refuses_unknown_names_until_a_setting_says_which_is_which(
    named: Bundle, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "own.npz", 30, class_names=["katze", "ameise", "biene"])
    with pytest.raises(LabelError, match="--rename") as caught:
        LocalExamples(str(data), None, tmp_path).summary(named)
    assert "ameise" in str(caught.value)
    rename = settings(data=data, rename="katze=cat,ameise=ant,biene=bee").rename
    # The second time, what was found out the first time is read again.
    for _ in range(2):
        summary = LocalExamples(str(data), None, tmp_path, rename=rename).summary(named)
        assert summary.labels[:3].tolist() == [2, 0, 1]
    other = LocalExamples(str(data), None, tmp_path, rename="katze=ant,ameise=cat,biene=bee").summary(named)
    assert other.labels[:3].tolist() == [0, 2, 1]
