"""The parts of a machine that sensors read: kernel files, an IIO device, an I2C bus. With the kernel's own formats."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np

from firmware_tools.bridge.simulator.loads import Load
from firmware_tools.bridge.simulator.sensor import SensorErrors, SimulatedIna219
from protos.energy.ina219 import PROFILES, Calibration, Config, watts


def write_files(folder: Path, **texts: object) -> Path:
    """One file per value, as in sysfs; ``__`` in a name stands for a slash."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return folder


def hwmon_tree(root: Path, *, number: int = 3, name: str = "ina219", shunt_uohm: int = 20_000, current_ma: int = 800):
    """A hwmon device as drivers/hwmon/ina2xx.c makes it: 5.000 V."""
    folder = root / "class" / "hwmon" / f"hwmon{number}"
    shunt_mv = round(current_ma * shunt_uohm * 1e-6)
    return write_files(
        folder, name=name, in0_input=shunt_mv, in1_input=5000, curr1_input=current_ma,
        power1_input=current_ma * 5000, shunt_resistor=shunt_uohm,
    )  # fmt: skip


def iio_tree(root: Path, *, number: int = 0, name: str = "ina219", shunt_raw: int = 1600, bus_raw: int = 1250):
    """An IIO device as drivers/iio/adc/ina2xx-adc.c makes it: 10 uV and 4 mV a step; the shunt is called unsigned."""
    folder = root / "bus" / "iio" / "devices" / f"iio:device{number}"
    values: dict[str, object] = {
        "name": name, "in_voltage0_raw": shunt_raw, "in_voltage0_scale": "0.010000000", "in_voltage1_raw": bus_raw,
        "in_voltage1_scale": "4.000000000", "in_shunt_resistor": "0.010000000", "in_sampling_frequency": 940,
        "in_voltage0_integration_time": "0.000532", "in_voltage1_integration_time": "0.000532",
        "in_allow_async_readout": 0, "current_timestamp_clock": "realtime", "buffer__enable": 0, "buffer__length": 2,
    }  # fmt: skip
    channels = {"in_voltage0": "le:u16/16>>0", "in_voltage1": "le:u13/16>>3", "in_power2": "le:u16/16>>0",
                "in_current3": "le:u16/16>>0", "in_timestamp": "le:s64/64>>0"}  # fmt: skip
    for index, (channel, kind) in enumerate(channels.items()):
        values[f"scan_elements__{channel}_en"] = 1
        values[f"scan_elements__{channel}_index"] = index
        values[f"scan_elements__{channel}_type"] = kind
    return write_files(folder, **values)


def rapl_tree(root: Path, *, packages: int = 1) -> Path:
    """Powercap as drivers/powercap/intel_rapl_common.c makes it; the folder of the first package."""
    for number in range(packages):
        zone = root / "class" / "powercap" / f"intel-rapl:{number}"
        write_files(zone, name=f"package-{number}", energy_uj=0, max_energy_range_uj=262143328850)
        write_files(zone.with_name(f"{zone.name}:0"), name="dram", energy_uj=0, max_energy_range_uj=65712999613)
    write_files(root / "class" / "powercap" / "intel-rapl", enabled=1)
    return root / "class" / "powercap" / "intel-rapl:0"


class Worker:
    """Calls ``step`` about a thousand times a second until closed; not while it is ``held``."""

    def __init__(self, step: Any) -> None:
        self._step, self._stop, self.held = step, threading.Event(), threading.Event()
        self._busy = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(1e-3):
            with self._busy:
                if not self.held.is_set():
                    self._step()

    def hold(self) -> None:
        """No step from here on, one that runs included, until ``held`` is cleared."""
        with self._busy:
            self.held.set()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


class RaplCounter:
    """Writes a package's counter: ``power_w`` since it was made, whatever happens to the reader."""

    def __init__(self, zone: Path, power_w: float) -> None:
        self._fd = os.open(zone / "energy_uj", os.O_WRONLY)
        self._power_w, self._born_s = power_w, time.monotonic()
        self._moved_s, self._counts_uj = [float("-inf")], [0]
        self()

    def __call__(self) -> None:
        now_s = time.monotonic()
        counted_uj = round((now_s - self._born_s) * self._power_w * 1e6)
        os.pwrite(self._fd, f"{counted_uj:015d}\n".encode(), 0)
        self._moved_s.append(now_s)
        self._counts_uj.append(counted_uj)

    def counted_j(self, at_s: float) -> float:
        """What a reader saw at that time."""
        return self._counts_uj[bisect_right(self._moved_s, at_s) - 1] * 1e-6

    def close(self) -> None:
        os.close(self._fd)


