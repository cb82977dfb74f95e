"""A simulated machine as the world of a host program: its line as a transport, its time as the clock.

Threads that wait here share one virtual time. It passes only while all of them wait, up to the next thing that one of
them waits for; so a run does not depend on how fast this computer is. USB is a seeded model: what the host sends takes
0.1 to 1.1 ms; what the machine sends takes 0.05 to 0.2 ms and then comes with a frame of 1 ms.
"""

from __future__ import annotations

import errno
import math
import random
import sys
import threading
from collections.abc import Callable

from firmware_tools.bridge.machine.driver import FirmwareMachine
from protos.errors import SensorError

__all__ = ["MachineTransport", "MachineWorld"]

FRAME_S = 1e-3
LOOK_AGAIN_S = 0.02
READ_WAIT_S = 0.05


class MachineWorld:
    """Clock and line of one machine. Host time is the machine's true time plus ``offset_s``.

    ``opener`` goes where a program wants a function that opens a port.
    """

    def __init__(self, machine: FirmwareMachine, *, seed: int = 0, offset_s: float = 1000.0) -> None:
        self.machine, self.offset_s = machine, offset_s
        self.plugged = True
        self._random = random.Random(seed)
        self._turn = threading.Condition()
        self._parked: dict[threading.Thread, tuple[Callable[[], bool], float]] = {}
        self._known = {threading.current_thread()}
        self._unclaimed = 0
        self._sent_to_s = 0.0
        self._coming: list[tuple[float, bytes]] = []
        self._transport: MachineTransport | None = None
        self.opened_s: list[float] = []
        self.writes = 0
        self._dead_for = 0

    # ---- the clock ----

    def monotonic(self) -> float:
        return self.machine.now_s + self.offset_s

    def process_time(self) -> float:
        return 0.0

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        # What is left of a wait may be less than times can tell apart; a clock moves on all the same.
        self.park(event.is_set, self.monotonic() + max(timeout_s, 1e-9))
        return event.is_set()

    def advance(self, seconds: float) -> None:
        """The calling thread sleeps for so long."""
        self.park(lambda: False, self.monotonic() + seconds)

    def true_energy_j(self, from_s: float, to_s: float, *, sensor: int = 0) -> float:
        """Joules between two instants of host time."""
        return self.machine.true_energy_j(from_s - self.offset_s, to_s - self.offset_s, sensor=sensor)

    # ---- the line ----

    def opener(self, path: str) -> MachineTransport:
        """Open the port. Raises SensorError while it is unplugged."""
        with self._turn:
            if not self.plugged:
                raise SensorError("no such serial port", where=path, fix="plug the bridge in")
            self._transport = MachineTransport(self)
            self._coming.clear()
            self.opened_s.append(self.monotonic())
            self._dead_for = max(0, self._dead_for - 1)
            self._unclaimed += 1
            return self._transport

    def unplug(self) -> None:
        """Every use of the open port fails from now on."""
        with self._turn:
            self.plugged = False
            self._turn.notify_all()

    def hang(self, openings: int) -> None:
        """Nothing comes through the port, which stays open, until it has been opened so many times more."""
        with self._turn:
            self._dead_for = openings

    def replug(self) -> None:
        with self._turn:
            self.plugged = True

    def send(self, data: bytes) -> None:
        with self._turn:
            self.writes += 1
            at_s = max(self._sent_to_s, self.machine.now_s + self._random.uniform(1e-4, 1.1e-3))
            self._sent_to_s = at_s
            self.machine.send(data, at_s=at_s)

    def claim(self) -> None:
        """The calling thread is the one that reads the port."""
        with self._turn:
            self._unclaimed = max(0, self._unclaimed - 1)
            self._known.add(threading.current_thread())

    def arrived(self) -> bytes:
        """What has reached the host and was not read."""
        with self._turn:
            now_s = self.machine.now_s
            ready = [data for at_s, data in self._coming if at_s <= now_s]
            del self._coming[: len(ready)]
            return b"" if self._dead_for else b"".join(ready)

    def anything(self) -> bool:
        return not self.plugged or bool(
            not self._dead_for and self._coming and self._coming[0][0] <= self.machine.now_s
        )

    # ---- time ----

    def park(self, ready: Callable[[], bool], until_s: float, *, patient: bool = True) -> None:
        """Wait until ``ready`` or a host time; not ``patient``: or until another waits for this thread to end."""
        me = threading.current_thread()
        with self._turn:
            self._known.add(me)
            self._parked[me] = ready, until_s
            self._turn.notify_all()
            try:
                while not self._due(me):
                    self._known = {thread for thread in self._known if thread.is_alive()}
                    all_wait = not self._unclaimed and self._known <= self._parked.keys()
                    if all_wait and not any(self._due(thread) for thread in self._parked):
                        self._pass_time()
                        if any(self._due(thread) for thread in self._parked):
                            self._turn.notify_all()
                    elif not self._turn.wait(LOOK_AGAIN_S) and not patient and self._joined():
                        return
            finally:
                del self._parked[me]

    def _due(self, thread: threading.Thread) -> bool:
        ready, until_s = self._parked[thread]
        return ready() or self.monotonic() >= until_s - 1e-12

    def _joined(self) -> bool:
        """Whether a thread that time waits for is in ``Thread.join``: it will not move before another ends."""
        frames = sys._current_frames()
        for thread in self._known - self._parked.keys():
            frame = frames.get(thread.ident or 0)
            while frame is not None:
                if frame.f_code is threading.Thread.join.__code__:
                    return True
                frame = frame.f_back
        return False

    def _pass_time(self) -> None:
        """To the next frame, or to the first instant that somebody waits for."""
        now_s = self.machine.now_s
        frame_s = (math.floor(now_s / FRAME_S + 1e-6) + 1) * FRAME_S
        soonest_s = min(until_s for _, until_s in self._parked.values()) - self.offset_s
        for at_s, data in self.machine.step_to(max(now_s, min(frame_s, soonest_s))):
            host_s = math.ceil((at_s + self._random.uniform(5e-5, 2e-4)) / FRAME_S) * FRAME_S
            self._coming.append((max(host_s, self._coming[-1][0] if self._coming else 0.0), data))


class MachineTransport:
    """One opening of the machine's port; see ``Transport`` of ``protos/bridge/line.py``."""

    def __init__(self, world: MachineWorld) -> None:
        self._world = world
        self._claimed = False
        self._closed = False

    def read(self) -> bytes:
        if not self._claimed:
            self._claimed = True
            self._world.claim()
        self._check()
        self._world.park(self._world.anything, self._world.monotonic() + READ_WAIT_S, patient=False)
        self._check()
        return self._world.arrived()

    def write(self, data: bytes) -> None:
        self._check()
        self._world.send(data)

    def close(self) -> None:
        if not self._claimed:
            self._claimed = True
            self._world.claim()
        self._closed = True

    def _check(self) -> None:
        if self._closed or not self._world.plugged:
            raise OSError(errno.EIO, "the port is gone")
