"""Codes in bytes: the inverse, the layout, and what is no packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import UpdateError
from protos.update.packing import pack, packed_bytes, unpack


@st.composite
def codes(draw: st.DrawFn) -> tuple[int, list[int]]:
    bits = draw(st.integers(1, 8))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))


@given(codes())
def test_unpacking_gives_back_what_was_packed(case: tuple[int, list[int]]) -> None:
    bits, values = case
    packed = pack(np.array(values, np.uint8), bits)
    assert len(packed) == packed_bytes(len(values), bits)
    assert unpack(packed, bits, len(values)).tolist() == values


@given(codes())
def test_the_layout_is_one_little_endian_number(case: tuple[int, list[int]]) -> None:
    bits, values = case
    number = sum(code << (bits * place) for place, code in enumerate(values))
    assert pack(np.array(values, np.uint8), bits) == number.to_bytes(packed_bytes(len(values), bits), "little")


def test_bytes_on_the_wire_are_fixed() -> None:
    assert pack(np.array([1, 0, 1, 1, 0, 0, 0, 1, 1], np.uint8), 1).hex() == "8d01"
    assert pack(np.array([5, 2, 7], np.uint8), 3).hex() == "d501"
    assert pack(np.array([0xA, 0xB, 0xC], np.uint8), 4).hex() == "ba0c"
    assert pack(np.array([0, 255], np.uint8), 8).hex() == "00ff"


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_byte_too_few_or_too_many_is_refused(bits: int, count: int, change: int) -> None:
    length = packed_bytes(count, bits) + change
    if length >= 0:
        with pytest.raises(UpdateError, match=f"need {packed_bytes(count, bits)} bytes, got {length}"):
            unpack(bytes(length), bits, count)


@given(codes())
def test_bits_past_the_last_code_are_refused(case: tuple[int, list[int]]) -> None:
    bits, values = case
    packed = pack(np.array(values, np.uint8), bits)
    if len(values) * bits % 8:
        with pytest.raises(UpdateError, match="past the last code"):
            unpack(packed[:-1] + bytes([packed[-1] | 0x80]), bits, len(values))
