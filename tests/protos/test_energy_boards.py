"""Board profiles."""

from __future__ import annotations

import pytest

from protos.energy.boards import BOARDS, board
from protos.errors import UsageError


def test_every_board_says_where_its_watts_come_from():
    assert set(BOARDS) == {"pi4", "pi-zero-2", "pi5", "coral-dev", "pi3b-plus"}
    figures = [figure for profile in BOARDS.values() for figure in profile.figures.values()]
    assert all(figure.source and figure.value > 0 for figure in figures)


def test_no_wall_figure_stands_for_one_at_the_board():
    kinds = {figure.kind for profile in BOARDS.values() for figure in profile.figures.values()}
    assert kinds == {"dc", "assumed"}


def test_full_load_agrees_with_what_was_measured_at_the_board():
    measured_w = {"pi4": (6.8, 7.2), "pi-zero-2": (2.1, 2.1), "pi5": (12.7, 12.7), "pi3b-plus": (5.3, 5.3)}
    for name, (least, most) in measured_w.items():
        profile = board(name)
        ethernet_w = profile.ethernet.value if profile.ethernet else 0.0
        assert least * 0.98 <= profile.power_w(profile.cores) + ethernet_w <= most * 1.02, name


def test_ethernet_and_the_edge_tpu_are_parts_of_their_own():
    coral = board("coral-dev")
    assert coral.ethernet
    assert coral.accelerator
    assert coral.inference_j
    at_work_w = coral.idle_w + coral.ethernet.value + coral.accelerator.value
    assert at_work_w == pytest.approx(4.36)
    assert coral.inference_j.value == pytest.approx(at_work_w * 4.1e-3, rel=0.02)
    assert board("pi4").accelerator is None
    assert board("pi-zero-2").ethernet is None


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
