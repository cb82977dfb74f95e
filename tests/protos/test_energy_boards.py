"""Board profiles."""

from __future__ import annotations

import pytest

from protos.energy.boards import BOARDS, board
from protos.errors import UsageError


def test_every_board_says_where_its_watts_come_from():
    assert set(BOARDS) == {"pi4", "pi-zero-2", "pi5", "coral-dev"}
    assert all(profile.source for profile in BOARDS.values())


def test_power_is_idle_plus_busy_cores_and_never_more_than_all_of_them():
    pi4 = board("pi4")
    assert pi4.power_w(0) == pi4.idle_w
    assert pi4.power_w(2) == pytest.approx(pi4.idle_w + 2 * pi4.cpu_w)
    assert pi4.power_w(99) == pi4.power_w(4)


def test_every_board_at_full_load_stays_below_the_clipping_limit_of_its_shunt():
    for profile in BOARDS.values():
        shunt_v = profile.power_w(profile.cores) / profile.supply_v * profile.shunt_ohm
        assert shunt_v < 0.080


def test_an_unknown_board_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match="pi4, pi-zero-2"):
        board("pi9")
