"""The boards of a lab, as one TOML file.

``[lab]`` says what they have in common, ``[defaults]`` what a board is unless its own ``[board.NAME]`` says otherwise.
A key that is not known is refused, with the nearest good one; every message names file, board and key.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from protos.addresses import host_and_port
from protos.catalog import hint
from protos.energy.boards import BOARDS
from protos.errors import ConfigError

__all__ = ["SERVICES", "Board", "Inventory", "as_text", "parse", "read"]

SERVICES = ("systemd", "process")
"""How the daemon runs on a board: as the service of systemd, or as a process of the user, without root."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_WORD = re.compile(r"[A-Za-z0-9._-]+")

_MOST_PARALLEL = 256


@dataclass(frozen=True)
class Board:
    """One board.

    Attributes:
        name: its name here, and the id of its device in the fleet.
        host, port, user, key: how SSH reaches it; ``key`` is a private key's file, None: those of the agent and ~/.ssh.
        kind: what board it is, such as pi4: for groups, and for its power profile where it has one.
        groups: further words by which `--on` finds it.
        bridge: its power bridge's port, best by /dev/serial/by-id; "" for none.
        sensor: a sensor as `edge-runtime --sensor` takes it, in place of ``bridge``.
        channel: which sensor of that bridge; None: its first.
        power: a command on this machine, with {action} (on or off), and if wanted {board} and {outlet} in it.
        outlet: which outlet or port it hangs on, for ``power``.
        place: its labgrid place: power through labgrid-client where ``power`` is empty.
        shard: data that `deploy` brings, a path beside the inventory.
        budget_j: joules a round, or None.
        led: the LED of /sys/class/leds that `blink` uses; "": the first that looks like one of the board's own.
        folder: where everything of ours is on the board; relative to the user's home.
        service: one of `SERVICES`.
        sudo: commands on the board go through `sudo -n`.
        python: makes the environment there.
        lock: folder on the board in which a reservation is written down.
        settings: further settings of the device, by key.
    """

    name: str
    host: str
    port: int = 22
    user: str = ""
    key: str = ""
    kind: str = ""
    groups: tuple[str, ...] = ()
    bridge: str = ""
    sensor: str = ""
    channel: int | None = None
    power: str = ""
    outlet: str = ""
    place: str = ""
    shard: str = ""
    budget_j: float | None = None
    led: str = ""
    folder: str = ""
    service: str = "systemd"
    sudo: bool = False
    python: str = "python3"
    lock: str = "/var/tmp/edgejoule-testbed"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place_of_ours(self) -> str:
        """``folder``, or where it is if that is empty."""
        return self.folder or ("/opt/edgejoule" if self.service == "systemd" else "edgejoule")


@dataclass(frozen=True)
class Inventory:
    """A lab.

    Attributes:
        path: its file; relative paths in it are beside it.
        coordinator: HOST:PORT where boards reach the coordinator; "": as a board's token says.
        coordinator_state: state folder of the coordinator, where tokens are made; "": boards are not enrolled.
        known_hosts: file of host keys, as OpenSSH has it.
        parallel: boards at a time.
    """

    path: Path
    name: str
    boards: tuple[Board, ...]
    coordinator: str = ""
    coordinator_state: str = ""
    known_hosts: str = "known_hosts"
    parallel: int = 32

    def beside(self, written: str) -> Path:
        """A path of the inventory as this machine sees it."""
        return self.path.resolve().parent / Path(written).expanduser()


Read = Callable[[Any, str], Any]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or any(ord(text) < 32 for text in value):
        raise ConfigError(f"{value!r} is no text of one line", where=where, fix="give one, in quotes")
    return value


def _host(value: Any, where: str) -> str:
    text = _text(value, where)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:%-]*", text):
        raise ConfigError(f"{text!r} is no host", where=where, fix="give a name or an address")
    return text


def _user(value: Any, where: str) -> str:
    text = _text(value, where)
    if text and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._@-]*", text):
        raise ConfigError(f"{text!r} is no user", where=where, fix="give a name")
    return text


