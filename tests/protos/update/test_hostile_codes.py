"""Bytes from the network: numbers or an UpdateError, whatever they are."""

from __future__ import annotations

import dataclasses
import math
import struct
import tracemalloc

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from protos.convert.tensors import tensors_from, tensors_to
from protos.errors import UpdateError
from protos.update.codecs import build, generator
from protos.update.entropy.reader import EntropyCoded
from protos.update.quantised.levels import Codebook
from protos.update.quantised.rotated import Rotated
from protos.update.quantised.sparse import Sparse
from protos.update.tensors import EncodedTensor, Float32, UniformGrid, Values, decode
from protos.v1 import edgejoule_pb2 as pb

COUNT = 300
CASES: list[tuple[str, dict[str, float]]] = [
    ("entropy_coded", {"bits": 0.4}),
    ("entropy_coded", {"bits": 3}),
    ("entropy_coded", {"bits": 8}),
    ("entropy_coded_mmse", {"bits": 1}),
    ("eden", {"bits": 1.5}),
    ("eden", {"bits": 0.5}),
    ("bucket_quantile", {"bits": 3}),
    ("qsgd", {"bits": 4}),
    ("keep_largest", {"share": 0.2, "bits": 5}),
]


def coded(codec: str, parameters: dict[str, float], count: int = COUNT) -> EncodedTensor:
    values = np.random.default_rng(1).standard_t(2, size=count).astype(np.float32)
    built = build(codec, parameters)
    tensors, _ = built.encode({"w": values}, built.init({"w": (count,)}), generator(1, "hostile"))
    return tensors[0]


def entropy(**changes: object) -> EntropyCoded:
    values = coded("entropy_coded", {"bits": 3}).values
    assert isinstance(values, EntropyCoded)
    return dataclasses.replace(values, **changes)  # type: ignore[arg-type]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(len(changed) + 1))
        match int(rng.integers(5)):
            case 0:
                changed[at:at] = rng.bytes(int(rng.integers(1, 5)))
            case 1:
                del changed[at : at + int(rng.integers(1, 5))]
            case 2 if at < len(changed):
                changed[at] = int(rng.integers(256))
            case _ if at < len(changed):
                changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize(("codec", "parameters"), CASES, ids=str)
def test_a_changed_message_decodes_or_is_refused(codec: str, parameters: dict[str, float]) -> None:
    """2,500 changes of each kind of message, 22,500 in all."""
    rng = np.random.default_rng(7)
    whole = tensors_to([coded(codec, parameters)])[0].SerializeToString()
    refused = read_ = 0
    for _ in range(2500):
        try:
            tensors = tensors_from([pb.Tensor.FromString(mutated(whole, rng))])
            values = decode(tensors, {"w": (COUNT,)})["w"]
        except (DecodeError, UpdateError):
            refused += 1
            continue
        read_ += 1
        assert np.isfinite(values).all()
    assert refused > 100


