"""A Debian 12 with systemd and Python in a folder, made once and kept in the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from hw_tests.boards.board import NoBoard

_SUITE = "bookworm"
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3-venv", "ca-certificates", "procps")
# Units that look for hardware, or for kernel file systems that the box does not show.
_MASKED = (
    "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount", "systemd-udevd.service",
    "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service",
    "systemd-sysctl.service", "systemd-modules-load.service", "systemd-networkd.service", "dev-hugepages.mount",
    "dev-mqueue.mount", "console-getty.service", "systemd-logind.service", "apt-daily.timer", "apt-daily-upgrade.timer",
    "systemd-timesyncd.service", "getty.target", "sys-fs-fuse-connections.mount",
)  # fmt: skip
_TIMEOUT_S = 900.0


def cache() -> Path:
    """Folder for what is made once and is not of any one checkout."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(home) / "edgejoule"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def root_folder() -> Path:
    """The folder; it must not be changed.

    Raises:
        NoBoard: it cannot be made here, and why.
    """
    recipe = "\n".join([_SUITE, platform.machine(), *_PACKAGES, *_MASKED])
    folder = cache() / f"box-root-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    with folder.with_suffix(".lock").open("w") as lock:
        # Two test runs at once make it once.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _make(folder)
    return folder


def _make(folder: Path) -> None:
    if os.geteuid() != 0:
        raise NoBoard("making a root folder needs root")
    if shutil.which("mmdebstrap") is None:
        raise NoBoard("making a root folder needs mmdebstrap (apt-get install mmdebstrap)")
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    hooks = [f'--customize-hook=ln -sf /dev/null "$1/etc/systemd/system/{text}"' for text in _MASKED]
    # The journal of a box is read from its files after a reboot.
    hooks += ['--customize-hook=mkdir -p "$1/var/log/journal"', '--customize-hook=: > "$1/etc/machine-id"']
    command = ["mmdebstrap", "--variant=minbase", "--mode=root", f"--include={','.join(_PACKAGES)}", *hooks]
    try:
        made = subprocess.run(
            [*command, _SUITE, str(part)], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise NoBoard(f"mmdebstrap did not end within {_TIMEOUT_S:g} s; is there a Debian mirror?") from error
    if made.returncode != 0:
        shutil.rmtree(part, ignore_errors=True)
        said = [line for line in made.stderr.splitlines() if line.startswith("E:")] or ["it says nothing"]
        raise NoBoard(f"mmdebstrap failed: {said[0]}")
    part.rename(folder)
