"""The keys of an environment file that are ours: names, kinds, limits, defaults, meanings.

labgrid reads ``targets`` and leaves ``x-edgejoule`` alone; everything of ours stands under that.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from hw_tests.bench.tolerances import TOLERANCES
from protos.catalog import hint
from protos.energy.ina219 import PROFILES
from protos.errors import ConfigError
from protos.ranges import Range

__all__ = ["OURS", "REQUIRED", "SECTIONS", "Key", "read_section", "refuse_unknown"]

OURS = "x-edgejoule"
Kind = Callable[[Any, str], Any]
"""A value and where it stands to the value to use; raises ConfigError."""
REQUIRED = object()


def text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value:
        raise ConfigError(f"{value!r} is no text of one line", where=where, fix="give one, in quotes")
    return value


def flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{value!r} is neither true nor false", where=where, fix="write true or false")
    return value


def number(least: float, most: float = math.inf, *, is_whole: bool = False) -> Kind:
    """A number from ``least`` to ``most``."""
    limits = Range(least, most, whole=is_whole)

    def read(value: Any, where: str) -> float:
        try:
            return limits.integer(value) if is_whole else limits.number(value)
        except ValueError as error:
            # YAML 1.1 takes 1e-3 without a point for a text.
            fix = "write 1.0e-3, not 1e-3" if isinstance(value, str) and "e" in value.lower() else "correct it"
            raise ConfigError(f"{value!r} is {error}", where=where, fix=fix) from None

    return read


def whole(least: int, most: int) -> Kind:
    """A whole number from ``least`` to ``most``."""
    return number(least, most, is_whole=True)


def choice(*names: str) -> Kind:
    """One of ``names``."""

    def read(value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in names:
            raise ConfigError(f"{value!r} is not one of them", where=where, fix=hint(str(value), names))
        return value

    return read


def watts(value: Any, where: str) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError("is no list of watts", where=where, fix="write [1.0, 2.5]")
    return tuple(number(0, 1000)(item, f"{where}[{index}]") for index, item in enumerate(value))


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what it takes, what it is when left out (``REQUIRED``: it may not be), what it means."""

    kind: Kind
    default: Any
    meaning: str


_NAME = "letters, digits, dots and dashes"


def name(value: Any, where: str) -> str:
    given = text(value, where)
    if (
        not all(character.isalnum() or character in ".-" for character in given)
        or not given[0].isalnum()
        or len(given) > 60
    ):
        raise ConfigError(f"{given!r} is no name", where=where, fix=f"use {_NAME}, 60 at most")
    return given


