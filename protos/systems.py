"""Which parts run on which systems, said at once by those that do not run here.

Devices meter with what Linux has (serial locks, /proc, /sys, signals that name their sender), and the demo's simulated
bridges are pseudo-terminals that are watched through /proc.
"""

from __future__ import annotations

import sys

from protos.errors import RefusedError

LINUX, MACOS, WINDOWS = "linux", "darwin", "win32"
_NAMES = {LINUX: "Linux", MACOS: "macOS", WINDOWS: "Windows"}


def require_system(what: str, *systems: str) -> None:
    """Refuse what does not run on this system.

    Raises:
        RefusedError: this is none of ``systems``.
    """
    if sys.platform not in systems:
        here = _NAMES.get(sys.platform, sys.platform)
        there = " or ".join(_NAMES[system] for system in systems)
        fix = "use a Linux machine, or WSL on Windows; `coordinator serve` and the operators' commands run everywhere"
        raise RefusedError(f"{what} needs {there}, and this is {here}", fix=fix)
