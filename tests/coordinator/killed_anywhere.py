"""A real coordinator that the kernel kills at its n-th system call of a kind, and devices that go on until all is done.

Devices act one after the other, so that reports are accepted in one order, and the heads must be, bit for bit, those of
a coordinator to which nothing happened.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
from scripted_device import ScriptedDevice

from coordinator.operator.client import Operator
from protos.errors import UnreachableError
from protos.orders import DeviceReport, RejoinOrder, TrainOrder, Verdict

R = TypeVar("R")
ROUNDS = 2
CHANGES = {"a": 0.125, "b": -0.7}
_TRIES, _PAUSE_S = 600, 0.1
# What a coordinator on a file does, and one whose database is a server; each with how often before it dies, at most.
FILE_CALLS = (
    ("pwrite64", 120),
    ("fdatasync", 40),
    ("sendmsg", 30),
    ("recvmsg", 60),
    ("openat", 400),
    ("futex", 200),
)
SERVER_CALLS = (("sendto", 150), ("recvfrom", 250), ("sendmsg", 30), ("recvmsg", 60), ("futex", 200))


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
    def drawn(cls, seed: int, *, server: bool) -> Point:
        dice = random.Random(f"point {seed} {server}")
        call, most = dice.choice(SERVER_CALLS if server else FILE_CALLS)
        return cls(call, dice.randint(1, most))


@dataclass
class Outcome:
    """What came of a point.

    Attributes:
        died: whether it was reached.
        heads: after each round.
        lost: acknowledged reports that were not held when they came again.
    """

    died: bool
    heads: list[str]
    lost: list[tuple[int, str]]


class Life:
    """A coordinator that dies once, and is started again whenever it is down."""

    def __init__(self, folder: Path, database: str | None, point: Point | None) -> None:
        self._folder, self._database, self._point = folder, database, point
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{one.getsockname()[1]}"
        self.died = False
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "coordinator.cli", "serve", "--state", str(self._folder / "state")]
        command += ["--listen", self.address, *(["--database", self._database] if self._database else [])]
        if self._point is not None:
            inject = f"inject={self._point.call}:signal=SIGKILL:when={self._point.at}"
            trace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={self._point.call}"]
            command = [*trace, "-e", inject, *command]
            self._point = None
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=Path(__file__).parents[2])

    def look(self) -> None:
        """Start it again if it is down."""
        if self._process is not None and self._process.poll() is not None:
            self.died = True
            self._start()

    def insist(self, work: Callable[[], R | None]) -> R:
        """Try until it is answered."""
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
            time.sleep(_PAUSE_S)
        raise AssertionError("nobody answered: " + (self._folder / "log").read_text(errors="replace")[-2000:])

    def end(self) -> None:
        """SIGTERM, and then without asking."""
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def play(folder: Path, bundle: Path, plan: Any, database: str | None, point: Point | None) -> Outcome:
    """One run of two rounds and two devices."""
    folder.mkdir()
    life = Life(folder, database, point)
    devices = {name: ScriptedDevice(life.address, name) for name in CHANGES}
    lost: list[tuple[int, str]] = []
    try:
        text = plan(bundle, rounds=ROUNDS, devices=2, quorum=1.0, deadline_s=120)
        run_id = life.insist(lambda: _started(life.address, text, folder))
        sent: list[tuple[int, str, DeviceReport]] = []
        for number in range(1, ROUNDS + 1):
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
        order = device.ask()
        if isinstance(order, RejoinOrder):
            device.join()
        elif isinstance(order, TrainOrder) and order.round == number:
            found[name] = order
    return found if len(found) == len(devices) else None


def _heads(address: str, run_id: str) -> list[str] | None:
    with Operator(address) as operator:
        status = operator.status(run_id)[0]
    assert status.state not in ("failed", "stopped"), status.reason
    return [one.head_version for one in status.rounds] if status.is_over else None
