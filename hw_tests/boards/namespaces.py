"""systemd as process 1 of its own namespaces, on this machine, over a root folder.

What it takes, and why:

* A cgroup of its own in every hierarchy that is mounted here, handed over as the root of what the box sees: version 2
  alone, or version 1 with a version 2 beside it. Only version 1 limits memory where the machine keeps its controllers
  there.
* Mount, host name, IPC, process and cgroup namespaces. The network is this machine's, so that a coordinator on loopback
  is on the box's loopback too.
* Mounts are made shared again before systemd starts: credentials need it.
* A boot id of its own for each boot, as a real machine has one.

It is a test fixture and no sandbox: the box keeps root's capabilities.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

from hw_tests.boards.board import BoardError, NoBoard, checked

_CGROUPS = Path("/sys/fs/cgroup")
# Controllers of version 1 that systemd uses; the hierarchy named "systemd" has none.
_V1 = ("systemd", "memory", "pids", "devices", "cpu", "cpuacct", "blkio", "freezer")
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BOOT_S = 90.0
PREFIX = "edgejoule-box-"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

_START = """
set -eu
mount --make-rprivate /
mount -t overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" overlay "$R"
mount -t proc proc "$R/proc"
mount -t sysfs -o ro sysfs "$R/sys"
if [ -n "$V1" ]; then
    mount -t tmpfs -o mode=755 tmpfs "$R/sys/fs/cgroup"
    for one in $V1; do
        options=$one
        [ "$one" = systemd ] && options=none,name=systemd
        mkdir "$R/sys/fs/cgroup/$one"
        mount -t cgroup -o "$options" cgroup "$R/sys/fs/cgroup/$one"
    done
    if [ -n "$V2" ]; then
        mkdir "$R/sys/fs/cgroup/unified"
        mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup/unified"
    fi
else
    mount -t cgroup2 cgroup2 "$R/sys/fs/cgroup"
fi
mount -t tmpfs -o mode=755 tmpfs "$R/dev"
for one in $DEVICES; do touch "$R/dev/$one"; mount --bind "/dev/$one" "$R/dev/$one"; done
mkdir "$R/dev/pts" "$R/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$R/dev/shm"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
touch "$R/dev/console"
mount --bind "$CONSOLE" "$R/dev/console"
mount -t tmpfs -o mode=755 tmpfs "$R/run"
mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
printf '%s\\n' "$BOOT_ID" > "$R/run/boot-id"
mount --bind "$R/run/boot-id" "$R/proc/sys/kernel/random/boot_id"
hostname "$NAME"
cd "$R"
mkdir -p .before
pivot_root . .before
umount -l /.before
mount --make-rshared /
exec env -i container=other $INIT
"""


def why_not() -> str | None:
    """Why no systemd can be booted here, or None."""
    if os.geteuid() != 0:
        return "booting a box needs root"
    if not _hierarchies()[0] and not _hierarchies()[1]:
        return "booting a box needs a cgroup file system at /sys/fs/cgroup"
    for name in _made("probe"):
        try:
            name.mkdir()
            name.rmdir()
        except OSError as error:
            return f"booting a box needs the right to make cgroups ({name}: {error.strerror})"
    return None


def _hierarchies() -> tuple[tuple[str, ...], Path | None]:
    """Hierarchies of version 1 that are mounted, and where version 2 is."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return (), _CGROUPS
    # A controller that shares its hierarchy with another is a link to a name such as "cpu,cpuacct".
    found = dict.fromkeys((_CGROUPS / text).resolve().name for text in _V1)
    v1 = tuple(text for text in found if (_CGROUPS / text / "cgroup.procs").exists())
    unified = _CGROUPS / "unified"
    return v1, unified if (unified / "cgroup.controllers").exists() else None


def _made(name: str) -> list[Path]:
    v1, v2 = _hierarchies()
    return [*((_CGROUPS / text / name) for text in v1), *([v2 / name] if v2 else [])]


def sweep() -> None:
    """Remove what boxes of test runs that are gone have left."""
    for pattern in _made(f"{PREFIX}*"):
        for folder in pattern.parent.glob(pattern.name):
            if not Path(f"/proc/{folder.name.removeprefix(PREFIX)}").exists():
                with contextlib.suppress(NoBoard):
                    _remove_cgroups(folder)


