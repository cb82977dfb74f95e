"""Every fault through the real firmware and the device's own meter: what the figures say meanwhile and afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_cases import CASES, Case

from protos.energy.trace import Phase

TRUE_W = 2.5
DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "faults-of-metering.md"


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_a_fault_is_told_costs_no_more_than_it_must_and_passes(bench, case):
    one = bench()
    before = one.sensor.losses
    one.spend(Phase.EMBED, 1.0)
    one.meter.mark(Phase.TRAIN)
    one.world.advance(0.043)
    case.begin(one)
    meanwhile = one.spend(Phase.TRAIN, 4.0)
    case.end(one)
    afterwards = one.spend(Phase.ENCODE, 3.0)
    parts = one.settle()
    train = parts[Phase.TRAIN]

    assert (meanwhile.power_w is not None) == case.watts
    if case.interval:
        assert meanwhile.spent_j == pytest.approx(5.0 * TRUE_W, rel=0.02), "silence is charged, never free"
    assert (train.energy_j is not None) == case.figure
    assert train.method == ("measured" if case.figure else "unknown")
    assert (train.uncertainty_j is not None) == (case.figure and case.interval)
    if train.uncertainty_j is not None:
        assert train.energy_j / train.covered_s == pytest.approx(TRUE_W, rel=case.relative)
        assert abs(train.energy_j - TRUE_W * (train.covered_s + train.uncovered_s)) <= train.uncertainty_j
    assert set(case.flags) <= set(train.flags) <= {*case.flags, *case.maybe}
    for name in case.losses:
        assert getattr(one.sensor.losses, name) > getattr(before, name), name

    assert afterwards.power_w == pytest.approx(TRUE_W, rel=1e-3)
    one.spend(Phase.TRAIN, 1.0)
    again = one.settle()[Phase.TRAIN]
    assert again.flags == (), "a fault is told once"
    assert again.coverage == pytest.approx(1.0)
    assert again.energy_j == pytest.approx(TRUE_W, rel=1e-3)


def test_the_table_says_what_these_tests_show():
    rows = [line.strip("| \n").split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    told = {row[0]: row[1:4] for row in rows if row[0] in {case.name for case in CASES}}
    for case in CASES:
        watts, figure, flags = told[case.name]
        assert watts == ("goes on" if case.watts else "`None` after 2 s"), case.name
        stands = "stands" if case.interval else "stands, no interval"
        assert figure == (stands if case.figure else "`None`"), case.name
        assert flags == (", ".join(f"`{flag}`" for flag in case.flags) or "none"), case.name
