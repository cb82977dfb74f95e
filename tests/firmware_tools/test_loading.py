"""What is loaded is not looked at again; cycles made afterwards are collected, and so they are when loading fails."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from warm_tensorflow import WarmTensorFlow

from firmware_tools.loading import loading


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_nothing_is_collected_while_it_loads_and_cycles_are_afterwards() -> None:
    before = gc.get_freeze_count()
    with loading():
        assert not gc.isenabled()
        stays = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + len(stays)
    cycle = weakref.ref(_Cycle())
    gc.collect()
    assert cycle() is None


def test_a_collector_is_left_as_it_was() -> None:
    with pytest.raises(ImportError, match="no such"), loading():
        raise ImportError("no such")
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.workshop
def test_a_process_that_converts_does_not_look_at_tensorflow_again(tensorflow: WarmTensorFlow, tmp_path: Path) -> None:
    text = "import gc\nprint(gc.get_freeze_count(), gc.isenabled())"
    count, collects = tensorflow.script(text, tmp_path).split()
    assert int(count) > 200_000
    assert collects == "True"