class Namespaces:
    """A root folder that is booted, and can be booted again.

    Args:
        root: the folder; it is not changed.
        scratch: keeps all that the box writes, from boot to boot.
        name: of host and cgroups; unique on this machine.
    """

    def __init__(self, root: Path, scratch: Path, name: str) -> None:
        self._lower, self._scratch, self.name = root, scratch, name
        self.console = scratch / "console"
        for part in ("upper", "work", "root"):
            (scratch / part).mkdir(exist_ok=True)
        # What an overlay may not have in its options would split them.
        assert not set(",:") & set(f"{root}{scratch}"), (root, scratch)
        self._outer: subprocess.Popen[bytes] | None = None
        self._init = 0

    def boot(self) -> None:
        """Boot, and come back when systemd says that it is up.

        Raises:
            BoardError: it does not come up.
        """
        self.console.write_bytes(b"")
        v1, v2 = _hierarchies()
        folders = _made(self.name)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        init = "/sbin/init systemd.unified_cgroup_hierarchy=0" if v1 else "/sbin/init"
        environ = {
            "PATH": os.environ.get("PATH", ""), "R": str(self._scratch / "root"), "NAME": self.name,
            "CONSOLE": str(self.console),
            "V1": " ".join(v1), "V2": "yes" if v2 else "", "DEVICES": " ".join(_DEVICES), "INIT": init,
            "BOOT_ID": str(uuid.uuid4()), "LOWER": str(self._lower), "UPPER": str(self._scratch / "upper"),
            "WORK": str(self._scratch / "work"),
        }  # fmt: skip
        join = "; ".join(f"echo $$ > {shlex.quote(str(folder / 'cgroup.procs'))}" for folder in folders)
        spaces = "--mount --uts --ipc --pid --cgroup --fork --kill-child"
        with self.console.open("ab") as out:
            self._outer = subprocess.Popen(
                ["/bin/sh", "-euc", f'{join}; exec unshare {spaces} -- /bin/sh -c "$START"'],
                env={**environ, "START": _START}, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True, preexec_fn=_end_with_parent,
            )  # fmt: skip
        end_s = time.monotonic() + _BOOT_S
        while not self._up():
            if time.monotonic() > end_s or self._outer.poll() is not None:
                said = self.console.read_text(errors="replace")[-2000:]
                self.kill()
                raise BoardError(f"{self.name} does not boot\n{said}")
            time.sleep(0.05)

    def words(self, *words: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command of this machine that runs those words in the box."""
        more = [f"{name}={value}" for name, value in (env or {}).items()]
        enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-p", "-C", "--wdns=/", "--"]
        clean = ["/usr/bin/env", "-i", _PATH, "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER="]
        return [*enter, *clean, *more, *words]

    def _up(self) -> bool:
        assert self._outer is not None
        # unshare becomes the parent of process 1 of the box.
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
            if len(children) != 1 or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
                return False
            self._init = int(children[0])
            state = self.run("systemctl", "is-system-running", timeout_s=30.0, check=False).stdout.strip()
            return state in ("running", "degraded")
        return False

    def run(
        self, *words: str, timeout_s: float = 120.0, check: bool = True, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """See ``Board.run``."""
        try:
            done = subprocess.run(
                self.words(*words, env=env), capture_output=True, text=True, errors="replace", check=False,
                timeout=timeout_s, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise BoardError(f"{self.name}: {' '.join(words)} did not end within {timeout_s:g} s") from error
        return checked(self.name, words, done, check=check)

    def shut_down(self) -> None:
        """Let systemd end everything in its order, and wait until it has."""
        assert self._outer is not None
        self.run("systemctl", "poweroff", check=False)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._outer.wait(_BOOT_S)

    def kill(self) -> None:
        """End every process in it at once, like a power cut, and give the cgroups back."""
        if self._outer is not None:
            with contextlib.suppress(ProcessLookupError):
                # Process 1 of a namespace takes all others with it.
                os.kill(self._init or self._outer.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._outer.wait(10.0)
            self._outer.kill()
            self._outer.wait()
        self._outer, self._init = None, 0
        for folder in _made(self.name):
            _remove_cgroups(folder)


def _end_with_parent() -> None:
    """A box does not outlive the tests, however they end."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <sys/prctl.h>


def _remove_cgroups(folder: Path) -> None:
    end_s = time.monotonic() + 10.0
    while folder.exists():
        for text, _, _ in os.walk(folder, topdown=False):
            # A process that was killed keeps its cgroup until it is gone.
            with contextlib.suppress(OSError):
                os.rmdir(text)
        if time.monotonic() > end_s:
            raise NoBoard(f"{folder} cannot be removed: a process is left in it")
        time.sleep(0.05)
