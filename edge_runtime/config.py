"""Every setting of the daemon, from one table: a key of the TOML file, a flag, an ``EDGEJOULE_*`` variable.

Flags win over variables, variables over the file, the file over defaults. Where each value came from is kept.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.journal import LEVELS
from protos.catalog import hint
from protos.errors import ConfigError

PREFIX = "EDGEJOULE_"
DEFAULT_COORDINATOR = "127.0.0.1:50461"


@dataclass(frozen=True)
class Settings:
    """What the daemon runs with. Paths are absolute or relative to the working directory."""

    coordinator: str
    device_id: str
    data: str | None
    shard: str | None
    sensor: str
    state: Path
    bundle: Path | None
    budget_j: float | None
    board: str | None
    threads: int
    pid_file: Path | None
    log_level: str
    wait_for_coordinator_s: float
    max_rounds: int | None
    exit_when_idle_s: float | None


@dataclass(frozen=True)
class Option:
    """One row: ``read`` turns a string, or a value of the TOML file, into the value or raises ValueError."""

    key: str
    flag: str
    metavar: str
    read: Callable[[Any], Any]
    default: Callable[[Mapping[str, str]], Any]
    meaning: str
    is_path: bool = False

    @property
    def variable(self) -> str:
        return PREFIX + self.key.upper()


@dataclass(frozen=True)
class Resolved:
    """Settings, and for each key where its value came from."""

    settings: Settings
    origins: Mapping[str, str]

    def lines(self) -> list[str]:
        """One line per key, as it would stand in the file, with its origin as a comment."""
        rows = {option.key: getattr(self.settings, option.key) for option in OPTIONS}
        return [f"{_toml(key, value)}  # {self.origins[key]}" for key, value in rows.items()]


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("not a text")
    text = str(value).strip()
    if not text or not text.isprintable():
        raise ValueError("empty, or holds unprintable characters")
    return text


def _device_id(value: Any) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError("not 1 to 64 of A-Z a-z 0-9 . _ - beginning with a letter or digit")
    return text


def _path(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _number(low: float, high: float, *, above: bool = False) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError("not a number")
        try:
            number = float(value)
        except ValueError:
            raise ValueError("not a number") from None
        if not math.isfinite(number) or not low <= number <= high or (above and number == low):
            raise ValueError(f"not {'over' if above else 'from'} {low:g} {'and up' if above else ''} to {high:g}")
        return number

    return read


def _whole(low: int, high: int) -> Callable[[Any], int]:
    number = _number(low, high)

    def read(value: Any) -> int:
        whole = number(value)
        if whole != int(whole):
            raise ValueError("not a whole number")
        return int(whole)

    return read


def _level(value: Any) -> str:
    level = _text(value).lower()
    if level not in LEVELS:
        raise ValueError(f"not one of {', '.join(LEVELS)}")
    return level


def _host_name(environ: Mapping[str, str]) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:64]
    return name or "device"


def _state(environ: Mapping[str, str]) -> Path:
    # Set by systemd for a unit with StateDirectory=; several folders are joined by colons.
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    data = environ.get("XDG_STATE_HOME")
    return (Path(data) if data else Path.home() / ".local" / "state") / "edgejoule"


def _always(value: Any) -> Callable[[Mapping[str, str]], Any]:
    return lambda environ: value


_NONE = _always(None)
OPTIONS: tuple[Option, ...] = (
    Option("coordinator", "--coordinator", "HOST:PORT", _text, _always(DEFAULT_COORDINATOR),
           "address of the coordinator; loopback only until there are certificates"),
    Option("device_id", "--device-id", "ID", _device_id, _host_name, "name of this device, unique in its fleet"),
    Option("data", "--data", "SPEC", _path, _NONE,
           "own examples: FILE.npz, an idx images file, or a folder of images by class", is_path=True),
    Option("shard", "--shard", "S", _text, _NONE, "the owner in the data to be, or K/N for the K-th of N parts"),
    Option("sensor", "--sensor", "SPEC", _text, _always("none"),
           "what measures: serial:PATH, hwmon:NAME, iio:NAME, i2c:BUS:ADDRESS, rapl, pmic, estimate:BOARD or none"),
    Option("state", "--state", "DIR", _path, _state, "folder for bundles, embeddings and unsent reports", is_path=True),
    Option("bundle", "--bundle", "DIR", _path, _NONE,
           "a bundle that is here already; else it is fetched from the coordinator", is_path=True),
    Option("budget_j", "--budget-j", "J", _number(0.0, 1e9, above=True), _NONE,
           "the most joules to spend on one round, idling left out"),
    Option("board", "--board", "NAME", _text, _NONE, "what to call this kind of board; read from the machine if unset"),
    Option("threads", "--threads", "N", _whole(1, 64), _always(1), "CPU threads of the backbone"),
    Option("pid_file", "--pid-file", "PATH", _path, _NONE, "file to hold the process id while running", is_path=True),
    Option("log_level", "--log-level", "LEVEL", _level, _always("info"), f"least level to log: {', '.join(LEVELS)}"),
    Option("wait_for_coordinator_s", "--wait-for-coordinator", "S", _number(0.0, 1e7), _always(30.0),
           "seconds to try at start before giving up; once met, it is waited for without limit"),
    Option("max_rounds", "--max-rounds", "N", _whole(1, 1_000_000), _NONE, "leave after this many rounds"),
    Option("exit_when_idle_s", "--exit-when-idle", "S", _number(0.0, 1e7), _NONE,
           "leave after this many seconds without an order"),
)  # fmt: skip
KEYS = {option.key: option for option in OPTIONS}


def resolve(flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None) -> Resolved:
    """Settings from flags (by key), variables and a file, in this order of precedence.

    Raises:
        ConfigError: an unknown key, a bad value, settings that contradict each other, an unreadable file.
    """
    in_file = _read_file(file) if file else {}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for option in OPTIONS:
        if option.key in flags:
            raw, origin = flags[option.key], option.flag
        elif environ.get(option.variable):
            raw, origin = environ[option.variable], option.variable
        elif option.key in in_file:
            raw, origin = in_file[option.key], str(file)
        else:
            values[option.key], origins[option.key] = option.default(environ), "default"
            continue
        try:
            values[option.key] = option.read(raw)
        except ValueError as error:
            raise ConfigError(f"{raw!r} is {error}", where=f"{origin}: {option.key}", fix=option.meaning) from error
        origins[option.key] = origin
        if option.is_path and file and origin == str(file):
            values[option.key] = file.parent / values[option.key]
    if values["data"] is not None:
        values["data"] = str(values["data"])
    if values["budget_j"] is not None and values["sensor"] == "none":
        raise ConfigError(
            "a budget in joules cannot be kept without a sensor",
            where=f"{origins['budget_j']}: budget_j",
            fix="give --sensor serial:PATH or estimate:BOARD, or leave the budget out",
        )
    return Resolved(Settings(**values), origins)


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like a setting and are none, each with the nearest good one."""
    good = [option.variable for option in OPTIONS]
    strange = [name for name in environ if name.startswith(PREFIX) and name not in good]
    near = {name: difflib.get_close_matches(name, good, n=1, cutoff=0.85) for name in sorted(strange)}
    return [f"{name} is no setting; did you mean {found[0]}?" for name, found in near.items() if found]


def _read_file(file: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise ConfigError(what, where=str(file), fix="check the path given with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not TOML: {error}", where=str(file)) from error
    for key in document:
        if key not in KEYS:
            raise ConfigError(f"no setting is called {key!r}", where=str(file), fix=hint(key, KEYS))
    return document


def _toml(key: str, value: Any) -> str:
    if value is None:
        return f"# {key} ="
    return f"{key} = {json.dumps(str(value) if isinstance(value, os.PathLike) else value, ensure_ascii=False)}"


def as_json(resolved: Resolved) -> dict[str, dict[str, Any]]:
    """Key to value and origin, for ``--show-config --json``."""
    values = dataclasses.asdict(resolved.settings)
    return {
        key: {"value": str(value) if isinstance(value, os.PathLike) else value, "origin": resolved.origins[key]}
        for key, value in values.items()
    }