@given(
    st.builds(
        EntropyCoded,
        st.floats(0, 10, width=32),
        st.none() | st.integers(0, 2**32 - 1),
        st.integers(0, 70_000),
        st.integers(0, 1 << 15),
        st.integers(0, 1 << 15),
        st.binary(max_size=2),
        st.binary(max_size=2),
        st.binary(max_size=40),
        st.binary(max_size=40),
        st.binary(max_size=8),
        st.binary(max_size=8),
    )
    | st.builds(
        Rotated,
        st.sampled_from([0, 1, 16, 17, 64, 65536, 1 << 17]),
        st.integers(0, 2**32),
        st.integers(0, 9),
        st.integers(0, 70_000),
        st.binary(max_size=24),
        st.binary(max_size=40),
    )
    | st.builds(Codebook, st.integers(0, 9), st.binary(max_size=16), st.binary(max_size=8))
    | st.builds(
        Sparse,
        st.integers(0, 2**32 - 1),
        st.binary(max_size=8),
        st.binary(max_size=8),
        st.builds(Float32, st.binary(max_size=16)),
    ),
    st.integers(0, 40),
)
def test_made_up_values_decode_or_are_refused(values: Values, count: int) -> None:
    try:
        back = decode([EncodedTensor("w", (count,), values)], {"w": (count,)})["w"]
    except UpdateError:
        return
    assert back.shape == (count,)
    assert np.isfinite(back).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (entropy(step=math.nan), "a step of nan"),
        (entropy(step=math.inf), "a step of inf"),
        (entropy(step=-1.0), "a step of -1"),
        (entropy(step=1e10), "a step of 1e\\+10"),
        (entropy(step=0.0), "zeros with something behind them"),
        (entropy(seed=None, share=5), "nothing to choose"),
        (entropy(share=65536), "the share is 65536"),
        (entropy(levels=b""), "0 levels and 0 gains for 1 tensors"),
        (entropy(levels=b"\x40\x40"), "2 levels and 0 gains for 1 tensors"),
        (entropy(gains=b"\x80\x80"), "1 levels and 2 gains"),
        (entropy(levels=b"\0"), "no coordinate travels"),
        (entropy(table=b""), "cut short"),
        (entropy(table=b"\x06\x01\x00"), "the form of a table is 6"),
        (entropy(table=b"\x21\x01\x00"), "the logarithm of parts of the dither is 4"),
        (entropy(seed=None, table=b"\x09\x01\x00"), "the logarithm of parts of the dither is 1"),
        (entropy(table=b"\x01\x40\x00"), "the reach of a table is 64"),
        (entropy(table=b"\x01\x01\x19"), "octaves of a table is 25"),
        (entropy(table=b"\x01\x01\x00\x00"), "a table of frequencies has 4 bytes"),
        (entropy(levels=b"\xff", table=bytes(4)), "without a symbol"),
        (entropy(codes=entropy().codes + b"\0\0"), "does not end where it must"),
        (entropy(codes=entropy().codes[:-2]), "ends too early|does not end"),
        (entropy(codes=entropy().codes + b"\0"), "no stream of"),
        (entropy(codes=b""), "no stream of"),
        (entropy(low=b"\1"), "low bits|codes of"),
        (entropy(tails=b"\1" * 9), "low bits of tails"),
        (entropy(inset_first=3), "exclude each other"),
        (entropy(seed=None, inset_rest=1 << 15), "an inset is 32768"),
        (Rotated(17, 0, 1, 0, b"", b""), "no power of two"),
        (Rotated(1 << 17, 0, 1, 0, b"", b""), "the size of a chunk"),
        (Rotated(64, 0, 1, 0, struct.pack("<5f", 1, 1, 1, 1, math.nan), bytes(38)), "NaN or infinity"),
        (Rotated(64, 0, 0, 0, bytes(24), b"x"), "numbers need|past the last"),
        (Codebook(9, b"", b""), "1 to 8 bits"),
        (Codebook(1, struct.pack("<2f", 0, 2e9), bytes(38)), "a level is beyond"),
        (Sparse(301, b"", b"", Float32(b"")), "the number of coordinates that travel"),
        (UniformGrid(4, 512, struct.pack("<f", math.inf), b"", bytes(150), True), "NaN or infinity"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_what_cannot_be_is_refused_with_a_reason(values: Values, words: str) -> None:
    with pytest.raises(UpdateError, match=words):
        decode([EncodedTensor("w", (COUNT,), values)], {"w": (COUNT,)})


def test_sparse_values_are_not_sparse_again() -> None:
    message = tensors_to([coded("keep_largest", {})])[0]
    message.sparse.values.CopyFrom(pb.Tensor(sparse=pb.Sparse(kept=1)))
    with pytest.raises(UpdateError, match="sparse again"):
        tensors_from([message])


@pytest.mark.parametrize(("codec", "parameters"), CASES, ids=str)
def test_decoding_takes_memory_for_the_expected_shape_alone(codec: str, parameters: dict[str, float]) -> None:
    """A message made for a million coordinates, offered for 300."""
    large = coded(codec, parameters, 1 << 18)
    tensor = dataclasses.replace(large, shape=(COUNT,))
    decode([coded(codec, parameters)], {"w": (COUNT,)})  # tables that are made once
    tracemalloc.start()
    try:
        with pytest.raises(UpdateError):
            decode([tensor], {"w": (COUNT,)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6


def tree_of(*sizes: int) -> tuple[EntropyCoded, dict[str, tuple[int, ...]]]:
    """A whole tree of layers, each of half the scale of the one before, as one message; and its shapes."""
    rng = np.random.default_rng(3)
    tree = {f"l{i:02d}": (2.0**-i * rng.normal(size=size)).astype(np.float32) for i, size in enumerate(sizes)}
    tensors, _ = build("entropy_coded", {"bits": 3}).encode(tree, {}, generator(1, "tree"))
    assert isinstance(tensors[0].values, EntropyCoded)
    return tensors[0].values, {name: array.shape for name, array in tree.items()}


def test_a_changed_message_of_a_tree_decodes_or_is_refused() -> None:
    values, expected = tree_of(*[40] * 12)
    rng = np.random.default_rng(9)
    whole = tensors_to([EncodedTensor("*", (480,), values)])[0].SerializeToString()
    refused = 0
    for _ in range(2500):
        try:
            back = decode(tensors_from([pb.Tensor.FromString(mutated(whole, rng))]), expected)
        except (DecodeError, UpdateError):
            refused += 1
            continue
        assert all(np.isfinite(array).all() for array in back.values())
    assert refused > 100


def test_a_whole_tree_is_alone_and_of_the_expected_size() -> None:
    values, expected = tree_of(30, 20)
    whole = EncodedTensor("*", (50,), values)
    assert sorted(decode([whole], expected)) == ["l00", "l01"]
    one = EncodedTensor("l00", (30,), Float32(bytes(120)))
    for tensors, words in (
        ([whole, whole], "a whole tree beside its tensors"),
        ([one, whole], "a whole tree beside its tensors"),
        ([whole, one], "twice in one update"),
        ([dataclasses.replace(whole, shape=(51,))], "declared shape"),
        ([dataclasses.replace(whole, shape=(30, 20))], "declared shape"),
        ([dataclasses.replace(whole, values=dataclasses.replace(values, levels=values.levels + b"\1"))], "3 levels"),
    ):
        with pytest.raises(UpdateError, match=words):
            decode(tensors, expected)


def test_a_model_of_too_many_rows_is_refused_before_it_is_made() -> None:
    values, _ = tree_of(30, 20)
    many = dataclasses.replace(values, levels=bytes(range(1, 201)))
    with pytest.raises(UpdateError, match="rows, not up to"):
        decode([EncodedTensor("*", (400,), many)], {f"l{i:03d}": (2,) for i in range(200)})
