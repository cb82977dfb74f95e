"""Time that passes only when nothing is left to do, and programs that wait in it.

The event loop takes no system call: its clock jumps to the next timer. A program that blocks (a device's daemon) runs
in a thread of its own, but only ever one of all threads runs: the loop hands over and waits until the program waits.
So a run is a function of its seed, on every machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from coordinator.simulation import virtual_time


class Died(BaseException):
    """The process that runs this is no more. Nothing catches it."""


class VirtualLoop(virtual_time.VirtualLoop):
    """An event loop whose time is virtual, and which knows to which process each task belongs."""

    def __init__(self) -> None:
        super().__init__()
        self.owner: Any = None
        self._owners: dict[asyncio.Task[Any], Any] = {}
        self.set_task_factory(self._make)

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        try:
            parent = asyncio.current_task(loop)
        except RuntimeError:
            parent = None
        owner = self._owners.get(parent) if parent is not None else self.owner
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **kwargs)
        if owner is not None:
            self._owners[task] = owner
            task.add_done_callback(lambda done: self._owners.pop(done, None))
        return task

    def start(self, owner: Any, coro: Any) -> asyncio.Task[Any]:
        """A task of this process; so are all that it makes."""
        task = self.create_task(coro)
        self._owners[task] = owner
        task.add_done_callback(lambda done: self._owners.pop(done, None))
        return task

    def of(self, owner: Any) -> list[asyncio.Task[Any]]:
        """The tasks of a process."""
        return [task for task, each_owner in self._owners.items() if each_owner is owner]


class Program:
    """Code that blocks, in a thread that runs only while the loop waits for it.

    Args:
        body: called in the thread.
        ended: called on the loop when it has returned or raised.
    """

    def __init__(
        self, loop: VirtualLoop, body: Callable[[], None], ended: Callable[[BaseException | None], None]
    ) -> None:
        self._loop, self._body, self._ended = loop, body, ended
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._over = self.dead = False
        self._sleep = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin, as soon as the loop comes to it."""
        self._thread.start()
        self._loop.call_soon(self._resume, 0)

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self.dead:
                self._body()
        except Died:
            pass
        except BaseException as error:
            self._failure = error
        self._over = True
        self._back.release()

    def _resume(self, sleep: int) -> None:
        # A wake-up for a wait that is over already.
        if self._over or sleep != self._sleep:
            return
        self._sleep += 1
        self._go.release()
        self._back.acquire()
        if self._over:
            self._thread.join()
            self._ended(self._failure)

    def wait(self, seconds: float | None) -> None:
        """In the thread: let everything else go on for so long, or until :meth:`wake`."""
        self.check()
        sleep = self._sleep
        if seconds is not None:
            self._loop.call_later(max(0.0, seconds), self._resume, sleep)
        self._back.release()
        self._go.acquire()
        self.check()

    def check(self) -> None:
        """In the thread: a program that was killed goes no further."""
        if self.dead:
            raise Died

    def wake(self) -> None:
        """On the loop, or in the thread: end the wait that is on."""
        self._loop.call_soon(self._resume, self._sleep)

    def kill(self) -> None:
        """On the loop: it ends where it waits, and does nothing more."""
        if self._over:
            return
        self.dead = True
        self._resume(self._sleep)


@contextlib.contextmanager
def virtual(loop: VirtualLoop, dice: random.Random, jump_s: Callable[[], float]) -> Iterator[None]:
    """The clocks of this process show virtual time, and its random numbers come from the seed.

    Args:
        jump_s: by how much the wall clock is wrong now.
    """
    before = time.monotonic, time.time, secrets.token_hex, random.getstate()
    time.monotonic = loop.time
    time.time = lambda: virtual_time.EPOCH_UNIX_S + loop.time() + jump_s()
    secrets.token_hex = lambda nbytes=None: f"{dice.getrandbits(8 * (nbytes or 32)):0{2 * (nbytes or 32)}x}"
    random.seed(dice.getrandbits(64))
    try:
        yield
    finally:
        time.monotonic, time.time, secrets.token_hex = before[:3]
        random.setstate(before[3])