class IioNode:
    """A character device of IIO: a pipe into which conversions are written, each stamped with its own time.

    It says nothing before the buffer is enabled, and its record has the channels that are.
    """

    def __init__(self, device: Path, node: Path, shunt_raw: int, bus_register: int) -> None:
        self._device, self._values = device, (shunt_raw, bus_register)
        node.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(node)
        # A reader of our own keeps the pipe open between the readers under test.
        self._fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
        self._next_s = time.monotonic()
        self.silent = False

    def __call__(self) -> None:
        now_s = time.monotonic()
        if self.silent or (self._device / "buffer" / "enable").read_text().strip() != "1":
            self._next_s = now_s
            return
        assert (self._device / "current_timestamp_clock").read_text().strip() == "monotonic"
        enabled = [(self._device / "scan_elements" / f"{name}_en").read_text().strip() for name in
                   ("in_voltage0", "in_voltage1", "in_power2", "in_current3", "in_timestamp")]  # fmt: skip
        assert enabled == ["1", "1", "0", "0", "1"]
        shunt, bus = self._values
        while self._next_s <= now_s:
            os.write(self._fd, struct.pack("<HHxxxxq", shunt & 0xFFFF, bus, round(self._next_s * 1e9)))
            self._next_s += 1.064e-3

    def close(self) -> None:
        os.close(self._fd)


class FakeBus:
    """:class:`smbus2.SMBus` with one INA219 at 0x40 behind it, by the model of the bench."""

    def __init__(self, load: Load, *, shunt_ohm: float = 0.02, errors: SensorErrors | None = None) -> None:
        self._sensor = SimulatedIna219(
            load, supply_v=5.0, shunt_ohm=shunt_ohm, errors=errors or SensorErrors(), profile=PROFILES["balanced"],
            rng=np.random.default_rng(1), start_s=time.monotonic(),
        )  # fmt: skip
        self._config = 0x399F
        self._last = (0, 0)
        self._fresh = False
        self.failing: OSError | None = None
        self.opened = self.closed = 0

    def __call__(self, number: int) -> FakeBus:
        if number != 1:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")
        self.opened += 1
        return self

    def reset(self) -> None:
        """The supply of the sensor dipped."""
        self._configure(0x399F)

    def read_word_data(self, address: int, register: int) -> int:
        if self.failing is not None:
            raise self.failing
        if address != 0x40:
            raise OSError(errno.EREMOTEIO, "Remote I/O error")
        return int.from_bytes(self._read(register).to_bytes(2, "big"), "little")

    def i2c_rdwr(self, *messages: Any) -> None:
        if self.failing is not None:
            raise self.failing
        for message in messages:
            assert message.addr == 0x40
            if message.flags & 1:
                for at, byte in enumerate(self._read(self._pointer).to_bytes(2, "big")):
                    message.buf[at] = bytes([byte])
            else:
                self._pointer, *data = bytes(message)
                if data:
                    self._configure(int.from_bytes(bytes(data), "big"))

    def close(self) -> None:
        self.closed += 1

    def _configure(self, register: int) -> None:
        self._config, self._fresh = register, False
        self._sensor.configure(Config.of(register), time.monotonic())

    def _read(self, register: int) -> int:
        now_s = time.monotonic()
        self._sensor.load.poll(now_s)
        if count := self._sensor.ready(now_s):
            batch = self._sensor.take(count)
            self._last, self._fresh = (int(batch.shunt[-1]), int(batch.bus[-1])), True
        if register == 3:
            self._fresh = False
            return abs(round(float(watts(np.array([self._last[0]], np.int16), np.array([self._last[1]], np.uint16),
                                     Calibration(shunt_uohm=20_000))[0]) / 20e-3))  # fmt: skip
        return {0: self._config, 1: self._last[0] & 0xFFFF, 2: (self._last[1] & ~2) | (2 if self._fresh else 0)}[
            register
        ]
