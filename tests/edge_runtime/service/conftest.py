"""The other ends of the daemon's messages: real datagram sockets, and a machine's root in a folder."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from upgrade_rig import Rig


class Listener:
    """A datagram socket as systemd and its journal have one; keeps the order of what it hears."""

    def __init__(self, path: str) -> None:
        self.address = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{path[1:]}" if path.startswith("@") else path)
        self._socket.setblocking(False)
        self._heard: list[bytes] = []
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._reader: threading.Thread | None = None

    def keep_reading(self) -> None:
        """Make room all the time from here on, as systemd does: the queue of a socket holds few datagrams."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._closing.is_set():
            select.select([self._socket], [], [], 0.05)
            with self._lock:
                self._drain()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._heard.append(self._socket.recv(1 << 17))

    def take(self) -> list[bytes]:
        """All datagrams that came since the last call."""
        with self._lock:
            self._drain()
            taken, self._heard = self._heard, []
            return taken

    def close(self) -> None:
        self._closing.set()
        if self._reader is not None:
            self._reader.join()
        self._socket.close()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A socket's path has room for 107 bytes, which a test's own folder may be longer than."""
    folder = Path(tempfile.mkdtemp(prefix="ej-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def listener(short_folder: Path) -> Iterator[Listener]:
    one = Listener(str(short_folder / "socket"))
    yield one
    one.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's root with a configuration in it."""
    root = tmp_path / "root"
    (root / "etc/edgejoule").mkdir(parents=True)
    (root / "etc/group").write_text("root:x:0:\ndialout:x:20:pi\n")
    (root / "etc/edgejoule/device.toml").write_text(
        'device_id = "pi-1"\ndata = "digits.npz"\nsensor = "serial:/dev/ttyUSB0?shunt=0.02"\n'
        "cpu_quota_percent = 150\nmemory_max_mb = 256\n"
    )
    return root


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """A machine with a service of an old version, and the wheel of a new one."""
    made = Rig(tmp_path / "root")
    made.root.mkdir()
    made.make()
    return made
