"""Messages of the bridge: layout, ranges, versions, garbage."""

from __future__ import annotations

import contextlib
import random
import struct
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.bridge.commands import (
    ALL_SENSORS,
    HANG_KEY,
    Command,
    calibration_command,
    command,
    decode_command,
    sync_command,
    uid_command,
)
from protos.bridge.framing import MAX_PAYLOAD
from protos.bridge.hello import Feature, Hello, MalformedMessage, SensorRecord
from protos.bridge.messages import Ack, Marker, Samples, Stats, SyncReply, decode, wrap
from protos.energy.ina219 import Calibration

u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
i32, i64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
calibrations = st.builds(Calibration, u32, st.integers(1, 2**32 - 1), i32, i32, u16)
records = st.builds(SensorRecord, st.integers(0x40, 0x4F), u16, st.integers(0, 2), calibrations)
hellos = st.builds(
    Hello,
    firmware=st.tuples(*[st.integers(0, 255)] * 3),
    boot=u16,
    tick=u64,
    profile=st.integers(0, 255),
    sensors=st.lists(records, min_size=1, max_size=4).map(tuple),
    git=st.binary(min_size=4, max_size=4),
    build=st.binary(min_size=8, max_size=8),
    uid=st.binary(min_size=8, max_size=8),
    boots=u16,
    features=st.integers(0, 63),
)


@given(hellos)
def test_hello_comes_back_as_it_was_and_fits_a_frame(hello):
    payload = hello.encode()
    assert len(payload) <= MAX_PAYLOAD
    assert decode(payload) == hello


@given(
    st.integers(0, 3), u16, u16, u32, st.lists(st.tuples(u16, st.integers(-32768, 32767), u16), min_size=1, max_size=16)
)
def test_samples_come_back_as_they_were(sensor, boot, seq, t0, rows):
    dt, shunt, bus = (np.array(column) for column in zip(*rows, strict=True))
    sent = Samples(sensor, boot, seq, 0, 2, t0, dt.astype(np.int64), shunt.astype(np.int16), bus.astype(np.uint16))
    got = decode(sent.encode())
    for field in fields(Samples):
        assert np.array_equal(getattr(got, field.name), getattr(sent, field.name)), field.name
    assert len(sent.encode()) == 14 + 6 * len(rows)


@given(u16, u64, u32, i64, i64)
def test_stats_sync_ack_and_marker_come_back_as_they_were(boot, tick, count, total, other):
    stats = Stats(1, boot, 3, tick, tick, count, total, other, total, other, i2c_errors=7)
    assert decode(stats.encode()) == stats
    sync = SyncReply(boot, count, tick, tick)
    assert decode(sync.encode()) == sync
    assert decode(Ack(0x83, 2, boot).encode()) == Ack(0x83, 2, boot)
    marker = Marker(1, boot, 9, tick)
    assert decode(marker.encode()) == marker


def test_layout_is_fixed_byte_by_byte():
    """Golden bytes: the firmware in C is written against these."""
    record = SensorRecord(0x40, 0x0E67, 0, Calibration(0xDEADBEEF, 20_000, -1500, 300, 20_000))
    hello = Hello(
        (0, 1, 2), 0x1234, 5_000_000, 2, (record,), uid=b"ABCDEFGH", boots=3, reset=2, features=Feature.CONFIG
    )
    assert hello.encode().hex() == (
        "01" + b"EJPB".hex() + "0101" + "00" + "000102" + "00" + "00000000" + "00" * 8 + b"ABCDEFGH".hex()
        + "3412" + "0300" + "02" + "0400" + "40420f00" + "404b4c0000000000" + "02" + "10" + "01"
        + "40" + "670e" + "00" + "efbeadde" + "204e0000" + "24faffff" + "2c010000" + "204e"
    )  # fmt: skip
    samples = Samples(1, 0x1234, 7, 0, 2, 0x01020304, np.array([4792]), np.array([-2], "i2"), np.array([0x27A2], "u2"))
    assert samples.encode().hex() == "0201" + "34120700" + "00020001" + "04030201" + "b812feffa227"
    stats = Stats(0, 0x1234, 8, 1_000_000, 999_000, 16, 1, -1, 2, -2, overflows=1, rx_errors=70_000)
    assert stats.encode().hex() == (
        "0300341208000000" + "40420f0000000000" + "583e0f0000000000" + "10000000" + "0100000000000000"
        + "ffffffffffffffff" + "0200000000000000" + "feffffffffffffff" + "0100" + "0000" * 3 + "ffff"
    )  # fmt: skip
    assert SyncReply(1, 2, 3, 4).encode().hex() == "04010002000000" + "0300000000000000" + "0400000000000000"
    assert Marker(1, 0x1234, 7, 1_000_000).encode().hex() == "060134120700" + "40420f0000000000"


