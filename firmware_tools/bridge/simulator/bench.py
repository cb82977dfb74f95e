"""Several simulated bridges in one process, on the real clock.

One loop serves them all: it wakes for what a host sends, and once per conversion time to look at the loads. Samples
are computed by the batch, so forty-five bridges at 111 samples a second cost about a tenth of one core.
"""

from __future__ import annotations

import json
import os
import select
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from firmware_tools.bridge.simulator.device import Channel, Device
from firmware_tools.bridge.simulator.loads import Load, parse_load
from firmware_tools.bridge.simulator.sensor import WIRINGS, SensorErrors, SimulatedIna219, Wiring
from firmware_tools.bridge.simulator.terminal import Line, WireFaults
from protos.bridge.hello import PROTOCOL, ResetCause
from protos.energy.boards import BoardProfile, board
from protos.energy.ina219 import PROFILES, Calibration
from protos.errors import UsageError

__all__ = ["Bench", "BridgeSpec", "SimulatedBridge"]

CALIBRATION_DAY = 20_000
MOST_SUPPLY_V = 26.0
"""What an INA219 stands at its inputs; its range ends at 32 V."""
LOOK_FOR_READERS_S = 0.05


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """What to simulate. ``None`` takes the board's own figure; ``load`` as :func:`parse_load` reads it."""

    link: Path
    board: str = "pi4"
    load: str = "cpu"
    pid: int | None = None
    pid_file: Path | None = None
    profile: str = "balanced"
    seed: int = 0
    drift_ppm: float | None = None
    supply_v: float | None = None
    shunt_ohm: float | None = None
    calibrated: bool = True
    protocol: tuple[int, int] = PROTOCOL
    wiring: Wiring = "right"


class SimulatedBridge:
    """A bridge on a pseudo-terminal, with the switches that tests pull.

    Seeded: sensor errors, noise, clock drift (when not given: up to 100 ppm either way), serial number. Two bridges
    with one seed and different links differ in nothing else.
    """

    def __init__(self, spec: BridgeSpec, *, load: Load | None = None) -> None:
        if spec.profile not in PROFILES:
            raise UsageError(
                f"unknown sensor profile {spec.profile!r}", where=str(spec.link), fix=f"use {', '.join(PROFILES)}"
            )
        profile: BoardProfile = board(spec.board)
        self.spec, self.board = spec, profile
        rng = np.random.default_rng([spec.seed, 219])
        errors = SensorErrors.drawn(rng)
        drift = float(rng.uniform(-100, 100))
        uid = rng.bytes(8)
        shunt_ohm = profile.shunt_ohm if spec.shunt_ohm is None else spec.shunt_ohm
        supply_v = profile.supply_v if spec.supply_v is None else spec.supply_v
        if not shunt_ohm > 0 or not 0 < supply_v <= MOST_SUPPLY_V:
            what = f"shunt must be over 0 ohm, supply in 0..{MOST_SUPPLY_V:g} V"
            raise UsageError(what, where=str(spec.link), fix="correct them")
        if spec.wiring not in WIRINGS:
            raise UsageError(f"unknown wiring {spec.wiring!r}", where=str(spec.link), fix=f"use {', '.join(WIRINGS)}")
        self.load = load or parse_load(spec.load, profile, pid=spec.pid, pid_file=spec.pid_file)
        now_s = time.monotonic()
        sensor = SimulatedIna219(
            self.load, supply_v=supply_v, shunt_ohm=shunt_ohm, errors=errors,
            profile=PROFILES[spec.profile], rng=rng, start_s=now_s, wiring=spec.wiring,
        )  # fmt: skip
        number = (zlib.crc32(uid) | 1) if spec.calibrated else 0
        calibration = errors.calibrated(number, shunt_ohm, day=CALIBRATION_DAY)
        if not spec.calibrated:
            # A bridge that was never told its shunt says that of its firmware.
            calibration = Calibration()
        self.device = Device(
            [Channel(sensor, calibration)], profile=PROFILES[spec.profile], uid=uid,
            drift_ppm=drift if spec.drift_ppm is None else spec.drift_ppm, now_s=now_s - 0.3,
            first_boot=1 + int(rng.integers(0, 60_000)), protocol=spec.protocol,
        )  # fmt: skip
        self.faults = WireFaults(np.random.default_rng([spec.seed, 7]))
        self.lock = threading.Lock()
        self.started_s = now_s
        self._start_j = float(self.load.energy_j(now_s))
        self.attached = False
        self.line = Line(spec.link)

    @property
    def poll_s(self) -> float:
        """How often the load is worth a look: once per conversion, every 5 ms at most."""
        return max(0.005, self.device.period_s)

    def step(self, now_s: float) -> None:
        """Answer the host, and send what is due."""
        with self.lock:
            heard = self.line.read() if self.attached else b""
            # Stamped after the read, as the firmware stamps the last byte of a command.
            out = self.device.receive(heard, time.monotonic()) if heard else b""
            out += self.device.advance(now_s)
            if out and self.attached:
                self.line.write(self.faults.apply(out))

    def look_for_reader(self) -> bool:
        """Find out whether a host has the port open; True when that changed."""
        with self.lock:
            before, self.attached = self.attached, self.line.attached()
            return self.attached != before

    def unplug(self) -> None:
        """Pull the USB cable. The bridge goes on without a host (a self-powered one)."""
        with self.lock:
            self.line.unplug()
            self.attached = False

    def plug(self) -> None:
        """Put the cable back: the same name, another terminal."""
        with self.lock:
            self.line.plug()

    def reboot(self, cause: ResetCause = ResetCause.EXTERNAL) -> None:
        """Reset the bridge's processor."""
        with self.lock:
            self.device.reboot(time.monotonic(), cause)

    def send_raw(self, data: bytes) -> None:
        """Put bytes of our own on the line."""
        with self.lock:
            self.line.write(data)

    def truth_j(self, from_s: float, to_s: float) -> float:
        """Joules that the load really drew between two instants of the host's monotonic clock.

        Raises:
            ValueError: ``from_s`` is longer ago than the load remembers (a process: some ten seconds).
        """
        with self.lock:
            self.load.poll(time.monotonic())
            if from_s < self.load.known_from_s:
                raise ValueError(f"the load is known from {self.load.known_from_s:.3f} s on")
            first, last = self.load.energy_j([from_s, to_s])
        return float(last - first)

    def report(self) -> dict[str, object]:
        """Totals since the start, for ``--truth``."""
        with self.lock:
            now_s = time.monotonic()
            self.load.poll(now_s)
            return {
                "link": str(self.spec.link),
                "board": self.spec.board,
                "from_monotonic_s": self.started_s,
                "to_monotonic_s": now_s,
                "energy_j": float(self.load.energy_j(now_s)) - self._start_j,
                "dropped_bytes": self.line.dropped_bytes,
                "boots": self.device.boots,
            }


