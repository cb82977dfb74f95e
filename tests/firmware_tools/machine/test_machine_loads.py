"""Loads of the machine: the energy that Python knows is the energy that the host program integrates."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firmware_tools.bridge.machine.driver import FirmwareMachine, SensorSpec
from firmware_tools.bridge.machine.loads import Part, PiecewiseLoad, parse_load
from protos.errors import DataError, UsageError

watts = st.floats(0, 20, allow_subnormal=False)
spans = st.floats(1e-4, 2.0)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    lengths = draw(st.lists(spans, min_size=0, max_size=5))
    count = len(lengths) + 1
    begins = np.concatenate([[0.0], np.cumsum(lengths)])
    period_s = draw(st.one_of(st.just(0.0), spans.map(lambda length: float(begins[-1]) + length)))
    powers, slopes = (np.array(draw(st.lists(watts, min_size=count, max_size=count))) for _ in range(2))
    if not period_s:
        slopes[-1] = 0.0
    return Part(begins, powers, slopes, period_s)


@pytest.mark.parametrize(
    ("text", "expected_j"),
    [
        ("constant:3.85", 3.85 * 0.25),
        ("square:0.4,1.9,0.001,0.5", 0.25 * 1.15),
        ("square:1,5,0.2,0.25", 0.05 * 5 + 0.15 * 1 + 0.05 * 5),
        ("steps:1,0.1,2,0.1,3", 0.1 + 0.2 + 0.15),
        ("burst:0.5,4,0.05,0.1", 0.05 * 0.5 + 0.1 * 4 + 0.1 * 0.5),
        ("burst:0.5,4,0,0.01,0.05", 5 * (0.01 * 4 + 0.04 * 0.5)),
        ("ramp:0,10,0.5", 0.5 * 20 * 0.25**2),
        ("constant:1+ramp:0,10,0.125", 0.25 + 0.5 * 0.125 * 10 + 0.125 * 10),
    ],
)
def test_a_named_load_has_the_energy_of_its_picture(text, expected_j):
    assert float(parse_load(text).energy_j(0.25)) == pytest.approx(expected_j, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "warm:1", "constant:", "constant:1,2", "square:1,2", "square:1,2,0", "square:1,2,1,1", "ramp:1,2,0",
             "steps:1,2", "steps:1,-1,2", "burst:1,2,0.5,0.6,1", "constant:nan", "constant:1+"],
)  # fmt: skip
def test_a_load_that_cannot_be_is_refused_with_the_forms_that_can(text):
    with pytest.raises(UsageError, match="constant:W"):
        parse_load(text)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts(), min_size=1, max_size=3), st.floats(0, 50), st.floats(1e-5, 10), st.floats(0, 0.1))
def test_both_languages_integrate_alike(start, many, from_s, span_s, source_ohm):
    load = PiecewiseLoad(tuple(many))
    supply_v = max(5.0, 2.1 * (source_ohm * load.peak_w) ** 0.5)
    machine = start(SensorSpec(load, supply_v=supply_v, source_ohm=source_ohm), hex=None)
    energy_j, current_a, voltage_v = machine.rail(from_s, from_s + span_s)
    expected_j = machine.true_energy_j(from_s, from_s + span_s)
    # Both subtract two integrals from the load's begin: what rounding leaves is relative to those.
    scale_j = float(load.energy_j(from_s + span_s)) + 1e-9
    assert energy_j == pytest.approx(expected_j, abs=1e-12 * scale_j)
    if not source_ohm:
        assert current_a * span_s == pytest.approx(expected_j / supply_v, abs=1e-12 * scale_j)
        assert voltage_v == supply_v
    else:
        # The load and the resistance together draw what the supply gives: at least the load's share.
        assert current_a * supply_v * span_s >= expected_j * (1 - 1e-6) - 1e-9 * scale_j
    machine.kill()


@pytest.mark.parametrize(
    "text", ["constant:6", "square:0.4,6,0.001,0.3", "ramp:0,6,0.02", "square:1,3,0.003+ramp:0,3,1"]
)
def test_a_sagging_supply_gives_the_current_that_small_steps_give(start, text):
    """Current of a constant-power load behind a resistance, against a fine numeric integral."""
    v0, r, span_s = 5.0, 0.15, 0.05
    machine: FirmwareMachine = start(SensorSpec(text, supply_v=v0, source_ohm=r), hex=None)
    edges = np.linspace(0, span_s, 500_001)
    power_w = np.diff(parse_load(text).energy_j(edges)) / np.diff(edges)
    expected_a = float(np.mean((v0 - np.sqrt(v0**2 - 4 * r * power_w)) / (2 * r)))
    _, current_a, voltage_v = machine.rail(0.0, span_s)
    assert current_a == pytest.approx(expected_a, rel=1e-6)
    assert voltage_v == pytest.approx(v0 - r * expected_a, rel=1e-6)


def test_a_load_that_the_supply_cannot_give_is_refused(start):
    with pytest.raises(UsageError, match="cannot give"):
        start(SensorSpec("constant:50", supply_v=5.0, source_ohm=0.2), hex=None)


def test_loads_follow_one_another_and_each_begins_at_its_own_zero(start):
    machine: FirmwareMachine = start(SensorSpec("constant:1"), hex=None)
    machine.set_load("ramp:0,4,1", at_s=2.0)
    machine.set_load("square:0,8,0.5", at_s=2.5)
    expected_j = 2.0 + 0.5 * 4 * 0.5**2 + 0.25 * 8
    assert machine.true_energy_j(0.0, 3.0) == pytest.approx(expected_j)
    assert machine.rail(0.0, 3.0)[0] == pytest.approx(expected_j)
    with pytest.raises(UsageError, match="before the one it follows"):
        machine.set_load("constant:1", at_s=2.2)
    machine.step(4.0)
    machine.set_load("constant:0", at_s=3.0)
    assert machine.true_energy_j(4.0, 9.0) == 0.0, "a load in the past begins now"


def test_a_recorded_trace_is_a_load(tmp_path: Path, start: Callable[..., FirmwareMachine]):
    energy_uj = np.array([500, 1500, 2500, 500], "<f4")
    trace = tmp_path / "a+b-energy.bin"
    trace.write_bytes(struct.pack("<Bf", 0xF1, 1000.0) + energy_uj.tobytes())
    machine = start(SensorSpec(f"constant:1+trace:{trace}"), hex=None)
    assert machine.true_energy_j(0.001, 0.0035) == pytest.approx(0.0025 + (1500 + 2500 + 250) * 1e-6)
    assert machine.rail(0.001, 0.0035)[0] == pytest.approx(machine.true_energy_j(0.001, 0.0035))
    assert machine.true_energy_j(0, 0.8) == pytest.approx(0.8 + 200 * 5000e-6), "it repeats"
    table = tmp_path / "trace.csv"
    table.write_text("seconds,watts\n10.0,1.0\n10.5,3.0\n11.0,0\n")
    assert float(parse_load(f"trace:{table}").energy_j(0.75)) == pytest.approx(0.5 + 0.75)


@pytest.mark.parametrize(
    "content", [b"", b"\xf1", b"\xf1\x00\x00\x00\x00\x01\x02", b"a,b\n1,x\n", b"a,b\n1,2\n", b"\xff\xfe"]
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "trace"
    path.write_bytes(content)
    with np.errstate(all="ignore"), pytest.raises(DataError, match="no power trace"):
        parse_load(f"trace:{path}")
    with pytest.raises(DataError, match="cannot be read"):
        parse_load(f"trace:{tmp_path / 'nothing'}")
