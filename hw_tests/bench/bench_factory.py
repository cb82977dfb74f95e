"""From options to a bench: which file counts, what kind of bench it describes, whether it can be had here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from firmware_tools.bridge.machine.build import APT, missing
from hw_tests.bench.bench import Bench
from hw_tests.bench.real import RealBench
from hw_tests.bench.simulated import SimulatedBench
from hw_tests.environment.environment import SIMULATED, Environment, read_environment
from protos.errors import UsageError

__all__ = ["NO_BENCH", "VARIABLES", "chosen_environment", "make_bench", "unavailable"]

VARIABLES = ("HW_ENV", "LG_ENV")
"""Read in this order when no option names a file; the second is labgrid's own."""
NO_BENCH = "no bench: give --hw-sim, or --hw-env FILE (or HW_ENV)"


def chosen_environment(file: str | None, *, simulated: bool, variables: Mapping[str, str]) -> Environment | None:
    """The environment that options and variables choose; None when they choose none.

    Raises:
        UsageError: two benches are asked for.
        ConfigError: the file is wrong.
    """
    if file is not None and simulated:
        raise UsageError("--hw-sim and --hw-env choose two benches", fix="give one of them")
    if simulated:
        return read_environment(SIMULATED)
    named = file or next((variables[name] for name in VARIABLES if variables.get(name)), None)
    return None if named is None else read_environment(Path(named))


def make_bench(environment: Environment) -> Bench:
    """The bench of an environment, not open yet."""
    return SimulatedBench(environment) if environment.simulated else RealBench(environment)


def unavailable(environment: Environment) -> str | None:
    """Why the bench cannot be had on this computer, and what to install; None when nothing speaks against it."""
    if environment.simulated and (what := missing()):
        return f"the simulated bench needs more here: {what}: {APT}"
    return None
