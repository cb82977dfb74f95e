"""Who this device is: the machine it runs on, the name it takes of that, and the state that it keeps.

Host names are not unique: every fresh Raspberry Pi OS calls itself ``raspberrypi``. The machine's id is, and the serial
number of the board tells two machines apart whose cards were copied. Neither is ever sent: a short hash of them is.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.state import storing
from edge_runtime.systemd.logging_setup import log
from protos.atomic import write_whole
from protos.errors import StoreError

_FILES = ("etc/machine-id", "var/lib/dbus/machine-id", "proc/device-tree/serial-number")
_FILE = "instance.json"
_HASH_LENGTH = 6
# Of a name of 64 characters, what a hyphen and the hash leave.
_MOST_HOST = 64 - 1 - _HASH_LENGTH


def machine_hash(root: Path = Path("/")) -> str:
    """64 hexadecimal digits that are another on every machine; empty where the machine does not say who it is.

    Args:
        root: of the machine's files.
    """
    told = []
    for name in _FILES:
        try:
            text = (root / name).read_bytes().strip(b"\0\n ")
        except OSError:
            continue
        if text and text != b"uninitialized":
            told.append(text)
    return hashlib.sha256(b"edgejoule\0" + b"\0".join(dict.fromkeys(told))).hexdigest() if told else ""


def default_device_id(root: Path = Path("/")) -> str:
    """Host name and the first digits of the machine's hash, such as ``raspberrypi-3f9a1c``."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).strip("-._")[:_MOST_HOST] or "device"
    machine = machine_hash(root)[:_HASH_LENGTH]
    return f"{host}-{machine}" if machine else host


@dataclass(frozen=True)
class Instance:
    """A state and whom it belongs to.

    Attributes:
        name: drawn when the state was begun, or when it was found on another machine.
        copied: it came from another machine.
    """

    name: str
    copied: bool = False


def take_instance(state: Path, machine: str) -> Instance:
    """The instance of a state folder, which remembers its machine. A copy on another machine begins a new one.

    Args:
        machine: of :func:`machine_hash`; empty: it cannot be told, and nothing is concluded.
    """
    path = state / _FILE
    name = owner = ""
    try:
        found = json.loads(path.read_bytes())
        name, owner = str(found["instance"]), str(found["machine"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        log().warning("%s: unreadable, and begun anew (%s)", path, error)
    copied = bool(name and owner and machine and owner != machine)
    if name and not copied and (owner or not machine):
        return Instance(name)
    if not name or copied:
        name = uuid.uuid4().hex
    try:
        with storing(path), write_whole(path) as file:
            file.write(json.dumps({"instance": name, "machine": machine}).encode())
    except StoreError as error:
        log().warning("%s; after a restart this device looks like another one", error)
    return Instance(name, copied)
