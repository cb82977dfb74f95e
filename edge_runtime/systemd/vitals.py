"""What the daemon shows of itself while it runs: which environment it is, its engine, and whether it is answered.

It is a small file in ``$RUNTIME_DIRECTORY``, which systemd makes for the unit and removes with it. Whoever watches a
new version on trial reads it: see ``edge_runtime/service/upgrade/trial.py``. An older version reads what a newer one
wrote, so keys are only added.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "vitals.json"


@dataclass(frozen=True)
class Vitals:
    """What was read.

    Attributes:
        pid: of the daemon that wrote it.
        environment: its ``sys.prefix``.
        delegate: kernels of its engine.
        answered_s: CLOCK_MONOTONIC when the coordinator first answered it, or None.
    """

    pid: int
    environment: str
    delegate: str
    answered_s: float | None


class VitalsFile:
    """Writes them; silent where no service manager made a folder. A failure to write never ends the daemon."""

    def __init__(self, path: Path | None, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._path, self._now_s = path, now_s
        self._known: dict[str, object] = {"pid": os.getpid(), "environment": sys.prefix, "answered_s": None}

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> VitalsFile:
        """The one in the first of the folders that systemd names, joined by colons."""
        folder = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        return cls(Path(folder) / FILE if folder.startswith("/") else None)

    def ready(self, *, version: str, engine: str, delegate: str) -> None:
        """The device is open."""
        self._known |= {"version": version, "engine": engine, "delegate": delegate}
        self._write()

    @property
    def wanted(self) -> bool:
        """Whether somebody may wait for the coordinator's first answer, such as the watch over a trial."""
        return self._path is not None and self._known["answered_s"] is None

    def answered(self) -> None:
        """The coordinator took this device in, and answered its question for an order."""
        if self._known["answered_s"] is None:
            self._known["answered_s"] = self._now_s()
            self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        # /run is memory: nothing there survives a power cut, so nothing is forced to a disk.
        with contextlib.suppress(OSError):
            number, name = tempfile.mkstemp(dir=self._path.parent, prefix=f".{FILE}.")
            with os.fdopen(number, "w") as file:
                os.fchmod(file.fileno(), 0o644)
                json.dump(self._known, file)
            os.replace(name, self._path)


def read(path: Path) -> Vitals | None:
    """What stands there; None when nothing does, or nothing that can be read."""
    try:
        found = json.loads(path.read_bytes())
        answered_s = found["answered_s"]
        return Vitals(
            int(found["pid"]),
            str(found["environment"]),
            str(found["delegate"]),
            None if answered_s is None else float(answered_s),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
