"""UF2 blocks: golden bytes, round trips, and hostile files."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_tools.bridge.images.uf2 import BLOCK_BYTES, FLASH_START, PAYLOAD_BYTES, RP2040, pack, unpack
from protos.errors import DataError

PAGES = st.integers(0, (1 << 32) // PAYLOAD_BYTES - 8).map(lambda page: page * PAYLOAD_BYTES)


def test_a_block_is_laid_out_as_the_specification_says():
    block = pack(bytes(range(256)) + b"\x55")[:BLOCK_BYTES]
    head = struct.unpack_from("<8I", block)
    assert head == (0x0A324655, 0x9E5D5157, 0x2000, 0x10000000, 256, 0, 2, 0xE48BFF56)
    assert block[32:288] == bytes(range(256))
    assert block[288:508] == bytes(220)
    assert block[508:] == bytes.fromhex("306fb10a")
    assert block.startswith(b"UF2\nWQ]\x9e")


@given(st.binary(min_size=1, max_size=1500), PAGES, st.randoms(use_true_random=False))
def test_what_is_packed_is_unpacked_in_any_order(image, address, rng):
    packed = pack(image, address=address)
    blocks = [packed[at : at + BLOCK_BYTES] for at in range(0, len(packed), BLOCK_BYTES)]
    rng.shuffle(blocks)
    start, data = unpack(b"".join(blocks))
    assert start == address
    assert data[: len(image)] == image
    assert set(data[len(image) :]) <= {0xFF}
    assert len(data) - len(image) < PAYLOAD_BYTES


@given(st.binary(max_size=3 * BLOCK_BYTES))
def test_any_bytes_are_refused_in_one_way(data):
    with pytest.raises(DataError):
        unpack(data)


@given(st.integers(0, 3 * BLOCK_BYTES - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_is_padding_or_payload(at, change):
    packed = bytearray(pack(random.Random(1).randbytes(3 * PAYLOAD_BYTES)))
    packed[at] ^= change
    in_block = at % BLOCK_BYTES
    # UF2 has no checksum, and the address of a whole image may be any: only its parts must agree.
    if 32 <= in_block < 508:
        unpack(bytes(packed))
    else:
        with pytest.raises(DataError):
            unpack(bytes(packed))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[:BLOCK_BYTES], "block 0 of 3 among 1"),
        (lambda b: b[:BLOCK_BYTES] * 3, "block 0 of 3"),
        (lambda b: b[:-1], "are not blocks of 512"),
        (lambda b: b"", "0 bytes are not blocks"),
        (lambda b: pack(b"x", family=0xE48BFF59), "is for family e48bff59, not e48bff56"),
        (lambda b: b[: 2 * BLOCK_BYTES] + pack(b"x" * 768, address=0x20000000)[2 * BLOCK_BYTES :], "a gap"),
    ],
)
def test_files_that_hold_no_whole_image_are_refused(change, said):
    with pytest.raises(DataError, match=said):
        unpack(change(pack(b"x" * 768)))


@pytest.mark.parametrize(
    ("image", "address"), [(b"", FLASH_START), (b"x", 1), (b"xx", 0xFFFFFF00 + 0x100), (b"x", -256)]
)
def test_images_that_do_not_fit_are_refused(image, address):
    with pytest.raises(ValueError, match="no image for UF2"):
        pack(image, address=address, family=RP2040)
