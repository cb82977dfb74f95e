"""Starts the machine and talks to it: virtual time in lock-step, or a pseudo-terminal in real time.

In lock-step nothing moves but by :meth:`FirmwareMachine.step`; the same seed and the same calls give the same bytes.
Times are seconds of true time since power-on. The microcontroller's own clock may be off (``crystal_ppm``).
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from firmware_tools.bridge.machine.build import build_host
from firmware_tools.bridge.machine.loads import PiecewiseLoad, parse_load
from firmware_tools.bridge.machine.specs import FAULTS, USB, MachineSpec, SensorSpec, Usb
from protos.errors import EdgejouleError, UsageError

__all__ = ["FAULTS", "FirmwareMachine", "MachineSpec", "SensorSpec"]


@dataclass(slots=True)
class _Rail:
    """The loads that one sensor has had, as the host program knows them."""

    spec: SensorSpec
    loads: list[tuple[float, PiecewiseLoad]] = field(default_factory=list)

    def energy_j(self, from_s: float, to_s: float) -> float:
        total = 0.0
        for number, (since_s, load) in enumerate(self.loads):
            begin_s = max(from_s, since_s)
            end_s = min(to_s, self.loads[number + 1][0]) if number + 1 < len(self.loads) else to_s
            if end_s > begin_s:
                first, last = load.energy_j([begin_s - since_s, end_s - since_s])
                total += float(last - first)
        return total


def _hex(value: float) -> str:
    """A number as the host program reads it without rounding."""
    return float(value).hex()


class FirmwareMachine:
    """A running machine; made by :meth:`start` or :meth:`serve_pty`, ended by :meth:`close` or ``with``."""

    def __init__(self, spec: MachineSpec, binary: Path, *, link: Path | None, reset_on_open: bool) -> None:
        self.spec, self.link = spec, link
        self._lock = threading.Lock()
        self._now_s = 0.0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed in kill()
        arguments = [
            spec.seed, spec.crystal_ppm, spec.hex or "-", spec.bootloader or "-", spec.eeprom or "-", link or "-",
            int(reset_on_open), USB[spec.usb],
        ]  # fmt: skip
        for s in spec.sensors:
            arguments += [
                s.address, s.shunt_ohm, s.supply_v, s.source_ohm, s.offset_v, s.gain, s.bus_gain, s.oscillator,
                s.noise_v, int(s.absent),
            ]  # fmt: skip
        self._process = subprocess.Popen(
            [binary, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        self._rails = [_Rail(sensor) for sensor in spec.sensors]
        try:
            for number, sensor in enumerate(spec.sensors):
                self.set_load(sensor.load, sensor=number)
        except BaseException:
            self.kill()
            raise

    @classmethod
    def start(cls, spec: MachineSpec, *, cache: Path | None = None) -> FirmwareMachine:
        """A machine in lock-step, at 0 s.

        Raises:
            EdgejouleError: it cannot be built or started.
        """
        return cls(spec, build_host(cache), link=None, reset_on_open=False)

    @classmethod
    def serve_pty(
        cls, spec: MachineSpec, link: Path, *, reset_on_open: bool = False, cache: Path | None = None
    ) -> FirmwareMachine:
        """A machine in real time on a pseudo-terminal behind ``link``.

        Args:
            reset_on_open: reset when a program opens the port, as boards with an auto-reset capacitor at DTR do.
        """
        if link.exists() and not link.is_symlink():
            raise UsageError("a file is in the way", where=str(link), fix="choose another link")
        return cls(spec, build_host(cache), link=link, reset_on_open=reset_on_open)

    # ---- time ----

    @property
    def now_s(self) -> float:
        """True time since power-on."""
        return self._now_s if self.link is None else float(self.status()["now"])

    def step(self, seconds: float) -> list[tuple[float, bytes]]:
        """Let time pass: what the host received meanwhile, each with the time at which its last byte came."""
        return self.step_to(self._now_s + seconds)

    def step_to(self, until_s: float) -> list[tuple[float, bytes]]:
        """As :meth:`step`, up to an instant."""
        chunks: list[tuple[float, bytes]] = []
        words = self._ask(f"step {_hex(until_s)}", chunks)
        self._now_s = float.fromhex(words[0])
        return chunks

    def machine_s(self, monotonic_s: float) -> float:
        """True time of the machine at an instant of this computer's monotonic clock; on a pseudo-terminal only.

        When the computer was too slow to keep up (``slips`` of :meth:`status`), earlier answers are wrong by that.
        """
        return monotonic_s - float(self.status()["epoch"])

    # ---- the world around ----

    def send(self, data: bytes, *, at_s: float | None = None) -> None:
        """The host sends bytes, at once or at ``at_s``; they come at the line's rate, behind those sent before."""
        for begin in range(0, len(data), 4096):
            when_s = self._now_s if at_s is None else at_s
            self._ask(f"tx {_hex(when_s)} {data[begin : begin + 4096].hex()}")

    def set_load(self, load: str | PiecewiseLoad, *, sensor: int = 0, at_s: float = 0.0) -> None:
        """From now on, or from ``at_s`` on, the sensor has another load, whose own time begins then."""
        rail = self._rails[sensor]
        new = parse_load(load) if isinstance(load, str) else load
        if not 4 * rail.spec.source_ohm * new.peak_w < rail.spec.supply_v**2:
            raise UsageError("the supply cannot give this power", where=f"sensor {sensor}", fix="lower source_ohm")
        lines = [f"load {sensor} {_hex(at_s)}"]
        for part in new.parts:
            lines.append(f"part {_hex(part.period_s)}")
            lines += [
                f"knot {_hex(t)} {_hex(p)} {_hex(s)}"
                for t, p, s in zip(part.at_s.tolist(), part.power_w.tolist(), part.slope_w.tolist(), strict=True)
            ]
        (since,) = self._ask("\n".join([*lines, "load-end"]))
        rail.loads.append((float.fromhex(since), new))

    def true_energy_j(self, from_s: float, to_s: float, *, sensor: int = 0) -> float:
        """Joules that the load really draws between two instants, whether they are over or not."""
        return self._rails[sensor].energy_j(from_s, to_s)

    def marker(self, level: int, *, at_s: float | None = None) -> None:
        """The marker input (ICP1) goes to a level, at once or at ``at_s``; edges must be given in order."""
        when_s = self._now_s if at_s is None else at_s
        self._ask(f"marker {_hex(when_s)} {int(bool(level))}")

    def fault(self, name: str, *, sensor: int = 0, on: bool | float = True) -> None:
        """Let something go wrong from now on.

        Args:
            name: one of FAULTS.
            sensor: which one, where it matters.
            on: a count, a probability, or True and False.
        """
        if name not in FAULTS:
            raise UsageError(f"unknown fault {name!r}", where="fault", fix=f"use {', '.join(FAULTS)}")
        value = 9.0 if name == "sda-stuck" and on is True else float(on)
        self._ask(f"fault {name} {sensor} {_hex(value)}")

    def set_usb(self, usb: Usb) -> None:
        """Change how bytes reach the host (:attr:`MachineSpec.usb`)."""
        self._ask(f"fault usb 0 {_hex(USB[usb])}")

    def reset(self, cause: Literal["power-on", "external", "brown-out"] = "external") -> None:
        """Reset the microcontroller; "power-on" resets the sensors and spoils SRAM as well."""
        self._ask(f"reset {cause}")

    def unplug(self) -> None:
        """Pull the cable of a machine on a pseudo-terminal; the bridge goes on without a host."""
        self._ask("unplug")

    def replug(self) -> None:
        """Put the cable back: the same name, another terminal."""
        self._ask("replug")

    # ---- looking inside ----

    def peek(self, register: int, *, sensor: int = 0) -> int:
        """Read a sensor's register as a bus master would, in no time."""
        return int(self._ask(f"peek {sensor} {register:x}")[0], 16)

    def poke(self, register: int, value: int, *, sensor: int = 0) -> None:
        """Write a sensor's register as a bus master would, in no time."""
        self._ask(f"poke {sensor} {register:x} {value:x}")

    def rail(self, from_s: float, to_s: float, *, sensor: int = 0) -> tuple[float, float, float]:
        """The host program's own figures: energy, J; mean current, A; mean voltage at IN-, V."""
        energy_j, current_a, voltage_v = self._ask(f"energy {sensor} {_hex(from_s)} {_hex(to_s)}")
        return float.fromhex(energy_j), float.fromhex(current_a), float.fromhex(voltage_v)

    def status(self) -> dict[str, Any]:
        """State and counters: ``now`` and ``epoch`` in s, ``state``, and how often what happened."""
        pairs = (word.partition("=") for word in self._ask("status"))
        return {
            name: value if name == "state" else float.fromhex(value) if name in ("now", "epoch") else int(value)
            for name, _, value in pairs
        }

    def save_eeprom(self) -> None:
        """Write the EEPROM's file now; :meth:`close` does it as well."""
        self._ask("save")

    # ---- the end ----

    def close(self) -> None:
        """End the machine and keep its EEPROM; nothing happens the second time.

        Raises:
            UsageError: the EEPROM's file cannot be written.
        """
        try:
            if self._process.poll() is None:
                self._ask("quit")
                self._process.wait(5)
        except UsageError:
            raise
        except (EdgejouleError, subprocess.TimeoutExpired):
            pass  # it has ended by itself, or does not end: killed below
        finally:
            self.kill()

    def kill(self) -> None:
        """End the machine whatever it does; the end of its input lets it put away its terminal first."""
        with contextlib.suppress(OSError):  # what was not sent to a dead process
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def __enter__(self) -> FirmwareMachine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, lines: str, chunks: list[tuple[float, bytes]] | None = None) -> list[str]:
        """Send command lines, collect the chunks, return the words after "ok"."""
        with self._lock:
            out, back = self._process.stdin, self._process.stdout
            assert out is not None
            assert back is not None
            try:
                out.write(lines.encode() + b"\n")
                out.flush()
                while (line := back.readline()).startswith(b"@"):
                    at, _, data = line[1:].decode().partition(" ")
                    if chunks is not None:
                        chunks.append((float.fromhex(at), bytes.fromhex(data)))
            except (OSError, ValueError):
                line = b""
        if not line:
            raise EdgejouleError(self._last_words(), where="the simulated machine", fix="start it again")
        kind, *words = line.decode().split()
        if kind != "ok":
            raise UsageError(" ".join(words), where="the simulated machine", fix="see its README")
        return words

    def _last_words(self) -> str:
        if self._log.closed:
            return "it was closed"
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()
        return said[-1].removeprefix("machine: ") if said else "it has ended"