_SECONDS = number(0.05, 86_400)
SECTIONS: Mapping[str, Mapping[str, Key]] = MappingProxyType(
    {
        "": {
            "version": Key(whole(1, 1), REQUIRED, "of these keys: 1"),
            "bench": Key(name, REQUIRED, "name of the bench, for its lock and its reports"),
        },
        "bridge": {
            "board": Key(choice("atmega328p", "rp2040"), "atmega328p", "what the firmware runs on"),
            "bootloader_baud": Key(whole(1200, 2_000_000), 115_200, "of its serial bootloader; older Nanos: 57600"),
            "volume": Key(text, None, "folder of an RP2040's drive when it is in its bootloader; found if left out"),
            "sensor": Key(whole(0, 3), 0, "which sensor of the bridge is meant"),
            "profile": Key(choice(*PROFILES), "balanced", "setting of the sensor for tests that ask for none"),
            "shunt_ohm": Key(number(1e-4, 10), None, "of the shunt; checked against the calibration's"),
        },
        "power": {
            "on": Key(text, REQUIRED, "command that switches the supply on"),
            "off": Key(text, REQUIRED, "command that switches it off"),
            "cycle": Key(text, None, "command for off and on; both in turn if left out"),
            "off_s": Key(_SECONDS, 1.0, "how long it stays off between the two"),
            "timeout_s": Key(_SECONDS, 30.0, "a command that takes longer has failed"),
            "ready_s": Key(_SECONDS, 20.0, "after on, until the bridge must answer"),
        },
        "load": {
            "kind": Key(choice("command", "fixed", "manual", "simulated"), REQUIRED, "see the table of loads"),
            "steps_w": Key(watts, None, "powers that tests of a constant load go through"),
            "constant": Key(text, None, "command; `{watts}` is put in"),
            "square": Key(text, None, "command; `{low_w}`, `{high_w}`, `{period_s}` are put in; high first, halves"),
            "off": Key(text, None, "command that ends drawing"),
            "settle_s": Key(_SECONDS, 0.5, "after each change, until the watts count"),
            "uncertainty_relative": Key(number(0, 1), 0.0, "half width of the 95 % interval of its watts"),
            "overload_w": Key(number(0, 1000), None, "a power beyond the shunt range, for moments"),
            "timeout_s": Key(_SECONDS, 30.0, "a command that takes longer has failed"),
        },
        "reference": {
            "instrument": Key(text, REQUIRED, "which meter read it, and when"),
            "power_w": Key(number(0, 1000), REQUIRED, "its reading of the fixed load, at the sensor's IN-"),
            "uncertainty_w": Key(number(0, 1000), REQUIRED, "half width of the reading's 95 % interval"),
        },
        "durations": {
            "stream_s": Key(_SECONDS, 5.0, "of the test of the stream"),
            "phase_s": Key(_SECONDS, 2.0, "of one metered phase"),
            "clock_s": Key(_SECONDS, 8.0, "of the test of the clocks"),
            "soak_s": Key(_SECONDS, 3600.0, "of the soak, when `--hw-soak-s` does not say it"),
        },
        "board": {
            "kind": Key(text, None, "what it is, for the reports"),
            "ssh": Key(text, None, "`user@host` to act on it as root; or labgrid's `NetworkService`"),
        },
        "simulation": {
            "seed": Key(whole(0, 2**31), 0, "of noise, clock and line"),
            "shunt_ohm": Key(number(1e-4, 10), 0.02, "of the simulated shunt"),
            "supply_v": Key(number(1, 26), 5.0, "of the simulated supply"),
            "crystal_ppm": Key(number(-10_000, 10_000), 0.0, "how much too fast the bridge's clock is"),
            "offset_v": Key(number(-1e-3, 1e-3), 0.0, "shunt voltage read at no current; the calibration takes it off"),
            "gain": Key(number(-0.05, 0.05), 0.0, "relative error of shunt and amplifier; likewise"),
            "noise_v": Key(number(0, 1e-3), 5e-6, "of one shunt conversion, one sigma"),
            "oscillator": Key(number(-0.1, 0.1), 0.0, "relative error of the sensor's clock"),
            "usb": Key(choice("none", "frames", "ftdi"), "frames", "how bytes reach the host"),
        },
        "tolerances": {
            name: Key(number(0), None, f"{tolerance.meaning} ({tolerance.unit})")
            for name, tolerance in TOLERANCES.items()
        },
    }
)
"""Section to its keys; "" is the top."""


def refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for the first key that is not known."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            fix = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"no key is called {key!r}", where=where, fix=fix)


def read_section(section: str, given: Any, where: str) -> dict[str, Any]:
    """Values of every key of a section, defaults filled in.

    Raises:
        ConfigError: it is no mapping, has a key that is not known, lacks one, or a value is out of range.
    """
    if not isinstance(given, dict):
        raise ConfigError("is no mapping", where=where, fix="give keys and values")
    keys = SECTIONS[section]
    refuse_unknown(given, keys if section else {**keys, **dict.fromkeys(SECTIONS)}, where)
    values = {}
    for key, each_key in keys.items():
        if key in given:
            values[key] = each_key.kind(given[key], f"{where}.{key}")
        elif each_key.default is REQUIRED:
            raise ConfigError(f"lacks {key!r}", where=where, fix=f"give it: {each_key.meaning}")
        else:
            values[key] = each_key.default
    return values
