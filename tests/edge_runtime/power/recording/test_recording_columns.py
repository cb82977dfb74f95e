"""Columns of integers: every int64 comes back, and no bytes make the reader do anything but refuse."""

from __future__ import annotations

import contextlib
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.power.recording import columns
from edge_runtime.power.recording.columns import (
    Cursor,
    DamagedBlock,
    pack,
    pack_floats,
    unpack,
    unpack_floats,
    varint,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
NEAR = st.integers(-300, 300)


@given(st.lists(st.one_of(INT64, NEAR), max_size=200))
def test_every_column_of_integers_comes_back(values):
    packed = pack(np.array(values, np.int64))
    cursor = Cursor(packed)
    assert unpack(cursor, len(values)).tolist() == values
    assert cursor.at == len(packed)


@given(st.lists(st.floats(allow_nan=False), max_size=50))
def test_floats_come_back_bit_for_bit(values):
    assert unpack_floats(Cursor(pack_floats(np.array(values))), len(values)).tobytes() == np.array(values).tobytes()


@given(st.integers(0, 2**64 - 1))
def test_numbers_of_64_bits_come_back(number):
    assert Cursor(varint(number)).varint() == number


@given(st.binary(max_size=80), st.integers(0, 60))
def test_bytes_that_are_no_column_are_refused_and_nothing_worse(data, count):
    with contextlib.suppress(DamagedBlock):
        assert len(unpack(Cursor(data), count)) == count


@given(st.lists(NEAR, min_size=40, max_size=60), st.data())
def test_a_changed_byte_of_a_column_is_refused_or_gives_as_many_values(values, data):
    packed = bytearray(pack(np.array(values, np.int64)))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(DamagedBlock):
        assert len(unpack(Cursor(bytes(packed)), len(values))) == len(values)


def test_a_bomb_is_not_inflated():
    body = zlib.compress(bytes(50_000_000))[2:-4]
    bomb = bytes([1 << 2 | 1 << 6]) + varint(0) + varint(len(body)) + body
    with pytest.raises(DamagedBlock, match="inflated"):
        unpack(Cursor(bomb), 16)


def test_constant_and_even_columns_need_no_bytes_per_value():
    assert len(pack(np.full(100_000, 5))) == len(pack(np.full(10, 5))) == 2
    assert len(pack(np.arange(100_000) * 16)) <= 4


def test_noise_of_three_bits_needs_about_three_bits():
    noise = np.random.default_rng(1).integers(0, 8, 4000)
    assert len(pack(noise)) / len(noise) < 3.3 / 8


def test_bytes_that_deflating_makes_no_fewer_are_kept_as_they_are(monkeypatch):
    numbers = np.random.default_rng(1).integers(-(2**40), 2**40, 500)
    made = []
    for changed in (1, 0, -1):
        monkeypatch.setattr(columns, "_deflate", lambda body, changed=changed: b"x" * (len(body) + changed))
        made.append(pack(numbers))
    assert made[1] == made[0]
    assert made[2] != made[0]
