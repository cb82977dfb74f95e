"""`edge-runtime` as users call it: a process of its own, without the settings of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys

ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("EDGEJOULE_")}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edge_runtime.cli", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRON, timeout=120, check=False)