def _word(value: Any, where: str) -> str:
    text = _text(value, where)
    if text and not _WORD.fullmatch(text):
        raise ConfigError(f"{text!r} is no word", where=where, fix="letters, digits, . _ and -")
    return text


def _outlet(value: Any, where: str) -> str:
    return _word(str(value) if isinstance(value, int) and not isinstance(value, bool) else value, where)


def _groups(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and _WORD.fullmatch(item) for item in value):
        raise ConfigError(f"{value!r} is no list of words", where=where, fix='such as ["shelf-a", "coral"]')
    return tuple(value)


def _whole(least: int, most: int) -> Read:
    def read(value: Any, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ConfigError(f"{value!r} is no whole number from {least} to {most}", where=where, fix="correct it")
        return value

    return read


def _joules(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ConfigError(f"{value!r} is no number of joules above 0", where=where, fix="such as 2.5, or leave it out")
    return float(value)


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{value!r} is neither true nor false", where=where, fix="write true or false")
    return value


def _service(value: Any, where: str) -> str:
    if value not in SERVICES:
        raise ConfigError(f"{value!r} is no way to run", where=where, fix=f"choose {' or '.join(SERVICES)}")
    return str(value)


def _path(value: Any, where: str) -> str:
    text = _text(value, where)
    if text.startswith("-"):
        raise ConfigError(f"{text!r} is no path", where=where, fix="correct it")
    return text


def _address(value: Any, where: str) -> str:
    text = _text(value, where)
    if text and host_and_port(text) is None:
        raise ConfigError(f"{text!r} is not HOST:PORT", where=where, fix="such as 192.0.2.7:50461")
    return text


def _power(value: Any, where: str) -> str:
    text = _text(value, where)
    if text and "{action}" not in text:
        raise ConfigError(f"{text!r} does not say {{action}}", where=where, fix="put {action} where on or off belongs")
    return text


def _settings(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict) or any(isinstance(item, dict | list) for item in value.values()):
        raise ConfigError("is no table of settings", where=where, fix="write threads = 2, one a line")
    for key in value:
        if key in ("coordinator", "device_id", "data", "state", "sensor", "board"):
            raise ConfigError("is made from other keys of the inventory", where=f"{where}.{key}", fix="leave it out")
    return dict(value)


_KEYS: Mapping[str, Read] = {
    "host": _host, "port": _whole(1, 65535), "user": _user, "key": _path, "kind": _word, "groups": _groups,
    "bridge": _path, "sensor": _text, "channel": _whole(0, 63), "power": _power, "outlet": _outlet,
    "place": _word, "shard": _path, "budget_j": _joules, "led": _text, "folder": _path, "service": _service,
    "sudo": _flag, "python": _path, "lock": _path, "settings": _settings,
}  # fmt: skip
_LAB: Mapping[str, Read] = {
    "name": _text,
    "coordinator": _address,
    "coordinator_state": _path,
    "known_hosts": _path,
    "parallel": _whole(1, _MOST_PARALLEL),
}


def read(path: Path) -> Inventory:
    """The inventory of a file.

    Raises:
        ConfigError: it cannot be read, or something in it is wrong, by file, board and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        fix = "check the path, or make one with: coordinator testbed init"
        raise ConfigError(f"cannot be read ({reason})", where=str(path), fix=fix) from error
    return parse(text, path)


def parse(text: str, path: Path) -> Inventory:
    """The inventory that a text is; see `read`."""
    where = str(path)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not TOML: {error}", where=where, fix="correct it there") from error
    for name in document:
        if name not in ("lab", "defaults", "board"):
            raise ConfigError(
                f"no section [{name}] is known", where=where, fix=hint(name, ("lab", "defaults", "board"))
            )
    for name in ("lab", "defaults", "board"):
        if not isinstance(document.get(name, {}), dict):
            raise ConfigError(f"{name} is no section", where=where, fix=f"write [{name}]")
    lab = _section(document.get("lab", {}), _LAB, f"{where}: lab")
    defaults = _section(document.get("defaults", {}), _KEYS, f"{where}: defaults")
    for key in ("host", "shard", "bridge", "channel", "place", "outlet"):
        if key in defaults:
            raise ConfigError("differs from board to board", where=f"{where}: defaults.{key}", fix="say it there")
    boards: list[Board] = []
    for name, table in document.get("board", {}).items():
        place = f"{where}: board {name}"
        if not _NAME.fullmatch(name):
            raise ConfigError("is no name", where=place, fix="letters, digits, . _ and -, at most 63")
        if not isinstance(table, dict):
            raise ConfigError("is no section", where=place, fix=f"write [board.{name}]")
        own = _section(table, _KEYS, place)
        if "host" not in own:
            raise ConfigError("has no host", where=place, fix='write host = "192.0.2.11"')
        merged = {**defaults, **own}
        if {"bridge", "sensor"} <= {key for key, value in merged.items() if value}:
            raise ConfigError("has a bridge and a sensor", where=place, fix="keep one of them")
        if merged.get("channel") is not None and not merged.get("bridge"):
            raise ConfigError("there is no bridge that has channels", where=f"{place}: channel", fix="give it a bridge")
        merged["settings"] = {**defaults.get("settings", {}), **own.get("settings", {})}
        boards.append(Board(name, **merged))
    if not boards:
        raise ConfigError("names no board", where=where, fix="write [board.pi-1] and its host")
    _refuse_twins(boards, where)
    return Inventory(path, **{"name": path.stem, **lab}, boards=tuple(boards))


def _section(table: Mapping[str, Any], keys: Mapping[str, Read], where: str) -> dict[str, Any]:
    made = {}
    for key, value in table.items():
        if key not in keys:
            raise ConfigError(f"no key {key!r} is known", where=where, fix=hint(key, tuple(keys)))
        made[key] = keys[key](value, f"{where}: {key}")
    return made


def _refuse_twins(boards: list[Board], where: str) -> None:
    seen: dict[object, str] = {}
    for board in boards:
        if board.name.lower() in seen:
            raise ConfigError("stands in it twice", where=f"{where}: board {board.name}", fix="give each its own name")
        seen[board.name.lower()] = board.name
        # Several boards behind one address are told apart by ports or folders.
        place = (board.host, board.port, board.user, board.place_of_ours)
        if place in seen:
            what = f"is the same place as board {seen[place]}: {board.host}, port {board.port}"
            raise ConfigError(what, where=f"{where}: board {board.name}: host", fix="correct one of them")
        seen[place] = board.name
        if board.bridge and (port := (board.host, board.bridge)) in seen:
            what = f"is the bridge of board {seen[port]} as well"
            raise ConfigError(what, where=f"{where}: board {board.name}: bridge", fix="each board has its own")
        if board.bridge:
            seen[(board.host, board.bridge)] = board.name


def profile_of(board: Board) -> str | None:
    """The power profile of a board's kind, or None."""
    return board.kind if board.kind in BOARDS else None


def as_text(inventory: Inventory, remarks: tuple[str, ...] = ()) -> str:
    """The inventory as TOML, which `parse` reads back alike."""
    lines = [f"# {remark}" for remark in remarks] + ["[lab]", f"name = {_value(inventory.name)}"]
    for key in ("coordinator", "coordinator_state", "known_hosts", "parallel"):
        value = getattr(inventory, key)
        if value != next(each_field.default for each_field in fields(Inventory) if each_field.name == key):
            lines.append(f"{key} = {_value(value)}")
    for board in inventory.boards:
        lines += ["", f"[board.{board.name if '.' not in board.name else _value(board.name)}]"]
        for each_field in fields(Board):
            value = getattr(board, each_field.name)
            if each_field.name in ("name", "settings") or value == each_field.default or value == ():
                continue
            lines.append(f"{each_field.name} = {_value(list(value) if isinstance(value, tuple) else value)}")
        if board.settings:
            inner = ", ".join(f"{key} = {_value(value)}" for key, value in board.settings.items())
            lines.append(f"settings = {{ {inner} }}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
