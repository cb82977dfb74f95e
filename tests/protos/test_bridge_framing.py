"""Frames on the bridge's line: COBS, CRC, resynchronisation, bounds."""

from __future__ import annotations

import binascii
import random
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.bridge.framing import (
    MAX_FRAME,
    MAX_PAYLOAD,
    DropCounts,
    FrameParser,
    cobs_decode,
    cobs_encode,
    encode_frame,
)

payloads = st.binary(min_size=1, max_size=MAX_PAYLOAD)


@given(st.binary(max_size=1200))
def test_stuffing_is_undone_and_holds_no_zero(data):
    stuffed = cobs_encode(data)
    assert 0 not in stuffed
    assert cobs_decode(stuffed) == data
    assert len(stuffed) <= len(data) + 1 + len(data) // 254


@pytest.mark.parametrize(
    ("plain", "stuffed"),
    [
        ("00", "01 01"),
        ("00 00", "01 01 01"),
        ("11 22 00 33", "03 11 22 02 33"),
        ("11 00 00 00", "02 11 01 01 01"),
    ],
)
def test_stuffing_agrees_with_the_examples_of_the_paper(plain, stuffed):
    assert cobs_encode(bytes.fromhex(plain)).hex(" ") == stuffed


def test_runs_of_254_bytes_need_no_closing_code():
    data = bytes(range(1, 255))
    assert cobs_encode(data) == b"\xff" + data
    for more in (b"\x01", b"\x00", b"\x00\x02", b"\x01\x00", data, b"\x00" + data):
        assert cobs_decode(cobs_encode(data + more)) == data + more


def test_the_check_is_the_ccitt_false_crc():
    assert binascii.crc_hqx(b"123456789", 0xFFFF) == 0x29B1


@settings(deadline=None)
@given(st.lists(payloads, max_size=8), st.data())
def test_frames_survive_any_way_of_cutting_the_stream(sent, data):
    stream = b"".join(encode_frame(payload) for payload in sent)
    parser, got = FrameParser(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += parser.feed(stream[:size])
        stream = stream[size:]
    assert got == sent
    assert parser.drops.frames == 0


@settings(max_examples=200, deadline=None)
@given(payloads, payloads, st.binary(max_size=400), payloads)
def test_the_frame_after_any_garbage_is_read(first, second, garbage, third):
    parser = FrameParser()
    got = parser.feed(encode_frame(first) + garbage + encode_frame(second) + encode_frame(third))
    assert got[0] == first
    assert got[-2:] == [second, third]


# Derandomised: one damaged frame in 65,536 has a matching check by chance.
@settings(max_examples=300, deadline=None, derandomize=True)
@given(payloads, st.data())
def test_a_flipped_bit_never_gives_another_payload(payload, data):
    frame = bytearray(encode_frame(payload))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= 1 << data.draw(st.integers(0, 7))
    assert set(FrameParser().feed(b"\x00" + bytes(frame) + b"\x00")) <= {payload}


def test_a_frame_cut_by_a_reset_does_not_take_the_next_one_with_it():
    parser = FrameParser()
    cut = encode_frame(b"samples before the reset")[:9]
    assert parser.feed(cut + encode_frame(b"hello")) == [b"hello"]
    assert parser.drops.frames == 1


def test_what_comes_before_the_first_delimiter_is_skipped_and_counted():
    parser = FrameParser()
    assert parser.feed(b"tail of a frame" + encode_frame(b"whole")) == [b"whole"]
    assert parser.drops.skipped_bytes == 15
    assert parser.drops.frames == 0


def test_a_line_without_delimiters_is_not_kept_in_memory():
    parser = FrameParser()
    parser.feed(b"\x00")
    for _ in range(1000):
        assert parser.feed(b"\x55" * 1000) == []
        assert len(parser._held) <= MAX_FRAME
    assert parser.drops.oversize == 1
    assert parser.feed(b"\x00" + encode_frame(b"after")) == [b"after"]


def test_each_kind_of_bad_frame_is_counted_once_under_its_own_name():
    good = encode_frame(b"hello")
    parser = FrameParser()
    parser.feed(b"\x00")
    for counted, bad in (
        ("oversize", b"\x55" * (MAX_FRAME + 1) + b"\x00"),
        ("framing", b"\x02\x41\x00"),
        ("crc", good[:-2] + bytes([good[-2] ^ 0x10]) + b"\x00"),
    ):
        before = asdict(parser.drops)
        assert parser.feed(bad) == []
        assert asdict(parser.drops) == {**before, counted: before[counted] + 1}
    assert parser.feed(good) == [b"hello"]


def test_a_hundred_thousand_random_bytes_never_raise():
    source = random.Random(219)
    parser = FrameParser()
    for _ in range(500):
        parser.feed(source.randbytes(source.randrange(400)))
    assert parser.drops.frames > 100


@pytest.mark.parametrize("size", [0, MAX_PAYLOAD + 1])
def test_a_payload_that_does_not_fit_is_refused(size):
    with pytest.raises(ValueError, match="fit a frame"):
        encode_frame(bytes(size))


def test_noise_without_an_end_before_the_first_frame_is_counted_as_skipped_and_not_kept():
    parser = FrameParser()
    noise = b"\x01" * (3 * MAX_FRAME + 7)
    for at in range(0, len(noise), 100):
        assert parser.feed(noise[at : at + 100]) == []
    assert parser.feed(b"\x00") == []
    assert parser.drops == DropCounts(skipped_bytes=len(noise))
