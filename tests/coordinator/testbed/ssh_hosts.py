"""Real SSH servers on this machine, each a host of its own: its host key, its port, its folder. And worse ones."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh
from free_ports import free_ports

SSHD = shutil.which("sshd") or ("/usr/sbin/sshd" if Path("/usr/sbin/sshd").exists() else None)
_CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PasswordAuthentication no
PubkeyAuthentication yes
MaxStartups 200
SetEnv PYTHONPATH={path} HOME={folder}/home
Subsystem sftp internal-sftp
"""


def why_not() -> str | None:
    """Why there can be no SSH servers here, or None."""
    if SSHD is None:
        return "sshd (openssh-server) is not installed"
    if os.geteuid() == 0:
        try:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            return f"sshd needs /run/sshd: {error.strerror}"
    return None


@dataclass
class SshHost:
    """One server. ``folder`` is where its things are; ``home`` in it is where a login begins."""

    name: str
    folder: Path
    address: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    prefix: tuple[str, ...] = ()

    @property
    def board_folder(self) -> Path:
        return self.folder / "edgejoule"

    def start(self, authorized: Path) -> None:
        """Serve; returns at once."""
        key = self.folder / "host_key"
        if not key.exists():
            made = asyncssh.generate_private_key("ssh-ed25519")
            made.write_private_key(key)
            key.chmod(0o600)
        (self.folder / "home").mkdir(exist_ok=True)
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        config = self.folder / "sshd_config"
        config.write_text(
            _CONFIG.format(
                port=self.port, address=self.address, folder=self.folder, authorized=authorized, path=packages
            )
        )
        assert SSHD is not None
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, SSHD, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def new_host_key(self) -> None:
        """As a board has that was set up anew."""
        (self.folder / "host_key").unlink()

    def stop(self) -> None:
        """Serve no longer; connections that are open stay."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def wait_for(hosts: Sequence[SshHost], limit_s: float = 60.0) -> None:
    """Return when all answer."""
    end_s = time.monotonic() + limit_s
    for host in hosts:
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host.address, host.port), 5) as made:
                if made.recv(4) == b"SSH-":
                    break
            if time.monotonic() > end_s:
                raise AssertionError((host.folder / "sshd.log").read_text())
            time.sleep(0.02)


def user_key(folder: Path) -> tuple[Path, Path]:
    """A key that opens every host: the private one, and the file of those who may come in."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    private, authorized = folder / "user_key", folder / "authorized_keys"
    key.write_private_key(private)
    private.chmod(0o600)
    key.write_public_key(authorized)
    return private, authorized


@contextlib.contextmanager
def ssh_hosts(folder: Path, count: int) -> Iterator[tuple[list[SshHost], Path]]:
    """So many servers on loopback, and the private key that opens them."""
    private, authorized = user_key(folder)
    hosts = []
    for number, port in enumerate(free_ports(count), 1):
        place = folder / f"board-{number}"
        place.mkdir()
        hosts.append(SshHost(f"board-{number}", place, "127.0.0.1", port))
    try:
        for host in hosts:
            host.start(authorized)
        wait_for(hosts)
        yield hosts, private
    finally:
        for host in hosts:
            host.stop()


def inventory_text(hosts: Sequence[SshHost], key: Path, *, more: str = "", kinds: Sequence[str] = ("pi4",)) -> str:
    """An inventory of these hosts; ``more`` goes to [lab]."""
    lines = ["[lab]", 'name = "lab"', more, "[defaults]", f'user = "{getpass.getuser()}"', f'key = "{key}"']
    lines += ['service = "process"', f'python = "{base_python(key.parent)}"']
    for index, host in enumerate(hosts):
        lines += ["", f"[board.{host.name}]", f'host = "{host.address}"', f"port = {host.port}"]
        lines += [f'kind = "{kinds[index % len(kinds)]}"', f'folder = "{host.board_folder}"']
        lines += [f'lock = "{host.folder / "lock"}"']
    return "\n".join(lines) + "\n"


def base_python(folder: Path) -> Path:
    """The Python that environments are made with, as on a board whose system brings pip."""
    path, real = folder / "python", getattr(sys, "_base_executable", "") or sys.executable
    path.write_text(
        f'#!/bin/sh\ncase "$*" in "-m venv "*) exec {real} -m venv --without-pip "$3";; *) exec {real} "$@";; esac\n'
    )
    path.chmod(0o755)
    return path


class Silent:
    """A server that takes connections and says nothing."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Cutting:
    """Between a client and a host: carries bytes until so many have gone to the host, then cuts, once."""

    def __init__(self, host: SshHost, after_bytes: int) -> None:
        self._host, self._left = host, after_bytes
        self.has_cut = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        accepting = threading.Thread(target=self._accept)
        self._threads.append(accepting)
        accepting.start()

    def __enter__(self) -> Cutting:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            far = socket.create_connection((self._host.address, self._host.port))
            self._open += [near, far]
            for source, target, up in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._carry, args=(source, target, up))
                self._threads.append(thread)
                thread.start()

    def _carry(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                target.sendall(data)
                if up and not self.has_cut:
                    self._left -= len(data)
                    if self._left <= 0:
                        self.has_cut = True
                        break
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
