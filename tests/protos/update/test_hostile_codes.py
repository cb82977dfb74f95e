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
from protos.update import rans
from protos.update.codecs import build, generator
from protos.update.entropy import EntropyCoded
from protos.update.frequencies import read
from protos.update.levels import Codebook
from protos.update.rotated import Rotated
from protos.update.sparse import Sparse
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
        st.integers(0, 9),
        st.booleans(),
        st.integers(0, 200),
        st.integers(0, 200),
        st.binary(max_size=40),
        st.binary(max_size=40),
        st.binary(max_size=8),
        st.binary(max_size=8),
        st.integers(0, 5),
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
        (entropy(split=9), "the split is 9"),
        (entropy(table=b""), "cut short"),
        (entropy(table=b"\x09\x01\x00\x00\x00"), "the form of a table is 9"),
        (entropy(table=b"\x00\x40\x00" + bytes(129)), "the reach of a table is 64"),
        (entropy(table=bytes(4)), "without a symbol"),
        (entropy(codes=entropy().codes + b"\0\0"), "does not end where it must"),
        (entropy(codes=entropy().codes[:-2]), "ends too early|does not end"),
        (entropy(codes=entropy().codes + b"\0"), "no stream of"),
        (entropy(codes=b""), "no stream of"),
        (entropy(low=b"\1"), "low bits|codes of"),
        (entropy(tails=b"\1" * 9), "low bits of tails"),
        (entropy(inset_first=3), "exclude each other"),
        (entropy(shorter=5), "halvings of the rows"),
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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300), st.integers(0, 4))
def test_the_entropy_coder_gives_back_what_it_took(symbols: list[int], shorter: int) -> None:
    tokens = np.array(symbols)
    frequencies = (np.bincount(tokens, minlength=10)[None, :] > 0) * 1
    frequencies[0, tokens[0]] += (1 << 15) - frequencies.sum()
    data = rans.encode(tokens, frequencies, 15, shorter)
    assert rans.decode(data, frequencies, 15, tokens.size, None, shorter).tolist() == symbols


@pytest.mark.parametrize("form", range(1, 6))
@pytest.mark.parametrize("scale", [0, 1, 300, 65535])
def test_every_density_is_a_table_in_which_all_symbols_occur(form: int, scale: int) -> None:
    model = read(bytes([form, 63, 24]) + scale.to_bytes(2, "little"), split=3, contexts=1)
    assert model.frequencies.sum() == 1 << 15
    assert model.frequencies.min() >= 1
    assert model.frequencies.shape == (1, 175)


def test_tables_are_the_same_integers_on_every_machine() -> None:
    rows = [read(bytes([form, 4, 2, 0, 2]), split=0, contexts=1).frequencies[0].tolist() for form in range(1, 6)]
    assert rows == FIXED


FIXED = [
    [886, 2125, 3969, 5774, 6550, 5774, 3969, 2125, 886, 288, 67, 288, 67],
    [535, 1439, 3323, 6342, 9038, 6342, 3323, 1439, 535, 174, 52, 174, 52],
    [1113, 1835, 3024, 4985, 8224, 4985, 3024, 1835, 1113, 676, 639, 676, 639],
    [865, 1263, 1979, 3553, 14616, 3553, 1979, 1263, 865, 620, 796, 620, 796],
    [421, 995, 2627, 6725, 10516, 6725, 2627, 995, 421, 200, 158, 200, 158],
]
