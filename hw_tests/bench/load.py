"""What a bench draws, and what that truly was: joules with an uncertainty of their own.

=============  =========================================================================================
``fixed``      always the same; a reference meter has read it (``reference`` of the environment file)
``command``    an electronic load that commands set; the truth is what it was set to
``manual``     a person sets it, asked on the terminal; the truth is what was asked for
``simulated``  the simulated machine's, in closed form (:mod:`hw_tests.bench.simulated_load`)
=============  =========================================================================================
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hw_tests.bench.diary import Diary
from hw_tests.bench.shell import run_command
from hw_tests.environment.environment import Section
from protos.errors import EdgejouleError, UsageError

__all__ = ["CommandLoad", "FixedLoad", "Load", "ManualLoad", "Truth", "ask_on_terminal"]


@dataclass(frozen=True, slots=True)
class Truth:
    """What really was.

    Args:
        energy_j: joules at the sensor's IN-.
        uncertainty_j: half width of their 95 % interval.
    """

    energy_j: float
    uncertainty_j: float


class Load(Protocol):
    """Every change returns when the new watts count."""

    @property
    def steps_w(self) -> tuple[float, ...]:
        """Powers that tests of a constant load go through."""
        ...

    def constant(self, power_w: float) -> None:
        """Draw so much. Raises UsageError when it cannot."""
        ...

    def square(self, low_w: float, high_w: float, period_s: float) -> None:
        """Alternate, half of the time each. Raises UsageError when it cannot."""
        ...

    def off(self) -> None:
        """Draw as little as it can."""
        ...

    def truth(self, begin_s: float, end_s: float) -> Truth:
        """Joules between two instants of the host's clock, both since the last change."""
        ...


class FixedLoad:
    """One power, read by a reference meter."""

    def __init__(self, reference: Section) -> None:
        self._power_w, self._uncertainty_w = float(reference["power_w"]), float(reference["uncertainty_w"])

    @property
    def steps_w(self) -> tuple[float, ...]:
        return (self._power_w,)

    def constant(self, power_w: float) -> None:
        if power_w != self._power_w:
            raise _cannot(f"draw {power_w:g} W", f"it draws {self._power_w:g} W")

    def square(self, low_w: float, high_w: float, period_s: float) -> None:
        raise _cannot("alternate", "take programmable-load off the features")

    def off(self) -> None:
        pass

    def truth(self, begin_s: float, end_s: float) -> Truth:
        seconds = end_s - begin_s
        return Truth(self._power_w * seconds, self._uncertainty_w * seconds)


class CommandLoad:
    """An electronic load that commands set. ``is_drawing``: it was told to, and not to end since.

    Args:
        section: ``load`` of the environment file.
        sleep: waits until a change counts, for tests.
    """

    def __init__(self, section: Section, diary: Diary, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._section, self._diary, self._sleep = section, diary, sleep
        self._power_w = self._swing_w = self._period_s = 0.0
        self.is_drawing = False

    @property
    def steps_w(self) -> tuple[float, ...]:
        steps: tuple[float, ...] = self._section["steps_w"]
        return steps

    def constant(self, power_w: float) -> None:
        self._run("constant", {"watts": power_w})
        self._power_w, self._swing_w, self._period_s = power_w, 0.0, 0.0

    def square(self, low_w: float, high_w: float, period_s: float) -> None:
        if self._section["square"] is None:
            raise _cannot("alternate", "give load.square")
        self._run("square", {"low_w": low_w, "high_w": high_w, "period_s": period_s})
        self._power_w, self._swing_w, self._period_s = (low_w + high_w) / 2, high_w - low_w, period_s

    def off(self) -> None:
        if self._section["off"] is not None:
            self._run("off", {})
        else:
            self.constant(0.0)
        self._power_w = self._swing_w = self._period_s = 0.0
        self.is_drawing = False

    def truth(self, begin_s: float, end_s: float) -> Truth:
        energy_j = self._power_w * (end_s - begin_s)
        # Where in its period it was at either end is not known: the sum runs between lines swing * period / 4 apart.
        phase_j = self._swing_w * self._period_s / 4
        return Truth(energy_j, self._section["uncertainty_relative"] * energy_j + phase_j)

    def _run(self, verb: str, values: dict[str, float]) -> None:
        self.is_drawing = True
        run_command(
            self._section[verb],
            what=f"load {verb}",
            timeout_s=self._section["timeout_s"],
            diary=self._diary,
            values=values,
        )
        self._sleep(self._section["settle_s"])


class ManualLoad:
    """A load that a person sets.

    Args:
        section: ``load`` of the environment file.
        ask: shows a line to the person, and returns when it was confirmed.
    """

    def __init__(self, section: Section, diary: Diary, *, ask: Callable[[str], None]) -> None:
        self._section, self._diary, self._ask = section, diary, ask
        self._power_w = float("nan")

    @property
    def steps_w(self) -> tuple[float, ...]:
        steps: tuple[float, ...] = self._section["steps_w"]
        return steps

    def constant(self, power_w: float) -> None:
        if power_w != self._power_w:
            self._ask(f"set the load to {power_w:g} W, then press Enter")
            self._diary.note(f"a person has set the load to {power_w:g} W")
            self._power_w = power_w

    def square(self, low_w: float, high_w: float, period_s: float) -> None:
        raise _cannot("alternate by hand", "take programmable-load off the features")

    def off(self) -> None:
        self.constant(0.0)

    def truth(self, begin_s: float, end_s: float) -> Truth:
        energy_j = self._power_w * (end_s - begin_s)
        return Truth(energy_j, self._section["uncertainty_relative"] * energy_j)


def ask_on_terminal(line: str) -> None:
    """Show a line on the controlling terminal, whatever pytest has done to standard output, and wait for Enter.

    Raises:
        EdgejouleError: there is no terminal.
    """
    try:
        with Path("/dev/tty").open("r+b", buffering=0) as terminal:
            terminal.write(f"\n*** {line} ".encode())
            while terminal.read(1) not in (b"\n", b"\r", b""):
                pass
    except OSError as cause:
        fix = "run it on a terminal, or use a load that commands set"
        raise EdgejouleError("nobody is there to set the load", where="load", fix=fix) from cause


def _cannot(what: str, fix: str) -> UsageError:
    return UsageError(f"this load cannot {what}", where="load", fix=fix)
