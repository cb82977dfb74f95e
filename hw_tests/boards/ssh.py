"""A real board, reached by the system's ssh."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from hw_tests.boards.board import BoardError, NoBoard, checked

_BOOT_S = 300.0
_UNREACHED = 255  # ssh(1): its own errors


class SshBoard:
    """See ``Board``. Nobody is asked for a password: keys and host keys must be known to ssh.

    Args:
        host: as for ssh, such as ``pi@pi-1``; a user other than root must be allowed ``sudo`` without a password.
        options: more words for ssh, such as ``-p 2222``.

    Raises:
        NoBoard: it does not answer.
    """

    simulated = False

    def __init__(self, host: str, options: tuple[str, ...] = ()) -> None:
        self.name = host
        self._ssh = ["ssh", "-oBatchMode=yes", "-oConnectTimeout=10", "-oServerAliveInterval=15", *options, host]
        self._tunnels: dict[int, subprocess.Popen[bytes]] = {}
        try:
            self._sudo = [] if self._call(["id", "-u"], 30.0).stdout.strip() == "0" else ["sudo", "-n"]
            done = self._call([*self._sudo, "test", "-d", "/run/systemd/system"], 30.0)
        except (BoardError, OSError) as error:
            raise NoBoard(f"{host} cannot be reached: {error}") from error
        if done.returncode == _UNREACHED:
            raise NoBoard(f"{host} cannot be reached: {done.stderr.strip()[-200:]}")
        self.has_systemd = done.returncode == 0

    def run(
        self, *words: str, timeout_s: float = 120.0, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        more = [f"{name}={value}" for name, value in (env or {}).items()]
        command = [*self._sudo, "env", "LANG=C.UTF-8", "SYSTEMD_PAGER=", *more, *words]
        return checked(self.name, words, self._call(command, timeout_s), check=check)

    def put(self, source: Path, target: str) -> None:
        parent, _, name = target.rpartition("/")
        self.run("mkdir", "-p", parent or "/")
        self.run("rm", "-rf", target)
        pack = ["tar", "-C", str(source.parent), "--owner=0", "--group=0", "-cf", "-", source.name]
        self._pipe(pack, self._remote("tar", "-C", parent or "/", f"--transform=s,^{source.name},{name},", "-xf", "-"))

    def get(self, source: str, target: Path) -> None:
        parent, _, name = source.rpartition("/")
        unpack = ["tar", "-C", str(target.parent), f"--transform=s,^{name},{target.name},", "-xf", "-"]
        self._pipe(self._remote("tar", "-C", parent or "/", "-cf", "-", name), unpack)

    def reboot(self, *, hard: bool = False) -> None:
        before = self.run("cat", "/proc/sys/kernel/random/boot_id").stdout
        # sysrq b resets at once: no service is told, no disk is written to.
        how = ("sh", "-c", "echo b > /proc/sysrq-trigger") if hard else ("systemctl", "reboot")
        with contextlib.suppress(BoardError):
            self.run(*how, timeout_s=15.0, check=False)
        end_s = time.monotonic() + _BOOT_S
        while time.monotonic() < end_s:
            with contextlib.suppress(BoardError):
                now = self.run("cat", "/proc/sys/kernel/random/boot_id", timeout_s=20.0, check=False)
                if now.returncode == 0 and now.stdout != before:
                    self._wait_until_up(end_s)
                    for port in list(self._tunnels):
                        self.expose(port)
                    return
            time.sleep(2.0)
        raise BoardError(f"{self.name} did not come back within {_BOOT_S:g} s")

    def expose(self, port: int) -> None:
        if port in self._tunnels:
            self._tunnels.pop(port).kill()
        words = ["-N", "-oExitOnForwardFailure=yes", "-R", f"127.0.0.1:{port}:127.0.0.1:{port}"]
        tunnel = subprocess.Popen([*self._ssh[:-1], *words, self._ssh[-1]], stdin=subprocess.DEVNULL)
        self._tunnels[port] = tunnel
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise BoardError(f"{self.name}: no tunnel for port {port} (ssh left with {tunnel.wait(5.0)})")

    def close(self) -> None:
        for tunnel in self._tunnels.values():
            tunnel.kill()
            tunnel.wait()
        self._tunnels.clear()

    def _wait_until_up(self, end_s: float) -> None:
        while self.has_systemd and time.monotonic() < end_s:
            if self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                return
            time.sleep(1.0)

    def _remote(self, *words: str) -> list[str]:
        return [*self._ssh, shlex.join([*self._sudo, *words])]

    def _call(self, words: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [*self._ssh, shlex.join(words)], capture_output=True, text=True, errors="replace", check=False,
                timeout=timeout_s, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BoardError(f"{self.name}: {shlex.join(words)} did not end within {timeout_s:g} s") from error

    def _pipe(self, pack: list[str], unpack: list[str]) -> None:
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
            done = subprocess.run(
                unpack, stdin=packing.stdout, capture_output=True, text=True, check=False, timeout=600.0
            )
        if packing.returncode or done.returncode:
            raise BoardError(f"{self.name}: copying failed\n{done.stderr.strip()[-500:]}")
