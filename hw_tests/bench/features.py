"""What a bench can have. Tests name what they need; an environment file names what is there."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import MappingProxyType

from protos.catalog import hint
from protos.errors import ConfigError

__all__ = ["FEATURES", "SECTION_OF", "check_feature", "check_known"]

FEATURES = MappingProxyType(
    {
        "ina219-bridge": "a power bridge with an INA219 on a serial port",
        "known-load": "a load whose joules are known, and by how much not",
        "programmable-load": "its watts can be set, constant and alternating",
        "overload": "it can draw more than the shunt range holds, and nothing breaks",
        "power-switch": "the supply of bridge and board can be switched by a command",
        "flash": "the bridge may be flashed through its bootloader",
        "fault-injection": "bus, line and sensor fail on command",
        "marker": "the bridge's marker input can be driven",
        "board": "a machine on which tests act as root",
        "systemd": "that machine has systemd",
        "simulated": "nothing here is metal",
    }
)
"""Name of a feature to its meaning. An environment may name others: labgrid's own, for other tests."""
SECTION_OF = MappingProxyType(
    {"known-load": "load", "programmable-load": "load", "overload": "load", "power-switch": "power", "flash": "bridge"}
)
"""A feature that is listed needs this section of the environment file."""
_TYPING_MISTAKE = 0.85


def check_feature(name: str, where: str) -> str:
    """A feature that an environment lists: known, or unlike every known one.

    Raises:
        ConfigError: it looks like a typing mistake.
    """
    near = difflib.get_close_matches(name, FEATURES, n=1, cutoff=_TYPING_MISTAKE)
    if name not in FEATURES and near:
        raise ConfigError(f"no feature is called {name!r}", where=where, fix=f"did you mean {near[0]!r}?")
    return name


def check_known(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Features that a test needs.

    Raises:
        ConfigError: one that no bench can have.
    """
    wanted = tuple(names)
    for name in wanted:
        if name not in FEATURES:
            raise ConfigError(f"no feature is called {name!r}", where=where, fix=hint(name, FEATURES))
    return wanted
