"""A board's kernel files in a folder, in the kernel's own formats, and a board that warms up while it works."""

from __future__ import annotations

import math
from pathlib import Path


class BoardTree:
    """``sys`` and ``proc`` of a machine. Every method writes what the kernel would show from then on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ticks = [1000, 0, 500, 90_000, 300, 0, 20, 0]
        self.stat()

    def write(self, path: str, text: object) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
        return file

    def zone(self, temperature_c: float, name: str = "cpu-thermal", number: int = 0) -> None:
        """drivers/thermal: a type and thousandths of a degree."""
        self.write(f"sys/class/thermal/thermal_zone{number}/type", name)
        self.write(f"sys/class/thermal/thermal_zone{number}/temp", round(temperature_c * 1000))

    def set_temperature(self, temperature_c: float) -> None:
        """Of a zone that is there."""
        (self.root / "sys/class/thermal/thermal_zone0/temp").write_text(f"{round(temperature_c * 1000)}\n")

    def apex(self, temperature_c: float, trip_c: float | None = None) -> None:
        self.write("sys/class/apex/apex_0/temp", round(temperature_c * 1000))
        if trip_c is not None:
            self.write("sys/class/apex/apex_0/trip_point0_temp", round(trip_c * 1000))

    def firmware(self, value: int, folder: str = "soc/soc:firmware") -> None:
        """drivers/firmware/raspberrypi.c: hexadecimal without 0x."""
        self.write(f"sys/devices/platform/{folder}/get_throttled", f"{value:x}")

    def rpi_volt(self, alarm: int, number: int = 2) -> None:
        self.write(f"sys/class/hwmon/hwmon{number}/name", "rpi_volt")
        self.write(f"sys/class/hwmon/hwmon{number}/in0_lcrit_alarm", alarm)

    def cooling(self, state: int, name: str = "cpufreq-cpu0", number: int = 0) -> None:
        self.write(f"sys/class/thermal/cooling_device{number}/type", name)
        self.write(f"sys/class/thermal/cooling_device{number}/cur_state", state)

    def clock(self, now_khz: int, most_khz: int, governor: str = "performance", driver: str = "cpufreq-dt") -> None:
        folder = "sys/devices/system/cpu/cpufreq/policy0"
        for name, value in (("scaling_cur_freq", now_khz), ("cpuinfo_max_freq", most_khz),
                            ("scaling_governor", governor), ("scaling_driver", driver)):  # fmt: skip
            self.write(f"{folder}/{name}", value)

    def stat(self, busy: int = 0, idle: int = 0, waiting: int = 0) -> None:
        """proc(5): so many ticks more since the last call, over all cores."""
        self.ticks[0] += busy
        self.ticks[3] += idle
        self.ticks[4] += waiting
        self.write("proc/stat", f"cpu  {' '.join(map(str, self.ticks))} 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0")


class WarmingBoard:
    """A first-order thermal model: ``tau dT/dt = ambient + rise - T``, with the rise only while it works.

    Args:
        tree: gets the temperature.
        ambient_c: where it goes at rest.
        rise_c: how much warmer it becomes at work, in the end.
        tau_s: time constant.
    """

    def __init__(self, tree: BoardTree, ambient_c: float, rise_c: float, tau_s: float) -> None:
        self._tree, self.ambient_c, self.rise_c, self.tau_s = tree, ambient_c, rise_c, tau_s
        self.temperature_c = self.hottest_c = ambient_c
        tree.zone(ambient_c)

    def pass_(self, seconds: float, *, working: bool) -> None:
        """The exact solution over ``seconds`` at constant power."""
        end_c = self.ambient_c + (self.rise_c if working else 0.0)
        self.temperature_c = end_c + (self.temperature_c - end_c) * math.exp(-seconds / self.tau_s)
        self.hottest_c = max(self.hottest_c, self.temperature_c)
        self._tree.set_temperature(self.temperature_c)
