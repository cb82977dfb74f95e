"""Bridges under one handle, on virtual time: the Python twin, the C core built for this machine, the board's image."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from firmware_tools.bridge.images.build import FIRMWARE
from firmware_tools.bridge.images.manifest import IMAGES, image_of
from firmware_tools.bridge.machine.build import APT, missing
from firmware_tools.bridge.machine.driver import FirmwareMachine, MachineSpec, SensorSpec
from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import ConstantLoad
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.bridge.framing import FrameParser, encode_frame
from protos.bridge.messages import Message, decode
from protos.energy.ina219 import PROFILES, Calibration

STEP_S = 0.005
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def compile_core(target: Path, *flags: str, sources: str = "native/native.c") -> Path:
    """Compile the core with the memory board; skips the test where there is no compiler."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("needs gcc (apt install gcc libc6-dev)")
    files = [*sorted(str(path) for path in (FIRMWARE / "core").glob("*.c")), *sources.split()]
    subprocess.run([gcc, *STRICT, *flags, "-o", str(target), *files], cwd=FIRMWARE, check=True)
    return target


class Rig(Protocol):
    """A bridge with two sensors that see 4 W and 1 W at 5 V over 20 mOhm."""

    def run(self, seconds: float) -> list[Message]: ...

    def ask(self, payload: bytes, seconds: float = 0.15) -> list[Message]: ...

    def line(self, data: bytes, seconds: float = 0.15) -> list[Message]: ...

    def power_cycle(self) -> list[Message]: ...


class TwinRig:
    """The Python twin."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.parser = FrameParser()
        channels = [self._channel(watts, 0x40 + number) for number, watts in enumerate((4.0, 1.0))]
        self.device = Device(channels, profile=PROFILES["balanced"], now_s=0.0)

    def _channel(self, watts: float, address: int) -> Channel:
        sensor = SimulatedIna219(
            ConstantLoad(watts), supply_v=5.0, shunt_ohm=0.02, errors=SensorErrors(), profile=PROFILES["balanced"],
            rng=np.random.default_rng(1), start_s=0.0,
        )  # fmt: skip
        return Channel(sensor, Calibration(), address)

    def run(self, seconds: float) -> list[Message]:
        return self._read(self._advance(seconds))

    def ask(self, payload: bytes, seconds: float = 0.15) -> list[Message]:
        return self.line(encode_frame(payload), seconds)

    def line(self, data: bytes, seconds: float = 0.15) -> list[Message]:
        return self._read(self.device.receive(data, self.now_s) + self._advance(seconds))

    def power_cycle(self) -> list[Message]:
        self.device.reboot(self.now_s)
        return self.run(0.5)

    def _advance(self, seconds: float) -> bytes:
        out = b""
        for _ in range(round(seconds / STEP_S)):
            self.now_s += STEP_S
            out += self.device.advance(self.now_s)
        return out

    def _read(self, data: bytes) -> list[Message]:
        return [decode(payload) for payload in self.parser.feed(data)]


class MachineRig:
    """The committed image in the simulated processor."""

    def __init__(self) -> None:
        if what := missing():
            pytest.skip(f"{what}: {APT}")
        sensors = tuple(SensorSpec(f"constant:{watts}", 0x40 + n) for n, watts in enumerate((4.0, 1.0)))
        self.machine = FirmwareMachine.start(MachineSpec(IMAGES / image_of("atmega328p").file, sensors))
        self.parser = FrameParser()

    def run(self, seconds: float) -> list[Message]:
        chunks = self.machine.step(seconds)
        return [decode(payload) for _, data in chunks for payload in self.parser.feed(data)]

    def ask(self, payload: bytes, seconds: float = 0.15) -> list[Message]:
        return self.line(encode_frame(payload), seconds)

    def line(self, data: bytes, seconds: float = 0.15) -> list[Message]:
        self.machine.send(data)
        return self.run(seconds)

    def power_cycle(self) -> list[Message]:
        self.machine.reset("power-on")
        return self.run(0.5)

    def close(self) -> None:
        self.machine.close()


class CoreRig:
    """The C core. One lives at a time in a process: its state is static, as on the board."""

    ROOM = 1 << 20

    def __init__(self, library: Path, sensors: int = 2) -> None:
        self.c = ctypes.CDLL(str(library))
        self.c.native_run.argtypes = [ctypes.c_uint32, ctypes.c_char_p, ctypes.c_size_t]
        self.c.native_run.restype = self.c.native_receive.restype = ctypes.c_size_t
        self.c.native_receive.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        self.c.native_now.restype = ctypes.c_uint64
        self.c.native_skip.argtypes = [ctypes.c_uint64]
        self._out = ctypes.create_string_buffer(self.ROOM)
        self.c.native_erase()
        # 4 W and 1 W at 5.000 V over 20 mOhm: 16 and 4 mV, in steps of 10 uV.
        for number, shunt in enumerate((1600, 400, 100, 50)[:sensors]):
            self.c.native_sensor(number, 0x40 + number, shunt, 1250 << 3)
        self.parser = FrameParser()
        self.raw = b""
        self.c.native_boot(True)

    def run(self, seconds: float) -> list[Message]:
        return self._read(self._advance(seconds))

    def ask(self, payload: bytes, seconds: float = 0.15) -> list[Message]:
        return self.line(encode_frame(payload), seconds)

    def line(self, data: bytes, seconds: float = 0.15) -> list[Message]:
        out = b""
        while data:
            data = data[self.c.native_receive(data, len(data)) :]
            out += self._advance(0.001)
        out += self._advance(seconds)
        if self.c.native_restart() >= 0:
            self.c.native_boot(False)
        return self._read(out)

    def power_cycle(self) -> list[Message]:
        self.c.native_boot(True)
        return self.run(0.5)

    def _advance(self, seconds: float) -> bytes:
        count = self.c.native_run(round(seconds * 1e6), self._out, self.ROOM)
        return self._out.raw[:count]

    def _read(self, data: bytes) -> list[Message]:
        self.raw += data
        return [decode(payload) for payload in self.parser.feed(data)]
