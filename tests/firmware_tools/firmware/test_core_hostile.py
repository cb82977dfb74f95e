"""Hostile bytes for the C core, with the compiler's sanitizers watching every access and every sum."""

from __future__ import annotations

import random
import subprocess

import pytest
from core_rigs import CoreRig, compile_core
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protos.bridge.commands import Command, command
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.hello import Hello
from protos.bridge.messages import decode

FRAMES = st.tuples(st.integers(0x7F, 0x8C), st.binary(max_size=60)).map(lambda f: encode_frame(bytes([f[0]]) + f[1]))
PIECES = st.one_of(FRAMES, st.binary(max_size=120), st.just(b"\x00"), FRAMES.map(lambda frame: frame[:-3]))


class Fuzzer:
    """The fuzz program: one input in, one byte out; it ends itself at the first wrong access."""

    def __init__(self, program) -> None:
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def feed(self, data: bytes) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(len(data).to_bytes(2, "little") + data)
        self.process.stdin.flush()
        if self.process.stdout.read(1) != b".":
            assert self.process.stderr
            pytest.fail(f"input {data.hex()}: {self.process.stderr.read().decode()[:2000]}")

    def close(self) -> None:
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    flags = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compile_core(tmp_path_factory.mktemp("fuzz") / "fuzz", *flags, sources="native/native.c native/fuzz.c")
    fuzzer = Fuzzer(program)
    yield fuzzer
    fuzzer.close()


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 255), st.lists(PIECES, max_size=12))
def test_no_input_leads_out_of_bounds(fuzzer, events, pieces):
    fuzzer.feed(bytes([events]) + b"".join(pieces))


def test_a_long_run_of_mutated_frames_leads_nowhere_either(fuzzer):
    source = random.Random(7)
    for _ in range(1500):
        line = bytearray([source.randrange(256)])
        for _ in range(source.randrange(1, 6)):
            frame = bytearray(
                encode_frame(bytes([source.randrange(0x80, 0x8C)]) + source.randbytes(source.randrange(24)))
            )
            if source.random() < 0.3:
                frame[source.randrange(len(frame))] = source.randrange(256)
            line += frame
        fuzzer.feed(bytes(line))


@settings(max_examples=80)
@given(data=st.binary(max_size=300))
def test_after_any_noise_the_next_command_is_answered(core_library, data):
    core = CoreRig(core_library)
    core.run(0.05)
    core.line(data + b"\x00", 0.01)
    assert any(isinstance(m, Hello) for m in core.ask(command(Command.GET_HELLO), 0.2))


@settings(max_examples=100)
@given(st.integers(0x80, 0x8C), st.binary(max_size=39))
def test_every_command_is_answered_with_messages_of_the_protocol(core_library, kind, fields):
    core = CoreRig(core_library)
    core.run(0.05)
    core.ask(bytes([kind]) + fields, 0.12)
    core.ask(command(Command.GET_HELLO), 0.12)
    parser = FrameParser()
    for payload in parser.feed(core.raw):
        decode(payload)
    assert parser.drops.frames == 0