class Bench:
    """Runs bridges until told to stop. ``with Bench([...]):`` runs them in a thread."""

    def __init__(self, bridges: Sequence[SimulatedBridge], *, truth: Path | None = None) -> None:
        self.bridges = list(bridges)
        self._truth = truth
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake_read, self._wake_write = os.pipe()

    def run(self) -> None:
        """Serve until :meth:`stop`; removes the links at the end."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        watched: dict[int, SimulatedBridge] = {}
        period_s = min(bridge.poll_s for bridge in self.bridges)
        due_s = looked_s = written_s = time.monotonic()
        try:
            while not self._stop.is_set():
                now_s = time.monotonic()
                ready = poller.poll(max(0.0, (due_s - now_s) * 1000))
                now_s = time.monotonic()
                hangup = False
                for fd, event in ready:
                    bridge = watched.get(fd)
                    if bridge is None:
                        continue
                    if event & (select.POLLHUP | select.POLLNVAL | select.POLLERR):
                        hangup = True
                    else:
                        bridge.step(now_s)
                if now_s >= due_s:
                    due_s = max(due_s + period_s, now_s)
                    for bridge in self.bridges:
                        bridge.step(now_s)
                if hangup or now_s - looked_s >= LOOK_FOR_READERS_S:
                    looked_s = now_s
                    watched = self._watch(poller, watched)
                    period_s = min(bridge.poll_s for bridge in self.bridges)
                if self._truth and now_s - written_s >= 1.0:
                    written_s = now_s
                    self._write_truth()
        finally:
            if self._truth:
                self._write_truth()
            for bridge in self.bridges:
                bridge.unplug()

    def stop(self) -> None:
        """Ask :meth:`run` to end; safe in a signal handler."""
        self._stop.set()
        os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Free the wake-up pipe; after :meth:`run` has ended."""
        os.close(self._wake_read)
        os.close(self._wake_write)

    def __enter__(self) -> Bench:
        self._thread = threading.Thread(target=self.run, name="simulated-bridges", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self._thread:
            self._thread.join()
        self.close()

    def _watch(self, poller: select.poll, before: dict[int, SimulatedBridge]) -> dict[int, SimulatedBridge]:
        """Follow readers that came and went. A hung-up terminal polls as ready for ever, so it is not watched."""
        watched = {}
        for bridge in self.bridges:
            bridge.look_for_reader()
            if bridge.attached:
                watched[bridge.line.fileno()] = bridge
        for fd in before.keys() - watched.keys():
            poller.unregister(fd)
        for fd in watched:
            poller.register(fd, select.POLLIN)
        return watched

    def _write_truth(self) -> None:
        assert self._truth is not None
        fresh = self._truth.with_name(f".{self._truth.name}.{os.getpid()}")
        fresh.write_text(json.dumps({"bridges": [bridge.report() for bridge in self.bridges]}, indent=1) + "\n")
        fresh.replace(self._truth)
