"""A bench of metal: a port by its name, a switch and a load that commands move.

No such bench has been run with this code yet. What it shares with the simulated one was; its commands, its port and its
waiting were tried against programs that stand for them.
"""

from __future__ import annotations

from hw_tests.bench.bench import Bench
from hw_tests.bench.load import CommandLoad, FixedLoad, Load, ManualLoad, ask_on_terminal
from hw_tests.bench.power import CommandPower
from hw_tests.environment.environment import Environment

__all__ = ["RealBench"]


class RealBench(Bench):
    """What an environment file describes.

    Raises:
        ConfigError: it describes no port.
    """

    def __init__(self, environment: Environment) -> None:
        assert environment.port is not None, "read_environment has seen to it"
        super().__init__(environment, environment.port)
        section = environment.sections["power"]
        if section is not None:
            self.power = CommandPower(section, self.diary)
        self.load = self._load()

    def _load(self) -> Load | None:
        section = self.environment.sections["load"]
        if section is None:
            return None
        if section["kind"] == "fixed":
            return FixedLoad(self.environment.section("reference"))
        if section["kind"] == "manual":
            return ManualLoad(section, self.diary, ask=ask_on_terminal)
        return CommandLoad(section, self.diary)

    def close(self, *, keep_power: bool = False) -> None:
        """As :meth:`Bench.close`; an electronic load ends drawing before."""
        try:
            if not keep_power and isinstance(self.load, CommandLoad) and self.load.is_drawing:
                self.load.off()
        finally:
            super().close(keep_power=keep_power)

    def _start(self) -> None:
        if self.power is not None:
            self.power.on()
        self.await_port()

    def _stop(self) -> None:
        """The port is opened and closed test by test; nothing else is held."""
