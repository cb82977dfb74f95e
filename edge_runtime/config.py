"""Every setting of the daemon, from one table: a key of the TOML file, a flag, an ``EDGEJOULE_*`` variable.

Flags win over variables, variables over the file, the file over defaults. Where each value came from is kept.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import platform
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_runtime import setting_values as read
from edge_runtime.machine_identity import default_device_id
from edge_runtime.systemd.logging_setup import LEVELS
from protos.catalog import hint
from protos.errors import ConfigError
from protos.model.edge_tpu import LIBRARY

PREFIX = "EDGEJOULE_"
DEFAULT_COORDINATOR = "127.0.0.1:50461"
SERVICE_CONFIG = Path("/etc/edgejoule/device.toml")


@dataclass(frozen=True)
class Settings:
    """What the daemon runs with. Paths are absolute or relative to the working directory."""

    coordinator: str
    device_id: str
    data: str | None
    shard: str | None
    rename: str | None
    bad_examples_percent: float
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
    cpu_quota_percent: int | None
    memory_max_mb: int | None
    watchdog_s: float
    require_delegate: str | None
    edgetpu: Literal["auto", "off", "require"]
    edgetpu_library: str
    edgetpu_device: str | None
    pause_above_c: float
    resume_below_c: float
    pause_when_busy: float | None
    max_pause_s: float
    throttled_from: str
    machine_root: Path
    adopt: Literal["better", "always", "never"]
    personal_head: Literal["off", "on"]
    head_bits: int
    class_weights: Literal["none", "balanced"]
    model_socket: str | None
    model_http: int | None
    metrics_file: Path | None = None


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


def _pause_above(environ: Mapping[str, str]) -> float:
    # A Raspberry Pi holds its clock down from 80 degrees on; workstations run hotter by design.
    return 80.0 if platform.machine().startswith(("arm", "aarch64")) else 95.0


def _own_name(environ: Mapping[str, str]) -> str:
    return default_device_id()


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
    Option("coordinator", "--coordinator", "HOST:PORT", read.text, _always(DEFAULT_COORDINATOR),
           "address of the coordinator, with those of its standbys after commas; loopback only, unless this device is "
           "enrolled"),
    Option("device_id", "--device-id", "ID", read.device_id, _own_name,
           "name of this device, unique in its fleet; host name and a hash of the machine if not given"),
    Option("data", "--data", "SPEC", read.path, _NONE,
           "own examples: FILE.npz, an idx images file, a folder by class, a table, or a store that grows",
           is_path=True),
    Option("shard", "--shard", "S", read.text, _NONE, "the owner in the data to be, or K/N for the K-th of N parts"),
    Option("rename", "--rename", "OLD=NEW", read.renames, _NONE,
           "class of the data = class of the bundle, where names differ; several divided by commas"),
    Option("bad_examples_percent", "--bad-examples", "PERCENT", read.number(0.0, 100.0), _always(10.0),
           "most examples that may be set aside as bad, percent; beyond it the device declines"),
    Option("sensor", "--sensor", "SPEC", read.text, _always("none"),
           "what measures: serial:PATH, hwmon:NAME, iio:NAME, i2c:BUS:ADDRESS, rapl, pmic, estimate:BOARD or none"),
    Option("state", "--state", "DIR", read.path, _state,
           "folder for bundles, embeddings and unsent reports", is_path=True),
    Option("bundle", "--bundle", "DIR", read.path, _NONE,
           "a bundle that is here already; else it is fetched from the coordinator", is_path=True),
    Option("budget_j", "--budget-j", "J", read.number(0.0, 1e9, above=True), _NONE,
           "the most joules to spend on one round, idling left out"),
    Option("board", "--board", "NAME", read.text, _NONE,
           "what to call this kind of board; read from the machine if unset"),
    Option("threads", "--threads", "N", read.whole(1, 64), _always(1), "CPU threads of the backbone"),
    Option("pid_file", "--pid-file", "PATH", read.path, _NONE,
           "file to hold the process id while running", is_path=True),
    Option("log_level", "--log-level", "LEVEL", read.level, _always("info"),
           f"least level to log: {', '.join(LEVELS)}"),
    Option("wait_for_coordinator_s", "--wait-for-coordinator", "S", read.number(0.0, 1e7), _always(30.0),
           "seconds to try at start before giving up; once met, it is waited for without limit"),
    Option("max_rounds", "--max-rounds", "N", read.whole(1, 1_000_000), _NONE, "leave after this many rounds"),
    Option("exit_when_idle_s", "--exit-when-idle", "S", read.number(0.0, 1e7), _NONE,
           "leave after this many seconds without an order"),
    Option("cpu_quota_percent", "--cpu-quota", "PERCENT", read.whole(1, 6400), _NONE,
           "most CPU time of the service, percent of one core; systemd keeps it"),
    Option("memory_max_mb", "--memory-max", "MB", read.whole(64, 1 << 20), _NONE,
           "most memory; the daemon ends its round before it holds that much"),
    Option("watchdog_s", "--watchdog", "S", read.number(30.0, 86400.0), _always(300.0),
           "seconds without progress after which systemd kills the service and starts it again"),
    Option("require_delegate", "--require-delegate", "NAME", read.text, _NONE,
           "kernels that the engine must run on, such as xnnpack; else the daemon does not start"),
    Option("edgetpu", "--edgetpu", "MODE", read.one_of("auto", "off", "require"), _always("auto"),
           "use of an Edge TPU: auto, off, or require, with which the daemon does not go on without"),
    Option("edgetpu_library", "--edgetpu-library", "NAME", read.text, _always(LIBRARY),
           "library of the Edge TPU: a name that the linker knows, or a path"),
    Option("edgetpu_device", "--edgetpu-device", "DEVICE", read.edgetpu_device, _NONE,
           "which Edge TPU: usb, pci, or one of several, such as usb:0"),
    Option("pause_above_c", "--pause-above", "C", read.number(0.0, 150.0), _pause_above,
           "pause from this temperature of the processor on, degrees Celsius; 0: never for heat"),
    Option("resume_below_c", "--resume-below", "C", read.number(0.0, 150.0), _NONE,
           "go on below this temperature, degrees Celsius; 5 below the other if not given"),
    Option("pause_when_busy", "--pause-when-busy", "PERCENT", read.number(0.0, 100.0, above=True), _NONE,
           "pause while other programs use more than this of all cores, percent"),
    Option("max_pause_s", "--max-pause", "S", read.number(1.0, 86400.0), _always(600.0),
           "longest pause; after it, training ends with what is there"),
    Option("throttled_from", "--throttled-from", "SOURCE", read.one_of("kernel", "vcgencmd", "none"), _always("kernel"),
           "who tells whether the clock is held down: kernel, vcgencmd or none"),
    Option("machine_root", "--machine-root", "DIR", read.path, _always(Path("/")),
           "folder with the sys and proc of the machine, where a container sees them elsewhere", is_path=True),
    Option("adopt", "--adopt", "WHEN", read.one_of("better", "always", "never"), _always("better"),
           "when a new head becomes the model at work: better, unless it is worse on own held-out examples; always; "
           "never"),
    Option("personal_head", "--personal-head", "MODE", read.one_of("off", "on"), _always("off"),
           "on: work with a head made of the new one and own examples, where that is better here"),
    Option("head_bits", "--head-bits", "N", read.head_bits, _always(32),
           "work with heads whose weights are rounded to 2 to 16 bits; 32: as they come"),
    Option("class_weights", "--class-weights", "MODE", read.one_of("none", "balanced"), _always("none"),
           "balanced: every class has the same say in local training, however few its examples"),
    Option("model_socket", "--model-socket", "PATH", read.text, _NONE,
           "Unix socket for applications, or off; model.sock in the state folder if not given"),
    Option("model_http", "--model-http", "PORT", read.whole(1, 65535), _NONE,
           "serve the same on this port of loopback, over HTTP; off if not given"),
    Option("metrics_file", "--metrics-file", "PATH", read.path, _NONE,
           "figures for node_exporter's textfile collector, such as edgejoule.prom; none if not given", is_path=True),
)  # fmt: skip
KEYS = {option.key: option for option in OPTIONS}


def resolve(
    flags: Mapping[str, str], environ: Mapping[str, str], file: Path | None, *, at: Path | None = None
) -> Resolved:
    """Settings from flags (by key), variables and a file, in this order of precedence.

    Args:
        at: where ``file`` will be when it counts, if not where it is now: its paths are relative to that place.

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
            values[option.key] = (at or file).parent / values[option.key]
    if values["data"] is not None:
        values["data"] = str(values["data"])
    if values["budget_j"] is not None and values["sensor"] == "none":
        raise ConfigError(
            "a budget in joules cannot be kept without a sensor",
            where=f"{origins['budget_j']}: budget_j",
            fix="give --sensor serial:PATH or estimate:BOARD, or leave the budget out",
        )
    if values["resume_below_c"] is None:
        values["resume_below_c"] = max(0.0, values["pause_above_c"] - 5.0)
    elif values["pause_above_c"] and values["resume_below_c"] >= values["pause_above_c"]:
        raise ConfigError(
            f"{values['resume_below_c']:g} degrees are not below pause_above_c, {values['pause_above_c']:g}",
            where=f"{origins['resume_below_c']}: resume_below_c",
            fix="leave some degrees between the two, or the board stutters",
        )
    return Resolved(Settings(**values), origins)


def configured_sensor(environ: Mapping[str, str], file: Path | None = None) -> str | None:
    """The sensor that a program on this device uses when it names none: EDGEJOULE_SENSOR, else that of the settings.

    Args:
        environ: the environment.
        file: the settings; EDGEJOULE_CONFIG, else the service's, if None. None is given back where there are none.

    Raises:
        ConfigError: the settings cannot be read.
    """
    if environ.get("EDGEJOULE_SENSOR"):
        return environ["EDGEJOULE_SENSOR"]
    file = file or (Path(environ["EDGEJOULE_CONFIG"]) if environ.get("EDGEJOULE_CONFIG") else None)
    if file is None and not SERVICE_CONFIG.is_file():
        return None
    return resolve({}, environ, file or SERVICE_CONFIG).settings.sensor


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
