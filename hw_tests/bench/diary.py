"""What was done to a bench, with the time: the first thing to read after a failure."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

__all__ = ["Diary"]


class Diary:
    """Lines of text, each with UTC and the host's monotonic seconds. Any thread may write."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        """Write a line."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._lock:
            self.lines.append(f"{now} {time.monotonic():.6f} {text}")

    def save(self, path: Path) -> None:
        """Write them all."""
        with self._lock:
            path.write_text("".join(f"{line}\n" for line in self.lines))
