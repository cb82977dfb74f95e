"""`firmware-tools` as users call it, in a process of its own, and what one call leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one call of a verb left behind."""

    verb: str
    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        assert self.code == 0, self.stderr
        value: dict[str, Any] = json.loads(self.stdout)
        return value

    @property
    def complaint(self) -> str:
        """The one line of an error; the verb's lines of progress, or of a compiler's command, come before it."""
        assert "Traceback" not in self.stderr
        lines = [line for line in self.stderr.splitlines() if not line.startswith(f"firmware-tools {self.verb}:")]
        assert len(lines) == 1, self.stderr
        return lines[0]


def call(*arguments: str | Path, cwd: Path | None = None, **variables: str) -> Outcome:
    """Call `firmware-tools` from a folder, with variables beside those of this process."""
    command = [sys.executable, "-m", "firmware_tools.cli", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **variables}, check=False
    )
    return Outcome(str(arguments[0]), done.returncode, done.stdout, done.stderr)
