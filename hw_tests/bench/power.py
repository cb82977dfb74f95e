"""The supply of a bench: on, off, off and on. Whatever happens, it is off when a session has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from hw_tests.bench.diary import Diary
from hw_tests.bench.shell import run_command
from hw_tests.environment.environment import Section

__all__ = ["CommandPower", "Power"]


class Power(Protocol):
    """A switch in the supply line of bridge and board."""

    @property
    def is_on(self) -> bool | None:
        """As it was last switched; None before that."""
        ...

    def on(self) -> None:
        """Switch on; returns when the command has ended, before the bridge is up."""
        ...

    def off(self) -> None:
        """Switch off."""
        ...

    def cycle(self) -> None:
        """Off, a while, and on."""
        ...


class CommandPower:
    """A switch that commands move, such as uhubctl, a relay card, or labgrid-client.

    Args:
        section: ``power`` of the environment file.
        sleep: waits, for tests.
    """

    def __init__(self, section: Section, diary: Diary, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._section, self._diary, self._sleep = section, diary, sleep
        self._on: bool | None = None

    @property
    def is_on(self) -> bool | None:
        return self._on

    def on(self) -> None:
        self._run("on")
        self._on = True

    def off(self) -> None:
        # Not known from here until the command has ended well.
        self._on = None
        self._run("off")
        self._on = False

    def cycle(self) -> None:
        if self._section["cycle"] is not None:
            self._on = None
            self._run("cycle")
            self._on = True
            return
        self.off()
        self._sleep(self._section["off_s"])
        self.on()

    def _run(self, verb: str) -> None:
        run_command(self._section[verb], what=f"power {verb}", timeout_s=self._section["timeout_s"], diary=self._diary)
