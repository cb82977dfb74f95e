"""A real coordinator that the kernel kills at its n-th system call of a kind, life after life, and devices that go on
until all is done.

Devices act one after the other, so that reports are accepted in one order, and the heads must be, bit for bit, those of
a coordinator to which nothing happened.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc
from free_ports import free_port
from scripted_device import ScriptedDevice
from warm_coordinator import WarmCoordinators

from coordinator.operator.client import Operator
from protos.errors import UnreachableError
from protos.orders import DeviceReport, RejoinOrder, TrainOrder, Verdict

R = TypeVar("R")
ROUNDS = 2
CHANGES = {"a": 0.125, "b": -0.7}
# However busy the machine is, and without waiting longer than it takes where it is not.
_TRIES, _PAUSE_S, _MOST_PAUSE_S = 3000, 0.01, 0.1
# What a coordinator does: with its files, its database, its devices, its threads. Those that it makes are died at.
CALLS = (
    "pwrite64", "fdatasync", "fsync", "ftruncate", "openat", "write", "fcntl", "unlink", "rename", "sendto", "recvfrom",
    "sendmsg", "recvmsg", "futex", "epoll_wait", "accept4",
)  # fmt: skip
_FEWEST = 3
_MADE = re.compile(r"^(\d+) +(\w+)\(")
_PLAN = """\
[run]
bundle = "{bundle}"
name = "killed"
rounds = {rounds}
seed = 7
[round]
devices = 2
quorum = 1.0
deadline_s = 120
[train]
epochs = 1
[update]
codec = "float32"
"""


def missing() -> str | None:
    """Why nothing can be killed at a system call here."""
    if shutil.which("strace") is None:
        return "needs strace"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False)
    return None if done.returncode == 0 else "strace may not trace here"


@dataclass(frozen=True)
class Point:
    """Where to die: at the n-th call of this name that a thread makes."""

    call: str
    at: int

    @classmethod
    def drawn(cls, seed: int, made: Mapping[str, int]) -> Point:
        """One of those that a coordinator makes to which nothing happens, each kind with the same chance.

        Args:
            made: how often a thread of it makes each call, see :func:`calls_of`.
        """
        return cls.one_for_each_life(seed, made, 1)[0]

    @classmethod
    def one_for_each_life(cls, seed: int, made: Mapping[str, int], lives: int) -> list[Point]:
        """As :meth:`drawn`, so many."""
        dice = random.Random(f"point {seed}")
        often = sorted(key for key, count in made.items() if count >= _FEWEST)
        calls = (dice.choice(often) for _ in range(lives))
        return [cls(call, dice.randint(1, made[call])) for call in calls]


@dataclass
class Outcome:
    """What came of the points of a run.

    Attributes:
        died: how many were reached: the first ones, since each life has the next.
        heads: after each round.
        lost: acknowledged reports that were not held when they came again.
    """

    died: int
    heads: list[str]
    lost: list[tuple[int, str]]


class Life:
    """A coordinator that dies at a point in each of its first lives, and is started again whenever it is down.

    Args:
        traced: a file that takes every call that it makes in its first life, in place of a point.
    """

    def __init__(
        self,
        warm: WarmCoordinators,
        folder: Path,
        database: str | None,
        points: Sequence[Point],
        traced: Path | None,
    ) -> None:
        self._warm, self._folder, self._database = warm, folder, database
        self._points: Iterator[Point] = iter(points)
        self.address = f"127.0.0.1:{free_port()}"
        self.died = 0
        self._start(None if traced is None else ["-o", str(traced), "-e", f"trace={','.join(CALLS)}"])

    def _start(self, trace: list[str] | None = None) -> None:
        self._pid = self._begin(self._folder / "state", trace)

    def _begin(self, state: Path, trace: list[str] | None = None, *more: str) -> int:
        if trace is None and (point := next(self._points, None)) is not None:
            inject = f"inject={point.call}:signal=SIGKILL:when={point.at}"
            trace = ["-o", "/dev/null", "-e", f"trace={point.call}", "-e", inject]
        arguments = ["serve", "--state", str(state), "--listen", self.address, *more]
        arguments += ["--database", self._database] if self._database else []
        return self._warm.start(arguments, self._folder / "log", trace)

    def look(self) -> None:
        """Start it again if it is down."""
        if not self._warm.is_up(self._pid):
            self.died += 1
            self._start()

    def insist(self, work: Callable[[], R | None]) -> R:
        """Try until it is answered."""
        pause_s = _PAUSE_S
        for _ in range(_TRIES):
            self.look()
            try:
                if (found := work()) is not None:
                    return found
            except (grpc.RpcError, UnreachableError) as error:
                if isinstance(error, grpc.RpcError) and error.code() not in (  # type: ignore[attr-defined]
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                    grpc.StatusCode.CANCELLED,
                ):
                    raise
            time.sleep(pause_s)
            pause_s = min(1.3 * pause_s, _MOST_PAUSE_S)
        raise AssertionError("nobody answered: " + (self._folder / "log").read_text(errors="replace")[-2000:])

    def end(self) -> None:
        """Nothing is looked at any more."""
        self._warm.kill(self._pid)


class WithStandby(Life):
    """Two coordinators of one database, each in a state folder of its own that was empty: when one of them is down,
    another stands by for the one that is left."""

    def _start(self, trace: list[str] | None = None) -> None:
        self._begun = 0
        self._pids = [self._another(trace)]

    def _another(self, trace: list[str] | None = None) -> int:
        self._begun += 1
        return self._begin(self._folder / f"state-{self._begun}", trace, "--standby")

    def look(self) -> None:
        """Start another where one is down."""
        up = [pid for pid in self._pids if self._warm.is_up(pid)]
        self.died += len(self._pids) - len(up)
        while len(up) < 2:
            up.append(self._another())
        self._pids = up

    def end(self) -> None:
        """Nothing is looked at any more."""
        for pid in self._pids:
            self._warm.kill(pid)


def calls_of(traced: Path) -> dict[str, int]:
    """How often each call is made by the thread that makes it most often: strace counts by threads."""
    made: Counter[tuple[str, str]] = Counter()
    with traced.open(errors="replace") as lines:
        made.update((found[1], found[2]) for line in lines if (found := _MADE.match(line)))
    most: dict[str, int] = {}
    for (_, call), count in made.items():
        most[call] = max(most.get(call, 0), count)
    return {call: most[call] for call in CALLS if call in most}


def play(
    warm: WarmCoordinators,
    folder: Path,
    bundle: Path,
    database: str | None,
    points: Sequence[Point] = (),
    traced: Path | None = None,
    rounds: int = ROUNDS,
) -> Outcome:
    """One run of two devices."""
    folder.mkdir()
    life = Life(warm, folder, database, points, traced)
    devices = {name: ScriptedDevice(life.address, name) for name in CHANGES}
    lost: list[tuple[int, str]] = []
    try:
        text = _PLAN.format(bundle=bundle, rounds=rounds)
        run_id = life.insist(lambda: _started(life.address, text, folder))
        sent: list[tuple[int, str, DeviceReport]] = []
        for number in range(1, rounds + 1):
            orders = life.insist(partial(_orders, devices, number))
            for name, device in devices.items():
                report = device.answer(orders[name], CHANGES[name] / number)
                receipt = life.insist(partial(device.send, report))
                assert receipt.verdict in (Verdict.ACCEPTED, Verdict.DUPLICATE), receipt
                sent.append((number, name, report))
        heads = life.insist(lambda: _heads(life.address, run_id))
        for number, name, report in sent:
            again = life.insist(partial(devices[name].send, report))
            if again.verdict is not Verdict.DUPLICATE:
                lost.append((number, name))
        return Outcome(life.died, heads, lost)
    finally:
        for device in devices.values():
            device.close()
        life.end()


def _started(address: str, text: str, folder: Path) -> str | None:
    """The run, started once however often it is asked for."""
    with Operator(address) as operator:
        there = operator.runs()
        return there[0].run_id if there else operator.start_run(text, folder)


def _orders(devices: dict[str, ScriptedDevice], number: int) -> dict[str, TrainOrder] | None:
    """The orders of a round when all devices have one: a round opens for those that are there."""
    found = {}
    for name, device in devices.items():
        # Not held: the others are asked first.
        order = device.ask(waits_s=0.01)
        if isinstance(order, RejoinOrder):
            device.join()
        elif isinstance(order, TrainOrder) and order.round == number:
            found[name] = order
    return found if len(found) == len(devices) else None


def _heads(address: str, run_id: str) -> list[str] | None:
    with Operator(address) as operator:
        status = operator.status(run_id)[0]
    assert status.state not in ("failed", "stopped"), status.reason
    return [this_round.head_version for this_round in status.rounds] if status.is_over else None
