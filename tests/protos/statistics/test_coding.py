"""Statistics as they travel: without loss, in few bytes, and whatever bytes come, sums of examples or one error."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.convert.statistics import statistics_from, statistics_to
from protos.errors import UpdateError
from protos.statistics import coding
from protos.statistics.coding import MAX_TRAVELLING, CodedMoments, decode, encode, most_bytes, size_bytes
from protos.statistics.moments import Moments, moments_of
from protos.v1 import edgejoule_pb2 as pb


def made(seed: int, count: int, classes: int, width: int, spread: int = 128, zero: float = 0.0) -> Moments:
    random = np.random.default_rng(seed)
    means = random.integers(-spread, spread, (classes, width)) // 2
    labels = random.integers(0, classes, count)
    x = np.clip(means[labels] + random.normal(0, spread / 4, (count, width)), -128, 127).astype(np.int8)
    x[:, random.random(width) < zero] = 0
    return moments_of(x, labels, classes, 0)


@given(
    st.integers(0, 999), st.integers(0, 300), st.integers(1, 6), st.integers(1, 40), st.sampled_from([1, 8, 128]),
    st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_what_is_decoded_is_what_was_coded(
    seed: int, count: int, classes: int, width: int, spread: int, zero: float
) -> None:
    moments = made(seed, count, classes, width, spread, zero)
    message = statistics_to(encode(moments, 0))
    assert message is not None
    read = statistics_from(pb.Statistics.FromString(message.SerializeToString()))
    assert decode(read, classes=classes, width=width, offset=0) == moments
    assert message.ByteSize() <= most_bytes(classes, width)


def test_coding_spares_bytes() -> None:
    """64 wide, ten classes, 1,000 examples: what 64 bits a number would weigh, and what it does."""
    moments = made(1, 1000, 10, 64)
    plain = 8 * (10 + 640 + 64 * 65 // 2)
    size = size_bytes(encode(moments, 0))
    assert size < 0.3 * plain
    message = statistics_to(encode(moments, 0))
    assert message is not None
    assert size == pytest.approx(message.ByteSize(), rel=0.02)


def test_what_was_not_ordered_is_refused() -> None:
    coded = encode(made(1, 20, 3, 5), 0)
    for fields, words in (
        ({"offset": 1}, "moved by 0, not by 1"),
        ({"classes": 4}, "counts of 3 classes, not 4"),
        ({"width": 6}, "5 totals and 5 squares for a width of 6"),
    ):
        with pytest.raises(UpdateError, match=words):
            decode(coded, **{"classes": 3, "width": 5, "offset": 0, **fields})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": (MAX_TRAVELLING, 1, 0)}, "the number of examples is"),
        ({"counts": (2**64 - 1, 0, 0)}, "a count is"),
        ({"counts": (0, 0, 0)}, "sums of no example"),
        ({"totals": (2**63 - 1, 0, 0, 0, 0)}, "a total is"),
        ({"squares": (2**64 - 1, 0, 0, 0, 0)}, "a sum of squares is"),
        ({"squares": (0, 0, 0, 0, 0)}, "."),
        ({"totals": (), "squares": ()}, "0 totals and 0 squares"),
    ],
)
def test_numbers_that_no_sum_has_are_refused(changes: dict[str, Any], words: str) -> None:
    coded = dataclasses.replace(encode(made(2, 20, 3, 5), 0), **changes)
    with pytest.raises(UpdateError, match=words):
        decode(coded, classes=3, width=5, offset=0)


def test_a_device_sends_no_more_than_the_coder_is_exact_for() -> None:
    many = Moments(np.array([MAX_TRAVELLING + 1]), np.zeros((1, 1), np.int64), np.zeros(1, np.int64))
    with pytest.raises(UpdateError, match=f"at most {MAX_TRAVELLING}"):
        encode(many, 0)


def test_bytes_make_sums_of_examples_or_an_update_error() -> None:
    """5,000 damaged messages: nothing but an UpdateError leaves, and what is read is possible."""
    random = np.random.default_rng(7)
    message = statistics_to(encode(made(3, 60, 3, 9), 0))
    assert message is not None
    honest = message.SerializeToString()
    read = 0
    for _ in range(5000):
        data = bytearray(honest)
        for _ in range(random.integers(1, 5)):
            at = int(random.integers(len(data)))
            match random.integers(4):
                case 0:
                    data[at] = random.integers(256)
                case 1:
                    del data[at : at + int(random.integers(1, 20))]
                case 2:
                    data[at:at] = random.bytes(int(random.integers(1, 8)))
                case _:
                    data[at] ^= 1 << int(random.integers(8))
            if not data:
                break
        try:
            parsed = pb.Statistics.FromString(bytes(data))
        except Exception:  # protobuf's DecodeError is not the same class in every backend
            continue
        try:
            found = decode(statistics_from(parsed), classes=3, width=9, offset=0)
        except UpdateError:
            continue
        found.check()
        read += 1
    assert read > 0, "low bits may change without a trace; the report has a hash"


some = st.binary(max_size=30)
coded_whole = st.builds(coding.CodedWhole, st.integers(0, 9) | st.just(2**32 - 1), some, some, some, some)
numbers = st.lists(st.integers(-(2**40), 2**40), max_size=2).map(tuple)


@given(
    st.builds(
        CodedMoments,
        st.just(0),
        st.lists(st.integers(0, 2**24), max_size=3).map(tuple),
        numbers,
        numbers,
        coded_whole,
        coded_whole,
    )
)
@settings(max_examples=300, deadline=None)
def test_made_up_messages_are_refused_by_one_kind_of_error(coded: CodedMoments) -> None:
    with contextlib.suppress(UpdateError):
        decode(coded, classes=3, width=2, offset=0).check()