def test_commands_are_fixed_byte_by_byte():
    assert sync_command(5).hex() == "8205000000"
    assert command(Command.REBOOT, 0xB007).hex() == "8507b0"
    assert command(Command.REBOOT, HANG_KEY).hex() == "85adde"
    assert command(Command.SET_CONFIG, ALL_SENSORS, 0x09E7, 0).hex() == "87ffe70900"
    assert command(Command.SET_RANGE, 1, 3).hex() == "880103"
    assert uid_command(b"ABCDEFGH").hex() == "89" + b"ABCDEFGH".hex()
    record = Calibration(0xDEADBEEF, 20_000, -1500, 300, 20_000)
    assert calibration_command(2, record).hex() == "8602" + "efbeadde" + "204e0000" + "24faffff" + "2c010000" + "204e"


def test_a_higher_minor_version_may_append_fields():
    stats = Stats(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    assert decode(stats.encode() + b"more") == stats
    assert decode_command(command(Command.FLUSH, 0) + b"more") == (Command.FLUSH, (0,))


def test_another_major_version_is_recognised_from_its_first_bytes():
    hello = decode(b"\x01EJPB" + bytes([9, 4]) + b"a layout we do not know")
    assert hello.protocol == (9, 4)
    assert hello.sensors == ()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x7f",
        b"\x01NOPE" + bytes(60),
        b"\x01EJPB\x01\x00",
        b"\x02" + bytes(3),
        struct.pack("<BBHHBBBBI", 2, 0, 1, 1, 0, 1, 0, 3, 0) + bytes(6),
        struct.pack("<BBHHBBBBI", 2, 9, 1, 1, 0, 1, 0, 1, 0) + bytes(6),
        struct.pack("<BBHHBBBBI", 2, 0, 1, 1, 0, 1, 200, 1, 0) + bytes(6),
        b"\x03" + bytes(10),
        b"\x04",
        b"\x06" + bytes(12),
        b"\x06\x02" + bytes(12),
    ],
)
def test_payloads_that_are_no_message_are_named_as_such(payload):
    with pytest.raises(MalformedMessage):
        decode(payload)


def test_random_payloads_raise_nothing_but_malformed_message():
    source = random.Random(7)
    for _ in range(20_000):
        payload = bytes([source.choice([*range(1, 8), *range(0x81, 0x8B)])]) + source.randbytes(source.randrange(120))
        for read in (decode, decode_command):
            with contextlib.suppress(MalformedMessage):
                read(payload)


@given(calibrations)
def test_a_calibration_travels_to_the_bridge_unchanged(calibration):
    kind, (sensor, *values) = decode_command(calibration_command(2, calibration))
    assert (kind, sensor, Calibration(*values)) == (Command.SET_CALIBRATION, 2, calibration)


@given(i64, st.integers(0, 2**62))
def test_accumulators_give_their_difference_across_a_wrap(start, grown):
    assert wrap(wrap(start + grown) - start) == grown


@given(u16, st.sampled_from([0, 1, 2, 3, ALL_SENSORS]), st.integers(0, 1), st.binary(min_size=8, max_size=8))
def test_settings_travel_to_the_bridge_unchanged(config, sensor, force, uid):
    assert decode_command(command(Command.SET_CONFIG, sensor, config, force)) == (
        Command.SET_CONFIG,
        (sensor, config, force),
    )
    assert decode_command(command(Command.SET_RANGE, sensor, force)) == (Command.SET_RANGE, (sensor, force))
    kind, (number,) = decode_command(uid_command(uid))
    assert (kind, number.to_bytes(8, "little")) == (Command.SET_UID, uid)


@pytest.mark.parametrize("kind", list(Command))
def test_a_command_that_is_cut_short_is_no_command(kind):
    whole = bytes([kind]) + bytes(30)
    needed = next(n for n in range(1, 31) if _readable(whole[:n]))
    assert needed == {0x81: 1, 0x82: 5, 0x83: 2, 0x84: 2, 0x85: 3, 0x86: 20, 0x87: 5, 0x88: 3, 0x89: 9}[kind]


def _readable(payload: bytes) -> bool:
    try:
        decode_command(payload)
    except MalformedMessage:
        return False
    return True
