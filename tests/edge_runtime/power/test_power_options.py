"""The text that names a sensor: taken apart, and refused with what would be right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.power.options import number, split, whole
from edge_runtime.power.sensor_factory import KINDS, make_sensor, open_sensor
from protos.errors import EdgejouleError, UsageError


@given(st.text())
def test_any_text_is_taken_apart_or_refused(text):
    try:
        kind, rest, options = split(text)
    except UsageError:
        return
    assert text.startswith(kind)
    assert rest in text
    assert all(isinstance(value, str) for value in options.values())


@given(st.sampled_from([*KINDS, "replay", "none"]), st.text(alphabet="a1:/?&=.x\x00é", max_size=20))
def test_no_text_leads_to_anything_but_a_sensor_or_a_clear_refusal(kind, rest):
    try:
        sensor = make_sensor(f"{kind}:{rest}")
    except UsageError:
        return
    assert sensor.identity.method == "measured"


@pytest.mark.parametrize("spec", ["estimate:pi4", "none", "hwmon:", "iio:", "i2c:", "lpt:1"])
def test_what_has_no_samples_is_no_sensor(spec):
    with pytest.raises(UsageError, match="use serial:PATH"):
        open_sensor(spec)


@pytest.mark.parametrize("query", ["a=1&a=2", "=", "a", "a=1&&b=2"])
def test_options_that_contradict_themselves_are_refused(query):
    with pytest.raises(EdgejouleError):
        make_sensor(f"serial:/dev/ttyUSB0?{query}")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "", "1e9", "two"])
def test_numbers_out_of_range_are_refused_with_the_range(text):
    with pytest.raises(UsageError, match=r"from 0\.1 to 500"):
        number({"rate": text}, "rate", 0.1, 500.0, "hertz")


def test_whole_numbers_may_be_hexadecimal():
    assert whole({"address": "0x4f"}, "address", 0, 127) == 0x4F
    assert whole({}, "address", 0, 127) is None
    with pytest.raises(UsageError):
        whole({"address": "4.5"}, "address", 0, 127)
