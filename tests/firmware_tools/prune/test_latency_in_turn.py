"""Latencies of models that take turns."""

from __future__ import annotations

import pytest

from firmware_tools.prune.integer_cost import in_turn


def test_a_turn_that_was_slow_for_all_models_does_not_change_their_shares() -> None:
    quiet = [[2.0, 1.0], [2.0, 1.2], [2.0, 0.8]]
    busy = [[9 * seconds for seconds in turn] if number != 1 else turn for number, turn in enumerate(quiet)]
    assert [one.share for one in in_turn(quiet)] == [one.share for one in in_turn(busy)] == [1.0, 0.5]
    assert in_turn(quiet)[0].ms == 2000.0
    assert in_turn(busy)[1].ms == pytest.approx(7200.0)
