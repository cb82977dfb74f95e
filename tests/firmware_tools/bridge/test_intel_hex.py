"""Reading Intel hex: what the build writes, what other tools write, and hostile files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_tools.bridge.images.build import intel_hex
from firmware_tools.bridge.images.chosen_image import read_intel_hex
from protos.errors import DataError


@given(st.binary(max_size=2000))
def test_what_is_written_is_read(image):
    assert read_intel_hex(intel_hex(image), where="x") == image


def test_gaps_order_and_start_addresses_of_other_tools():
    text = b":0400000300003800C1\r\n:020000040000FA\r\n:0100030042BA\r\n:0100000041BE\r\n:00000001FF\r\n"
    assert read_intel_hex(text, where="x") == b"\x41\xff\xff\x42"


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(data):
    with pytest.raises(DataError):
        read_intel_hex(b":" + data, where="x")


@given(st.integers(0, 60), st.sampled_from("0123456789ABCDEFGZ: "))
def test_a_changed_character_is_noticed(at, to):
    text = bytearray(intel_hex(bytes(range(16))))
    at %= len(text)
    if chr(text[at]) in "\n" or text[at] == ord(to):
        return
    text[at] = ord(to)
    with pytest.raises(DataError):
        read_intel_hex(bytes(text), where="x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (":0100000041BE\n:0100000041BE\n:00000001FF\n", "x:2.*given twice"),
        (":02FFFF004142" + f"{-(2 + 0xFF + 0xFF + 0x41 + 0x42) & 0xFF:02X}" + "\n:00000001FF\n", "past 64 KiB"),
        (":020000040001F9\n:00000001FF\n", "addresses past 64 KiB"),
        (":00000009F7\n", "unknown type 9"),
        (":00000001FF\n:00000001FF\n", "after the end"),
        (":0100000041BE\n", "no end record"),
    ],
)
def test_what_is_wrong_is_named(text, said):
    with pytest.raises(DataError, match=said):
        read_intel_hex(text.encode(), where="x")
