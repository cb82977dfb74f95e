"""Decoding: bytes of a peer become numbers or an UpdateError, in memory bounded by what is expected."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.errors import UpdateError
from protos.update.tensors import ABSURD, EncodedTensor, Float16, Float32, UniformGrid, Values, as_float32, decode

SHAPES = {"bias": (3,), "kernel": (2, 3)}


def floats(*numbers: float, kind: str = "<f4") -> bytes:
    return np.array(numbers, kind).tobytes()


GRID = UniformGrid(bits=2, bucket=2, step=floats(1.0, 10.0), offset=b"", codes=bytes([0b00_10_11_00]))


def decode_one(values: Values, shape: tuple[int, ...] = (3,)) -> list[float]:
    numbers: list[float] = decode([EncodedTensor("bias", shape, values)], {"bias": shape})["bias"].tolist()
    return numbers


def whole() -> list[EncodedTensor]:
    return [
        EncodedTensor("bias", (3,), Float32(floats(1, 2, 3))),
        EncodedTensor("kernel", (2, 3), Float16(floats(*range(6), kind="<f2"))),
    ]


def test_numbers_on_the_wire_are_fixed() -> None:
    assert decode_one(Float32(bytes.fromhex("0000803f 000000c0 00000000"))) == [1.0, -2.0, 0.0]
    assert decode_one(Float16(bytes.fromhex("003c 00c0 0100"))) == [1.0, -2.0, 2.0**-24]
    # Levels of two bits are -1.5, -0.5, 0.5 and 1.5 steps; the third coordinate lies in the second bucket.
    assert decode_one(GRID) == [-1.5, 1.5, 5.0]
    assert decode_one(replace(GRID, offset=floats(1.0, -5.0))) == [-0.5, 2.5, 0.0]
    assert decode_one(replace(GRID, step=floats(0.0, 0.0), offset=floats(1.0, -5.0))) == [1.0, 1.0, -5.0]


def test_a_bucket_larger_than_the_tensor_is_one_bucket() -> None:
    assert decode_one(replace(GRID, bucket=2**32 - 1, step=floats(2.0))) == [-3.0, 3.0, 1.0]


def test_trees_come_back_in_shape_and_float32() -> None:
    tree = decode(whole(), SHAPES)
    assert {name: array.shape for name, array in tree.items()} == SHAPES
    assert {array.dtype for array in tree.values()} == {np.dtype(np.float32)}
    assert tree["kernel"].tolist() == [[0, 1, 2], [3, 4, 5]]


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.lists(st.integers(0, 3), max_size=3), max_size=4))
def test_float32_loses_nothing(shapes: dict[str, list[int]]) -> None:
    rng = np.random.default_rng(0)
    tree = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    back = decode(as_float32(tree), shapes)
    assert set(back) == set(tree)
    for name in tree:
        np.testing.assert_array_equal(back[name], tree[name])


def test_float32_is_little_endian_and_in_c_order_whatever_the_array_is() -> None:
    odd = {"kernel": np.asfortranarray(np.arange(6).reshape(2, 3).astype(">f4"))}
    (tensor,) = as_float32(odd)  # type: ignore[arg-type]
    assert tensor.values == Float32(floats(*range(6)))


@pytest.mark.parametrize("count", [0, 1])
def test_tensors_of_no_coordinate_or_one_are_tensors(count: int) -> None:
    ones = [1.0] * count
    assert decode_one(Float32(floats(*ones)), (count,)) == ones
    assert decode_one(Float16(floats(*ones, kind="<f2")), (count,)) == ones
    grid = UniformGrid(1, 16, floats(*[2.0] * count), b"", bytes(count) if not count else b"\x01")
    assert decode_one(grid, (count,)) == ones


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (Float32(floats(1, 2)), "need 12 bytes, got 8"),
        (Float32(floats(1, 2, 3) + b"\0"), "need 12 bytes, got 13"),
        (Float32(b""), "need 12 bytes, got 0"),
        (Float16(floats(1, 2, 3, 4, kind="<f2")), "need 6 bytes, got 8"),
        (Float32(floats(1, np.nan, 3)), "NaN or infinity"),
        (Float32(floats(1, -np.inf, 3)), "NaN or infinity"),
        (Float16(floats(1, np.inf, 3, kind="<f2")), "NaN or infinity"),
        (Float32(floats(1, 2e9, 3)), "beyond 1e\\+09"),
        (Float32(floats(1, -3e38, 3)), "beyond 1e\\+09"),
        (replace(GRID, bits=0), "1 to 8 bits, not 0"),
        (replace(GRID, bits=9), "1 to 8 bits, not 9"),
        (replace(GRID, bits=2**32 - 1), "1 to 8 bits"),
        (replace(GRID, bucket=0), "1 coordinate or more, not 0"),
        (replace(GRID, bucket=1), "3 numbers need 12 bytes, got 8"),
        (replace(GRID, bucket=2**32 - 1), "1 numbers need 4 bytes, got 8"),
        (replace(GRID, step=b""), "2 numbers need 8 bytes, got 0"),
        (replace(GRID, step=floats(1, np.nan)), "NaN or infinity"),
        (replace(GRID, step=floats(np.inf, 1)), "NaN or infinity"),
        (replace(GRID, step=floats(1, -1e-30)), "a step is negative"),
        (replace(GRID, step=floats(1, 3e38)), "a step is beyond 2e\\+09"),
        (replace(GRID, step=floats(1e9, 1)), "a coordinate is beyond 1e\\+09"),
        (replace(GRID, offset=floats(1.0)), "2 numbers need 8 bytes, got 4"),
        (replace(GRID, offset=floats(1, np.nan)), "NaN or infinity"),
        (replace(GRID, offset=floats(-3e38, 1)), "an offset is beyond 1e\\+09"),
        (replace(GRID, codes=b""), "need 1 bytes, got 0"),
        (replace(GRID, codes=GRID.codes + b"\0"), "need 1 bytes, got 2"),
        (replace(GRID, codes=b"\xff"), "past the last code"),
    ],
)
def test_what_is_not_as_declared_is_refused_by_name(values: Values, words: str) -> None:
    with pytest.raises(UpdateError, match=words) as caught:
        decode_one(values)
    assert caught.value.where == "bias"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ([], "missing: .*bias.*kernel"),
        (whole()[:1], "missing: .*kernel"),
        ([*whole(), whole()[0]], "bias: twice"),
        ([*whole(), EncodedTensor("more", (1,), Float32(floats(1)))], "unexpected tensor 'more'"),
        ([replace(whole()[0], shape=(1, 3)), whole()[1]], r"declared shape \(1, 3\), expected \(3,\)"),
        ([replace(whole()[0], shape=()), whole()[1]], r"declared shape \(\)"),
        ([whole()[0], replace(whole()[1], shape=(3, 2))], r"kernel: declared shape \(3, 2\)"),
        ([replace(whole()[0], shape=(2**32 - 1,) * 8), whole()[1]], "declared shape"),
    ],
)
def test_just_the_expected_tensors_must_be_there_once_each(tensors: Iterable[EncodedTensor], words: str) -> None:
    with pytest.raises(UpdateError, match=words):
        decode(tensors, SHAPES)


def test_the_largest_sensible_coordinate_is_taken() -> None:
    assert decode_one(Float32(floats(ABSURD, -ABSURD, 0))) == [ABSURD, -ABSURD, 0.0]
    assert decode_one(UniformGrid(1, 4, floats(2 * ABSURD), b"", b"\x05")) == [ABSURD, -ABSURD, ABSURD]


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    "tensor",
    [
        EncodedTensor("w", (HUGE,), Float32(b"")),
        EncodedTensor("w", (HUGE,) * 8, Float16(b"")),
        EncodedTensor("w", (HUGE, HUGE), UniformGrid(8, HUGE, floats(1), b"", b"")),
        EncodedTensor("w", (100,), UniformGrid(8, HUGE, floats(1), b"", bytes(99))),
        EncodedTensor("w", (100,), UniformGrid(HUGE, HUGE, floats(1), floats(1), bytes(100))),
        EncodedTensor("w", (100,), UniformGrid(8, 1, bytes(4), b"", bytes(100))),
        EncodedTensor("w", (100,), UniformGrid(8, HUGE, floats(1), b"", bytes(100))),
    ],
)
def test_memory_does_not_follow_what_is_declared(tensor: EncodedTensor) -> None:
    tracemalloc.start()
    try:
        decode([tensor], {"w": (100,)})
    except UpdateError:
        pass
    finally:
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 64 * 1024


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("bucket", [1, 1000, 99_999, 100_000, HUGE])
def test_memory_is_a_small_multiple_of_the_expected_tensor(bits: int, bucket: int) -> None:
    count = 100_000
    step = np.ones(-(-count // bucket), "<f4").tobytes()
    grid = UniformGrid(bits, bucket, step, step, bytes((count * bits + 7) // 8))
    tracemalloc.start()
    decode([EncodedTensor("w", (count,), grid)], {"w": (count,)})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 48 * count


@given(
    st.integers(-1, 10),
    st.integers(-1, 20),
    st.binary(max_size=12),
    st.binary(max_size=12),
    st.binary(max_size=12),
    st.integers(0, 10),
)
def test_any_grid_decodes_to_sensible_numbers_or_is_an_update_error(
    bits: int, bucket: int, step: bytes, offset: bytes, codes: bytes, count: int
) -> None:
    try:
        numbers = decode_one(UniformGrid(bits, bucket, step, offset, codes), (count,))
    except UpdateError:
        return
    assert len(numbers) == count
    assert all(abs(number) <= ABSURD for number in numbers)
